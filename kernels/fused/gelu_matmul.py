"""The feed-forward block's matmuls with GELU, or its gradient, in the epilogue: what a pass over memory would cost is
hidden behind the next tile's multiplication.

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
from kernels.launch import n_multiprocessors

if triton.__version__.startswith(("3.6.", "3.7.")):
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from kernels.fused.gelu_matmul_kernel import gelu_matmul
else:
    gelu_matmul = None

CAPABILITY = (9, 0)

TILE_ROWS, TILE_COLUMNS, DEPTH = 128, 256, 64
WARPS = 8  # of the epilogue
# They fill a multiprocessor: 2 x 4 + 8 + 4 warps (the loader has three idle ones) share 65,536 registers.
SETTINGS = MappingProxyType(
    {
        "stages": 3,
        "rows": 16,
        "warps": WARPS,
        "multiplier_registers": 160,
        "epilogue_registers": 64,
        "loader_registers": 24,
        "num_warps": 4,
    }
)


def has_epilogue(inputs_TH: Tensor, inner_size: int) -> bool:
    """Whether `gelu_linear` and `gelu_input_gradient` run with these inputs, or this gradient."""
    if gelu_matmul is None or not (inputs_TH.is_cuda and inputs_TH.dtype in (torch.bfloat16, torch.float16)):
        return False
    is_hopper = torch.cuda.get_device_capability(inputs_TH.device) == CAPABILITY
    return is_hopper and inputs_TH.shape[1] % DEPTH == 0 and inner_size % TILE_COLUMNS == 0


def gelu_linear(inputs_TH: Tensor, weight_IH: Tensor, bias_I: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    """Inputs times the transpose of a weight, plus a bias: (T, I); and GELU of that, or its form by tanh.

    All are contiguous and of one dtype.
    """
    inner_TI = inputs_TH.new_empty(len(inputs_TH), len(weight_IH))
    outputs_TI = torch.empty_like(inner_TI)
    descriptors = (
        _described(inputs_TH, TILE_ROWS, DEPTH),
        _described(weight_IH, TILE_COLUMNS, DEPTH),
        _described(inner_TI, TILE_ROWS // 2, TILE_COLUMNS),
        _described(outputs_TI, TILE_ROWS // 2, TILE_COLUMNS),
    )
    _launch(descriptors, bias_I, None, inputs_TH, inner_TI, tanh)
    return inner_TI, outputs_TI


def gelu_input_gradient(gradient_TH: Tensor, weight_HI: Tensor, inner_TI: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    """The gradient of `inner_TI`, from that of GELU's output times the transpose of a weight.

    All are contiguous and of one dtype.

    Returns:
        (T, I); and (I,) in fp32, its sum over T before it was rounded, which is the gradient of the bias.
    """
    result_TI = torch.empty_like(inner_TI)
    descriptors = (
        _described(gradient_TH, TILE_ROWS, DEPTH),
        _described(weight_HI, DEPTH, TILE_COLUMNS),
        _described(inner_TI, SETTINGS["rows"], TILE_COLUMNS),
        _described(result_TI, TILE_ROWS // 2, TILE_COLUMNS),
    )
    n_rows = _thread_blocks_per_strip(inner_TI) * WARPS
    partial = torch.empty(n_rows, inner_TI.shape[1], dtype=torch.float32, device=inner_TI.device)
    _launch(descriptors, None, partial, gradient_TH, inner_TI, tanh)
    return result_TI, column_sums(partial)


def _launch(descriptors, bias, partial, inputs_TH: Tensor, inner_TI: Tensor, tanh: bool) -> None:
    n_strips = inner_TI.shape[1] // TILE_COLUMNS
    n_tiles = triton.cdiv(len(inner_TI), TILE_ROWS), n_strips, inputs_TH.shape[1] // DEPTH
    grid = (n_strips * _thread_blocks_per_strip(inner_TI),)
    gelu_matmul[grid](*descriptors, bias, partial, *n_tiles, by_tanh=tanh, **SETTINGS)


def _thread_blocks_per_strip(inner_TI: Tensor) -> int:
    n_tokens, inner_size = inner_TI.shape
    at_once = n_multiprocessors(inner_TI.device) // (inner_size // TILE_COLUMNS)
    return max(1, min(at_once, triton.cdiv(n_tokens, TILE_ROWS)))


def _described(matrix: Tensor, *block: int):
    """What TMA needs to know to copy blocks of a matrix; of this call, for its address is in it."""
    dtype = gl.bfloat16 if matrix.dtype == torch.bfloat16 else gl.float16
    return TensorDescriptor.from_tensor(matrix, block, gl.NVMMASharedLayout.get_default_for(block, dtype))
