"""The feed-forward block's matmuls with GELU, or its gradient, in the epilogue: what a pass over memory would cost is
hidden behind the next tile's multiplication. They run in 16 bits or in fp8, and leave what the next matmul reads.

The kernel is in Gluon, Triton's language for what Triton's compiler decides itself: which warps load, multiply and
finish, and in which shared memory. It is made for Hopper alone, and Gluon changes from release to release. So
`has_epilogue` says where it runs, and everywhere else a matmul and a pass (gelu.py) do the same.

Shape suffixes: T tokens, H hidden size, I width between the two matmuls.
"""

from types import MappingProxyType

import torch
import triton
from torch import Tensor

from kernels.column_sums import column_sums
from kernels.fused import fp8
from kernels.fused.fp8 import Rows
from kernels.fused.linear import Prepared, Weight, is_fp8
from kernels.launch import n_multiprocessors

if triton.__version__.startswith(("3.6.", "3.7.")):
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from kernels.fused.gelu_matmul_kernel import gelu_matmul
else:
    gelu_matmul = None

CAPABILITY = (9, 0)

TILE_ROWS, TILE_COLUMNS = 128, 256
STAGE_BYTES = 128  # of a row, in one of the stages that the matmul is loaded in
WARPS = 8  # of the epilogue
# They fill a multiprocessor: 2 x 4 + 8 + 4 warps (the loader has three idle ones) share 65,536 registers.
SETTINGS = MappingProxyType(
    {
        "stages": 3,
        "warps": WARPS,
        "multiplier_registers": 160,
        "epilogue_registers": 64,
        "loader_registers": 24,
        "num_warps": 4,
    }
)
ROWS_FORWARD, ROWS_BACKWARD = 16, 8  # that the epilogue takes at a time


def has_epilogue(states: Tensor, hidden_size: int, inner_size: int) -> bool:
    """Whether `gelu_linear` and `gelu_input_gradient` run where activations have the device and dtype of `states`."""
    if gelu_matmul is None or not (states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)):
        return False
    is_hopper = torch.cuda.get_device_capability(states.device) == CAPABILITY
    return is_hopper and hidden_size % STAGE_BYTES == 0 and inner_size % TILE_COLUMNS == 0


def gelu_linear(
    inputs_TH: Tensor | None, first: Prepared, inputs_rows: Rows | None, rows: Rows | None, tanh: bool
) -> tuple[Tensor, Tensor | None]:
    """Inputs times the transpose of a weight (I, H), plus a bias: (T, I); and GELU of that, or its form by tanh.

    Args:
        inputs_TH: contiguous; not read where the weight is in fp8.
        inputs_rows: the inputs in fp8, where the weight is.
        rows: room for the second result in fp8, where the weight is; its scales come from a bound. As `rows.largest`
            says, the result is left there alone, and None is returned for it.
    """
    weight, bias_I, *_ = first
    left, right, factors = inputs_TH, weight[0], None
    if is_fp8(weight):
        quantized = fp8.Weight(*weight)
        left, right = inputs_rows.values, quantized.rows
        factors = inputs_rows.scale, inputs_rows.norm, quantized.scale, quantized.row_norm, first.largest_bias
    inner_TI = bias_I.new_empty(len(left), len(bias_I))
    outputs_TI = _beside(rows, inner_TI)
    _launch(left, right, inner_TI, outputs_TI, factors, rows, tanh, bias=bias_I)
    return inner_TI, outputs_TI


def gelu_input_gradient(
    gradient_TH: Tensor | None,
    last: Weight,
    gradient_rows: Rows | None,
    inner_TI: Tensor,
    rows: Rows | None,
    tanh: bool,
) -> tuple[Tensor | None, Tensor]:
    """The gradient of `inner_TI`, from that of GELU's output times the transpose of a weight (H, I).

    Arguments are as in `gelu_linear`.

    Returns:
        (T, I) or None; and (I,) in fp32, its sum over T before it was rounded, which is the gradient of the bias.
    """
    left, right, factors = gradient_TH, last[0], None
    if is_fp8(last):
        quantized = fp8.Weight(*last)
        left, right = gradient_rows.values, quantized.columns
        factors = gradient_rows.scale, gradient_rows.norm, quantized.scale, quantized.column_norm
    result_TI = _beside(rows, inner_TI)
    n_rows = _thread_blocks_per_strip(inner_TI) * WARPS
    partial = torch.empty(n_rows, inner_TI.shape[1], dtype=torch.float32, device=inner_TI.device)
    _launch(left, right, inner_TI, result_TI, factors, rows, tanh, partial=partial)
    return result_TI, column_sums(partial)


def _beside(rows: Rows | None, inner_TI: Tensor) -> Tensor | None:
    """Room for a result in 16 bits, where somebody reads it there."""
    return torch.empty_like(inner_TI) if rows is None or rows.largest is None else None


def _launch(
    left: Tensor,
    right: Tensor,
    inner_TI: Tensor,
    result_TI: Tensor | None,
    factors: tuple[Tensor, ...] | None,
    rows: Rows | None,
    tanh: bool,
    bias: Tensor | None = None,
    partial: Tensor | None = None,
) -> None:
    """Forward with a bias, backward with partial sums; left (T, H), right (I, H), or (H, I) backward in 16 bits."""
    depth = STAGE_BYTES // left.element_size()
    n_strips = inner_TI.shape[1] // TILE_COLUMNS
    is_forward, in_fp8 = partial is None, factors is not None
    descriptors = (
        _described(left, TILE_ROWS, depth),
        _described(right, *((TILE_COLUMNS, depth) if is_forward or in_fp8 else (depth, TILE_COLUMNS))),
        _described(inner_TI, TILE_ROWS // 2, TILE_COLUMNS),
    )
    tensors = inner_TI, result_TI, factors, rows and rows.pointers, bias, partial
    n_tiles = triton.cdiv(len(inner_TI), TILE_ROWS), n_strips, left.shape[1] // depth
    constants = {"by_tanh": tanh, "is_forward": is_forward, "in_fp8": in_fp8, **SETTINGS}
    constants["rows"] = ROWS_FORWARD if is_forward else ROWS_BACKWARD
    grid = (n_strips * _thread_blocks_per_strip(inner_TI),)
    gelu_matmul[grid](*descriptors, *tensors, len(inner_TI), *n_tiles, **constants)


def _thread_blocks_per_strip(inner_TI: Tensor) -> int:
    n_tokens, inner_size = inner_TI.shape
    at_once = n_multiprocessors(inner_TI.device) // (inner_size // TILE_COLUMNS)
    return max(1, min(at_once, triton.cdiv(n_tokens, TILE_ROWS)))


def _described(matrix: Tensor, *block: int):
    """What TMA needs to know to copy blocks of a matrix; of this call, for its address is in it."""
    dtypes = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, fp8.E4M3: gl.float8e4nv}
    layout = gl.NVMMASharedLayout.get_default_for(block, dtypes[matrix.dtype])
    return TensorDescriptor.from_tensor(matrix, block, layout)
