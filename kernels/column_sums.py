"""Sums over the rows of a tall fp32 matrix: the partial sums that many thread blocks have left, added up.

A gradient of a bias is a sum over all tokens. The blocks of a pass leave a row each, a few hundred of a few thousand
numbers, 4 to 10 MB that still lie in the L2 cache. Here each block has a strip of columns and all their rows: a strip
is narrow, or there would be too few of them for all multiprocessors. The rows are added in one order, and the same bits
come every time.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels.tuning import settings


def column_sums(partial: Tensor, out: Tensor | None = None) -> Tensor:
    """Sums of (n, C) or (m, n, C), fp32, contiguous, over the last dimension but one: (C,) or (m, C), fp32.

    They are left in `out`, whose rows are contiguous, where it is given.
    """
    *_, n_rows, n_columns = partial.shape
    if out is None:
        out = partial.new_empty(*partial.shape[:-2], n_columns)
    n_matrices = 1 if partial.dim() == 2 else len(partial)
    sums_stride = 0 if out.dim() == 1 else out.stride(0)
    tuned = settings("column_sums", partial.device)
    grid = (triton.cdiv(n_columns, tuned["block_columns"]), n_matrices)
    _column_sums[grid](partial, out, sums_stride, n_rows, n_columns, **tuned)
    return out


@triton.jit
def _column_sums(
    partial_ptr, sums_ptr, sums_stride, n_rows, n_columns, block_rows: tl.constexpr, block_columns: tl.constexpr
):
    columns = tl.program_id(0) * block_columns + tl.arange(0, block_columns)
    is_column = columns < n_columns
    partial_ptr += tl.program_id(1) * n_rows * n_columns
    sums = tl.zeros((block_rows, block_columns), tl.float32)
    for first in range(0, n_rows, block_rows):
        rows = first + tl.arange(0, block_rows)
        inside = (rows < n_rows)[:, None] & is_column[None, :]
        sums += tl.load(partial_ptr + rows[:, None] * n_columns + columns[None, :], inside, 0.0)
    tl.store(sums_ptr + tl.program_id(1) * sums_stride + columns, tl.sum(sums, 0), is_column)
