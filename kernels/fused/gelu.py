"""GELU and its gradient at the speed of memory: the exact one and its tanh form.

The activation lies between the widest tensors of the model, so a pass over them is all it should cost, and erf as
compilers have it costs as much again in arithmetic. Here erf(|z|) = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1
+ p |z|), off by 1.5e-7 at most, below fp32's own rounding of the multiplication it goes into. exp(-z^2) is the normal
density as well, which the gradient needs anyway. The tanh form has (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)) in place of
Phi, u a cubic in x: tanh as the hardware has it keeps 11 bits. Each thread block has whole rows, so that both
directions can leave their result in fp8 beside (kernels/fused/fp8.py).

Sources: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415; Abramowitz and Stegun 1964, formula 7.1.26.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.column_sums import column_sums
from kernels.fused.fp8 import Rows, kind_of_result, leave_largest, store_rows
from kernels.launch import n_staying_blocks
from kernels.tuning import settings

NARROW_COLUMNS = 3072  # at most in the rows that are narrow

ERF_P = tl.constexpr(0.3275911)
ERF_1 = tl.constexpr(0.254829592)
ERF_2 = tl.constexpr(-0.284496736)
ERF_3 = tl.constexpr(1.421413741)
ERF_4 = tl.constexpr(-1.453152027)
ERF_5 = tl.constexpr(1.061405429)
HALF_LOG2_E = tl.constexpr(0.7213475204444817)  # exp(-x^2 / 2) = 2^(-x^2 log2(e) / 2)
SQRT_HALF = tl.constexpr(0.7071067811865476)
LOG2_DENSITY_AT_0 = tl.constexpr(-1.3257480647361593)  # of 1 / sqrt(2 pi)
HALF_BY_DENSITY = tl.constexpr(1.2533141373155001)  # 1/2 over the density at 0, sqrt(pi / 2)

# 2 u = sqrt(8 / pi) (x + 0.044715 x^3), as an exponent of 2, and its derivative
EXPONENT_1 = tl.constexpr(2.302208198144325)
EXPONENT_3 = tl.constexpr(0.1029432395800235)
SLOPE_0 = tl.constexpr(1.5957691216057308)
SLOPE_2 = tl.constexpr(0.21406444881780073)
LARGEST_SQUARE = tl.constexpr(256.0)  # exp(-2 u) is 0 by then; times a slope of infinity it would be no number


def gelu(inputs: Tensor, rows: Rows | None = None, tanh: bool = False) -> Tensor | None:
    """inputs (T, I), contiguous, times Phi(inputs), with Phi the normal distribution's cumulative function.

    With `tanh`, that is approximated by tanh. Returns (T, I) in the dtype of the inputs, left in `rows` in fp8 as well;
    None where `rows.largest` says that nobody reads it in another format.
    """
    outputs = torch.empty_like(inputs) if rows is None or rows.largest is None else None
    tuned = settings("gelu", inputs.device)
    n_blocks, constants = _blocks(inputs, tuned.pop("elements"))
    tensors = inputs, outputs, rows and rows.pointers
    constants |= {"to_fp8": rows is not None, "tanh": tanh, **tuned}
    _gelu[(n_blocks,)](*tensors, len(inputs), **constants)
    return outputs


def gelu_backward_(
    gradient: Tensor, inputs: Tensor, rows: Rows | None = None, tanh: bool = False
) -> tuple[Tensor | None, Tensor]:
    """Turn the gradient of the activation's output into that of its input, in place.

    Args:
        gradient: (T, I), contiguous; overwritten, unless `rows.largest` says that nobody reads the result there.
        inputs: (T, I), contiguous: what `gelu` was given.
        rows: room to leave the new gradient in fp8.
        tanh: as in `gelu`.

    Returns:
        `gradient`, or None where it does not hold the result; and (I,) in fp32, the new gradient's sum over T, which is
        the gradient of a bias that was added to the inputs.
    """
    is_read = rows is None or rows.largest is None
    kind = kind_of_result(rows, inputs.shape[1] <= NARROW_COLUMNS)
    tuned = settings("gelu_gradient", inputs.device, kind)
    elements = tuned.pop("elements")
    n_blocks, constants = _blocks(inputs, elements)
    n_thread_blocks = n_staying_blocks(n_blocks, constants["block_columns"] / elements, tuned, inputs.device)
    partial_sums = torch.empty(n_thread_blocks, inputs.shape[1], dtype=torch.float32, device=inputs.device)
    tensors = gradient, inputs, gradient if is_read else None, partial_sums, rows and rows.pointers
    constants |= {"to_fp8": rows is not None, "tanh": tanh, **tuned}
    _gelu_gradient[(n_thread_blocks,)](*tensors, len(inputs), n_blocks, **constants)
    return gradient if is_read else None, column_sums(partial_sums)


def _blocks(inputs: Tensor, n_elements: int) -> tuple[int, dict[str, int]]:
    """How many blocks there are, of whole rows, `n_elements` if that is one or more; and their shape, as constants."""
    n_rows, n_columns = inputs.shape
    block_columns = triton.next_power_of_2(n_columns)
    block_rows = max(1, n_elements // block_columns)
    constants = {"n_columns": n_columns, "block_columns": block_columns, "block_rows": block_rows}
    return triton.cdiv(n_rows, block_rows), constants


@triton.jit
def _normal(x):
    """Phi(-|x|) and the density at x, for fp32 x."""
    density = tl.exp2(x * x * -HALF_LOG2_E + LOG2_DENSITY_AT_0)
    inverse = 1.0 + ERF_P * SQRT_HALF * tl.abs(x)
    root = tl.rsqrt(inverse)  # a third of a division's instructions, which bound this pass beside memory
    t = root * root
    half: tl.constexpr = HALF_BY_DENSITY
    series = half * ERF_1 + t * (half * ERF_2 + t * (half * ERF_3 + t * (half * ERF_4 + t * (half * ERF_5))))
    return t * series * density, density


@triton.jit
def _tanh_normal(x):
    """1 / (1 + exp(2 |u|)), which is (1 + tanh(u)) / 2 at -|x|, and its derivative at x, for fp32 x."""
    square = tl.minimum(x * x, LARGEST_SQUARE)
    power = tl.exp2(tl.abs(x) * (square * -EXPONENT_3 + -EXPONENT_1))
    root = tl.rsqrt(1.0 + power)
    inverse = root * root
    tail = power * inverse
    return tail, tail * inverse * (SLOPE_0 + SLOPE_2 * square)


@triton.jit
def _gelu(
    inputs_ptr,
    outputs_ptr,
    fp8,
    n_rows,
    n_columns: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
    to_fp8: tl.constexpr,
    tanh: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
    x = tl.load(inputs_ptr + places, inside, 0.0).to(tl.float32)
    tail, _ = _tanh_normal(x) if tanh else _normal(x)
    activated = tl.maximum(x, 0.0) - tl.abs(x) * tail
    if outputs_ptr is not None:
        tl.store(outputs_ptr + places, activated.to(outputs_ptr.dtype.element_ty), inside)
    if to_fp8:
        leave_largest(store_rows(activated, fp8, rows, n_rows, places, inside), fp8)


@triton.jit
def _gelu_gradient(
    gradient_ptr,
    inputs_ptr,
    result_ptr,
    partial_sums_ptr,
    fp8,
    n_rows,
    n_blocks,
    n_columns: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
    stages: tl.constexpr,
    to_fp8: tl.constexpr,
    tanh: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    is_column = columns < n_columns
    bias_sum = tl.zeros((block_rows, block_columns), tl.float32)
    largest = 0.0
    for block in tl.range(tl.program_id(0), n_blocks, tl.num_programs(0), num_stages=stages):
        rows = block * block_rows + tl.arange(0, block_rows)
        inside = (rows < n_rows)[:, None] & is_column[None, :]
        places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
        x = tl.load(inputs_ptr + places, inside, 0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + places, inside, 0.0).to(tl.float32)
        tail, density = _tanh_normal(x) if tanh else _normal(x)
        gradient *= tl.where(x < 0, tail, 1.0 - tail) + x * density
        if result_ptr is not None:
            tl.store(result_ptr + places, gradient.to(result_ptr.dtype.element_ty), inside)
        if to_fp8:
            largest = tl.maximum(largest, store_rows(gradient, fp8, rows, n_rows, places, inside))
        bias_sum += gradient
    tl.store(partial_sums_ptr + tl.program_id(0) * n_columns + columns, tl.sum(bias_sum, 0), is_column)
    if to_fp8:
        leave_largest(largest, fp8)
