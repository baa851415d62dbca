"""Matmuls in fp8: factors as e4m3 with scales, and what brings tensors there.

Tensor cores multiply e4m3 at twice the rate of bf16. A tensor must be scaled into its range, which takes its largest
value, and a pass that does nothing but that costs what the matmul saves (docs/performance-log.md has figures). So:

- activations and their gradients have one scale per row, a token's. Kernels that have a whole row in registers anyway
  find it and write the row as e4m3 (`store_rows`); `quantize_rows` is for what comes from elsewhere. A matmul that has
  a part of a row takes it from a bound: the row's norm that goes in, times the largest norm of a weight's row
  (gelu_matmul_kernel.py).
- weights have one scale each, and are written twice: fp8 matmuls want both factors along the dimension that is summed
  over, which for the gradient of the input is the other one. Kernels take all weights of a shape at once, by their
  addresses as arguments: a table could go out of date or be missed by a CUDA graph.
- the weight's gradient sums over tokens. Both factors must lie along them, with a scale that does not change along
  them. Scales are powers of two, so `transposed` moves exponents and rounds nothing a second time: the factors are
  those of the other matmuls, but for values below 2^-15 of the matrix's largest. That one is known without a pass of
  its own and without a guess from the step before: kernels leave the largest of a matrix's scales as they write it.
- sums of a forward pass and of an input's gradient stay in the tensor cores, where Hopper keeps about 14 bits of them:
  e4m3 itself has four. A weight's gradient sums over some ten thousand tokens, so its sums are taken out of there.

Sources: Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433 (e4m3); DeepSeek-AI 2024, section 3.3.2,
https://arxiv.org/abs/2412.19437 (14 bits, and taking sums out).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tuning import settings

E4M3 = torch.float8_e4m3fn
E4M3_MAX = tl.constexpr(448.0)
SMALLEST_SCALE = tl.constexpr(2.0**-100)  # of a row of zeros
ALIGNMENT = 16  # elements: matmuls want rows of whole 16 bytes
SCALE_ALIGNMENT = 4  # scales, of fp32: matmuls want them at addresses of whole 16 bytes


class Rows(NamedTuple):
    """A matrix (R, K) in fp8: `values` (R, K) in e4m3, which are to be multiplied with `scale` (R, 1) in fp32."""

    values: Tensor
    scale: Tensor
    """Powers of two."""
    norm: Tensor
    """(R,) fp32, the rows' norms, where their scales are from their largest values."""
    largest: Tensor | None = None
    """(1,) fp32, the largest of the scales, for `transposed`. Where it is wanted, weight gradients are in fp8 too, and
    nobody reads the matrix in another format."""

    @property
    def pointers(self) -> tuple[Tensor, ...]:
        """For kernels: Triton 3.6 takes no None within a tuple."""
        return tuple(part for part in self if part is not None)


def kind_of_result(rows: Rows | None, is_narrow: bool) -> str:
    """The class of inputs, for `settings`, of a pass that leaves its result in `rows`.

    It is "" where there are none, "fp8" where they are beside the result, and "fp8_alone" where they are all of it, or
    "fp8_alone_narrow" if these are short.
    """
    if rows is None:
        return ""
    if rows.largest is None:
        return "fp8"
    return "fp8_alone_narrow" if is_narrow else "fp8_alone"


class Weight(NamedTuple):
    """A weight (N, K) in fp8: e4m3 `rows` (N, K) and `columns` (K, N), and `scale`, a number, (max(N, K),) times."""

    rows: Tensor
    columns: Tensor
    scale: Tensor
    row_norm: Tensor
    """The largest norm of a row, before it was quantized: a number, `SCALE_ALIGNMENT` times."""
    column_norm: Tensor
    """The same of a column."""


def empty_rows(n_rows: int, n_columns: int, device: torch.device, largest: Tensor | None = None) -> Rows:
    """Room for a matrix in fp8, for a kernel to fill with `store_rows`; `largest`, if any, is zero."""
    scale, norm = (torch.empty(shape, dtype=torch.float32, device=device) for shape in ((n_rows, 1), n_rows))
    return Rows(torch.empty(n_rows, n_columns, dtype=E4M3, device=device), scale, norm, largest)


