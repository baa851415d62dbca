"""Three embeddings, their LayerNorm and dropout in one pass, and back to the gradient of their sum in another.

PyTorch's operations make nine passes over the hidden states forward and five back, most of them in fp32. Here a row is
gathered, added up and normalized in registers. For backward only the mean and scale of each row are kept: its three
embeddings are gathered again. PyTorch adds the gradient up in the three tables.

The result travels as two tensors in one memory, as between blocks (blocks.py), and the two gradients are added in
registers.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.column_sums import column_sums
from kernels.dropout_mask import is_kept, random_seed, row_key
from kernels.fused.blocks import Hidden
from kernels.fused.dropout_add_norm import TUNED_COLUMNS, norm_gradient, normalize, numbers_and_constants
from kernels.launch import n_staying_blocks
from kernels.tuning import settings


def embed(
    ids: Sequence[Tensor], tables: Sequence[Tensor], norm: nn.LayerNorm, dropout_p: float, dtype: torch.dtype
) -> Hidden:
    """dropout(LayerNorm(the sum of a row of each table)), (T, H) in `dtype`.

    Args:
        ids: three times (T,) int64, rows of the tables; each in its table.
        tables: three times (rows, H), fp32, contiguous.
        norm: its parameters, which are fp32.
        dropout_p: probability to drop an element, below 1.
    """
    return Hidden(*_Embeddings.apply(*ids, norm.eps, dropout_p, dtype, *tables, norm.weight, norm.bias))


class _Embeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx, words, positions, types, eps, dropout_p, dtype, *parameters):
        *tables, norm_weight, norm_bias = parameters
        n_rows, n_columns = len(words), norm_weight.numel()
        result = torch.empty(n_rows, n_columns, dtype=dtype, device=words.device)
        mean, scale = (torch.empty(n_rows, dtype=torch.float32, device=words.device) for _ in range(2))
        seed = random_seed(words.device)
        numbers, constants = numbers_and_constants(n_columns, dropout_p)
        tuned = settings("embeddings", words.device)
        _embeddings[(triton.cdiv(n_rows, tuned["block_rows"]),)](
            (words, positions, types), tuple(tables), norm_weight, norm_bias, result, mean, scale, seed, n_rows, eps,
            *numbers, **constants, **tuned,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.dropout_p, ctx.dtype = dropout_p, dtype
        ctx.save_for_backward(words, positions, types, *tables, norm_weight, mean, scale, seed)
        return result, result.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        words, positions, types, *tables, norm_weight, mean, scale, seed = ctx.saved_tensors
        ids = words, positions, types
        n_rows, n_columns, device = len(words), norm_weight.numel(), words.device
        # The gradient of an unused output is zeros.
        present = [gradient.contiguous() for gradient in gradients if gradient is not None]
        first, *others = present or [torch.zeros(n_rows, n_columns, dtype=ctx.dtype, device=device)]
        of_sum = torch.empty(n_rows, n_columns, dtype=torch.float32, device=device)
        tuned = settings("embeddings_gradient", device)
        numbers, constants = numbers_and_constants(n_columns, ctx.dropout_p)
        n_blocks = triton.cdiv(n_rows, tuned["block_rows"])
        n_thread_blocks = n_staying_blocks(n_blocks, constants["block_columns"] / TUNED_COLUMNS, tuned, device)
        partial_sums = torch.empty(n_thread_blocks, 2, n_columns, dtype=torch.float32, device=device)
        _embeddings_gradient[(n_thread_blocks,)](
            first, *(others or (first,)), ids, tuple(tables), norm_weight, mean, scale, seed, of_sum, partial_sums,
            n_rows, n_blocks, *numbers, has_second=bool(others), **constants, **tuned,
        )  # fmt: skip
        of_norm = column_sums(partial_sums.flatten(1)).view(2, n_columns)
        of_tables = [
            torch.ops.aten.embedding_dense_backward(of_sum, each, len(table), -1, False)
            for each, table in zip(ids, tables, strict=True)
        ]
        return *(None,) * 6, *of_tables, *of_norm.unbind()


@triton.jit
def _sum_of_rows(ids, tables, rows, is_row, columns, inside, n_columns: tl.constexpr):
    """Of each table the row that is asked for, added up in fp32."""
    total = tl.load(tables[0] + tl.load(ids[0] + rows, is_row, 0)[:, None] * n_columns + columns[None, :], inside, 0.0)
    total += tl.load(tables[1] + tl.load(ids[1] + rows, is_row, 0)[:, None] * n_columns + columns[None, :], inside, 0.0)
    total += tl.load(tables[2] + tl.load(ids[2] + rows, is_row, 0)[:, None] * n_columns + columns[None, :], inside, 0.0)
    return total


@triton.jit
def _embeddings(
    ids,
    tables,
    weight_ptr,
    bias_ptr,
    result_ptr,
    mean_ptr,
    scale_ptr,
    seed_ptr,
    n_rows,
    eps,
    threshold,
    kept_scale,
    n_columns: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
    has_dropout: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row, is_column = rows < n_rows, columns < n_columns
    inside = is_row[:, None] & is_column[None, :]
    values = _sum_of_rows(ids, tables, rows, is_row, columns, inside, n_columns)
    result, mean, scale = normalize(values, weight_ptr, bias_ptr, columns, is_column, eps, n_columns)
    if has_dropout:
        key = row_key(tl.load(seed_ptr), rows)
        result = tl.where(is_kept(key, block_columns, threshold), result * kept_scale, 0.0)
    places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
    tl.store(result_ptr + places, result.to(result_ptr.dtype.element_ty), inside)
    tl.store(mean_ptr + rows, mean, is_row)
    tl.store(scale_ptr + rows, scale, is_row)


@triton.jit
def _embeddings_gradient(
    gradient_ptr,
    second_gradient_ptr,
    ids,
    tables,
    weight_ptr,
    mean_ptr,
    scale_ptr,
    seed_ptr,
    of_sum_ptr,
    partial_sums_ptr,
    n_rows,
    n_blocks,
    threshold,
    kept_scale,
    n_columns: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
    stages: tl.constexpr,
    has_second: tl.constexpr,
    has_dropout: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    is_column = columns < n_columns
    weight = tl.load(weight_ptr + columns, is_column, 0.0)
    weight_sum = tl.zeros((block_rows, block_columns), tl.float32)
    bias_sum = tl.zeros((block_rows, block_columns), tl.float32)
    seed = tl.load(seed_ptr)
    for block in tl.range(tl.program_id(0), n_blocks, tl.num_programs(0), num_stages=stages):
        rows = block * block_rows + tl.arange(0, block_rows)
        is_row = rows < n_rows
        inside = is_row[:, None] & is_column[None, :]
        places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
        gradient = tl.load(gradient_ptr + places, inside, 0.0).to(tl.float32)
        if has_second:
            gradient += tl.load(second_gradient_ptr + places, inside, 0.0).to(tl.float32)
        if has_dropout:
            gradient = tl.where(is_kept(row_key(seed, rows), block_columns, threshold), gradient * kept_scale, 0.0)
        values = _sum_of_rows(ids, tables, rows, is_row, columns, inside, n_columns)
        mean, scale = tl.load(mean_ptr + rows, is_row, 0.0), tl.load(scale_ptr + rows, is_row, 0.0)
        of_sum, normalized = norm_gradient(gradient, values, mean, scale, weight, is_column, n_columns)
        tl.store(of_sum_ptr + places, of_sum, inside)
        weight_sum += gradient * normalized
        bias_sum += gradient
    sums = partial_sums_ptr + tl.program_id(0) * 2 * n_columns + columns
    tl.store(sums, tl.sum(weight_sum, 0), is_column)
    tl.store(sums + n_columns, tl.sum(bias_sum, 0), is_column)