def quantize_rows(matrix: Tensor, rows: Rows | None = None) -> Rows:
    """A contiguous matrix (R, K) in fp8, with one scale per row; in `rows`, where there is room already."""
    n_rows, n_columns = matrix.shape
    rows = rows or empty_rows(n_rows, n_columns, matrix.device)
    block_columns = triton.next_power_of_2(n_columns)
    tuned = settings("quantize_rows", matrix.device)
    block_rows = max(1, tuned.pop("elements") // block_columns)
    constants = {"n_columns": n_columns, "block_columns": block_columns, "block_rows": block_rows}
    _quantize_rows[(triton.cdiv(n_rows, block_rows),)](matrix, rows.pointers, n_rows, **constants, **tuned)
    return rows


def quantize_weights(weights: Sequence[Tensor]) -> list[Weight]:
    """Contiguous weights of one shape (N, K), fp32, in fp8, each with one scale."""
    (n_rows, n_columns), device = weights[0].shape, weights[0].device
    largest = torch.stack(torch._foreach_norm(weights, torch.inf))
    scales = (largest / E4M3_MAX.value).clamp(min=SMALLEST_SCALE.value)
    rows = torch.empty(len(weights), n_rows, n_columns, dtype=E4M3, device=device)
    columns = torch.empty(len(weights), n_columns, n_rows, dtype=E4M3, device=device)
    tuned = settings("quantize_weights", device)
    grid = triton.cdiv(n_rows, tuned["tile"]), triton.cdiv(n_columns, tuned["tile"]), len(weights)
    shapes = (len(weights), grid[1], n_rows), (len(weights), grid[0], n_columns)
    squares = [torch.empty(shape, device=device) for shape in shapes]
    sizes = {"n_rows": n_rows, "n_columns": n_columns}
    _quantize_weights[grid](tuple(weights), rows, columns, scales, *squares, **sizes, **tuned)
    norms = [parts.sum(1).amax(1).sqrt() for parts in squares]
    repeated = [(scales, max(n_rows, n_columns)), *((norm, SCALE_ALIGNMENT) for norm in norms)]
    numbers = [number[:, None].repeat(1, times) for number, times in repeated]
    return [Weight(*parts) for parts in zip(rows, columns, *numbers, strict=True)]


def matmul(left: Rows, right: Tensor, scale: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """left (T, K) times the transpose of right (N, K), plus bias (N,), in `dtype`, which the bias has too: (T, N).

    Args:
        right, scale: a part of a `Weight`, and its scale.
    """
    scales = left.scale, scale[: right.shape[0]].unsqueeze(0)
    return torch._scaled_mm(left.values, right.T, *scales, bias=bias, out_dtype=dtype, use_fast_accum=True)


def transposed(rows: Rows) -> Tensor:
    """The transpose (K, R) in e4m3, to be multiplied with `rows.largest`; zeros fill R up to a multiple of 16."""
    n_rows, n_columns = rows.values.shape
    n_padded = -(-n_rows // ALIGNMENT) * ALIGNMENT
    result = torch.empty(n_columns, n_padded, dtype=E4M3, device=rows.values.device)
    tuned = settings("transpose", result.device)
    grid = triton.cdiv(n_padded, tuned["block_rows"]), triton.cdiv(n_columns, tuned["block_columns"])
    _transpose[grid](rows.values, rows.scale, rows.largest, result, n_rows, n_padded, n_columns, **tuned)
    return result


def product_over_rows(left: Rows, right: Rows, out: Tensor | None = None) -> Tensor:
    """The transpose of left (R, N) times right (R, K): (N, K), in fp32 or written to `out`, fp32 or bf16."""
    factors = transposed(left), transposed(right).T
    dtype = torch.float32 if out is None else out.dtype
    return torch._scaled_mm(*factors, left.largest, right.largest, out_dtype=dtype, use_fast_accum=False, out=out)


@triton.jit
def store_rows(values, fp8, rows, n_rows, places, inside):
    """Store whole rows as e4m3 with their scales and norms.

    Args:
        values: (R, C) fp32, zeros where columns are outside.
        fp8: `Rows.pointers` to store at.
        rows: (R,), which of the matrix's they are; those from n_rows on are left out.
        places, inside: (R, C), offsets in the matrix and whether they are in it.

    Returns:
        the largest of the scales, for `leave_largest`.
    """
    values_ptr, scale_ptr, norm_ptr = fp8[0], fp8[1], fp8[2]
    scale = _scale(tl.max(tl.abs(values), 1))
    # 8 values per thread, as bf16 beside has them. For 16 the compiler would compute all values once more.
    pointers = tl.multiple_of(values_ptr + places, (1, 8))
    tl.store(pointers, (values * _inverse(scale)[:, None]).to(tl.float8e4nv), inside)
    tl.store(scale_ptr + rows, scale, rows < n_rows)
    tl.store(norm_ptr + rows, tl.sqrt(tl.sum(values * values, 1)), rows < n_rows)
    return tl.max(tl.where(rows < n_rows, scale, 0.0), 0)


@triton.jit
def leave_largest(scale, fp8):
    """Let `Rows.largest` be this scale at least, where it is wanted; once per thread block, as they queue for it.

    Whoever comes last, the largest is the largest: the one atomic operation that gives the same bits every time.
    """
    if len(fp8) == 4:
        tl.atomic_max(fp8[3], scale, sem="relaxed")


@triton.jit
def _scale(largest):
    """The smallest power of two that brings these values, fp32 and not negative, into e4m3's range."""
    bits = tl.maximum(largest * (1 / E4M3_MAX), SMALLEST_SCALE).to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def _inverse(scale):
    """1 / scale of powers of two, exactly: the exponent, of bias 127, with its sign changed."""
    return (0x7F000000 - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def _quantize_rows(
    matrix_ptr, fp8, n_rows, n_columns: tl.constexpr, block_columns: tl.constexpr, block_rows: tl.constexpr
):
    columns = tl.arange(0, block_columns)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
    values = tl.load(matrix_ptr + places, inside, 0.0).to(tl.float32)
    leave_largest(store_rows(values, fp8, rows, n_rows, places, inside), fp8)


@triton.jit
def _transpose(
    values_ptr,
    scale_ptr,
    largest_ptr,
    result_ptr,
    n_rows,
    n_padded,
    n_columns: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    values = tl.load(values_ptr + rows[:, None] * n_columns + columns[None, :], inside, 0.0)
    # At most 1, and in fp16 exact to 2^-24, of which e4m3 has nothing left.
    share = (tl.load(scale_ptr + rows, rows < n_rows, 0.0) * _inverse(tl.load(largest_ptr))).to(tl.float16)
    shifted = (values.to(tl.float16) * share[:, None]).to(tl.float8e4nv)
    n_padded = tl.multiple_of(n_padded, 16)
    places = columns[:, None].to(tl.int64) * n_padded + rows[None, :]
    tl.store(result_ptr + places, tl.trans(shifted), (columns < n_columns)[:, None] & (rows < n_padded)[None, :])


@triton.jit
def _quantize_weights(
    weight_ptrs,
    rows_ptr,
    columns_ptr,
    scale_ptr,
    row_squares_ptr,
    column_squares_ptr,
    n_rows: tl.constexpr,
    n_columns: tl.constexpr,
    tile: tl.constexpr,
):
    number = tl.program_id(2)
    weight_ptr = weight_ptrs[0]
    for other in tl.static_range(1, len(weight_ptrs)):
        weight_ptr = tl.where(number == other, weight_ptrs[other], weight_ptr)
    rows_ptr += number.to(tl.int64) * n_rows * n_columns
    columns_ptr += number.to(tl.int64) * n_rows * n_columns
    rows = tl.program_id(0) * tile + tl.arange(0, tile)
    columns = tl.program_id(1) * tile + tl.arange(0, tile)
    scale = tl.load(scale_ptr + number)
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    weight = tl.load(weight_ptr + rows[:, None] * n_columns + columns[None, :], inside, 0.0)
    tl.store(rows_ptr + rows[:, None] * n_columns + columns[None, :], _as_e4m3(weight, scale), inside)
    place = (number * tl.num_programs(1) + tl.program_id(1)) * n_rows
    tl.store(row_squares_ptr + place + rows, tl.sum(weight * weight, 1), rows < n_rows)
    # Read again, from the cache: ptxas 12.8 loses bytes of a tile that is converted once, and stored both ways.
    inside = (columns < n_columns)[:, None] & (rows < n_rows)[None, :]
    weight = tl.load(weight_ptr + rows[None, :] * n_columns + columns[:, None], inside, 0.0)
    tl.store(columns_ptr + columns[:, None] * n_rows + rows[None, :], _as_e4m3(weight, scale), inside)
    place = (number * tl.num_programs(0) + tl.program_id(0)) * n_columns
    tl.store(column_squares_ptr + place + columns, tl.sum(weight * weight, 1), columns < n_columns)


@triton.jit
def _as_e4m3(values, scale):
    """fp32 values / scale in e4m3, what is out of range at its end."""
    return tl.minimum(tl.maximum(values / scale, -E4M3_MAX), E4M3_MAX).to(tl.float8e4nv)
