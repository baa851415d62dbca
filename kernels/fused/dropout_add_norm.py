"""Dropout, residual and LayerNorm in one pass, and their gradients in another.

PyTorch runs them as three kernels forward and four backward, each of which reads and writes the whole of the hidden
states; that memory traffic is all that they cost. Here a row is read once each way. The mask is computed again from its
seed and never stored. Each thread block adds up the biases' gradients, sums over all tokens, in registers, and the
blocks' sums are added by one small kernel, in the same order every time.

The normalized rows are used twice, in a matmul and as a residual. Backward takes both gradients and adds them in
registers. What is kept for it is the sum before the norm, in the memory of the input, and each row's mean and scale.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.column_sums import column_sums
from kernels.dropout_mask import drop_threshold, is_kept, row_key
from kernels.fused.fp8 import Rows, kind_of_result, leave_largest, store_rows
from kernels.launch import n_staying_blocks
from kernels.tuning import settings

TUNED_COLUMNS = 1024  # that settings are for
NARROW_COLUMNS = 768  # at most in the rows that are narrow


def dropout_add_norm_(
    hidden_states: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm(dropout(hidden_states) + residual); `hidden_states` holds the sum before the norm afterwards.

    Args:
        hidden_states, residual: (T, H), contiguous, of one dtype; the former is overwritten.
        weight, bias: (H,), fp32.
        eps: added to the variance.
        dropout_p: probability to drop an element, below 1.
        seed: one int64 on the device; with the same seed `dropout_add_norm_backward` has the same mask.
        rows: room to leave the result in fp8 as well.

    Returns:
        the normalized (T, H); and for backward each row's mean and 1 / standard deviation, (T,) in fp32.
    """
    n_rows = len(hidden_states)
    normalized = torch.empty_like(hidden_states)
    mean, scale = (torch.empty(n_rows, dtype=torch.float32, device=hidden_states.device) for _ in range(2))
    tensors = hidden_states, residual, weight, bias, normalized, mean, scale, rows and rows.pointers, seed
    numbers, constants = numbers_and_constants(hidden_states.shape[1], dropout_p)
    constants["to_fp8"] = rows is not None
    tuned = settings("dropout_add_norm", hidden_states.device)
    grid = (triton.cdiv(n_rows, tuned["block_rows"]),)
    _dropout_add_norm[grid](*tensors, n_rows, eps, *numbers, **constants, **tuned)
    return normalized, mean, scale


def dropout_add_norm_backward(
    gradients: Sequence[Tensor],
    summed: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    dropout_p: float,
    seed: Tensor,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """From the gradient of the normalized rows to all others.

    Args:
        gradients: one or two (T, H), contiguous, whose sum is meant.
        summed, mean, scale: what `dropout_add_norm_` left in `hidden_states` and returned.
        weight, dropout_p, seed: as given to it.
        rows: room to leave the gradient of the hidden states in fp8.

    Returns:
        the gradient of the residual (T, H); that of the hidden states (T, H), the same tensor without dropout, and None
        where `rows.largest` says that nobody reads it; and (3, H) in fp32: the gradients of the weight, of the bias,
        and of a bias that was added to the hidden states.
    """
    gradient, *others = gradients
    n_rows, n_columns = gradient.shape
    residual_gradient = torch.empty_like(gradient)
    hidden_gradient = None
    if rows is None or rows.largest is None:
        hidden_gradient = torch.empty_like(gradient) if dropout_p > 0 else residual_gradient
    kind = kind_of_result(rows, n_columns <= NARROW_COLUMNS)
    tuned = settings("dropout_add_norm_gradients", gradient.device, kind)
    numbers, constants = numbers_and_constants(n_columns, dropout_p)
    n_blocks = triton.cdiv(n_rows, tuned["block_rows"])
    n_thread_blocks = n_staying_blocks(n_blocks, constants["block_columns"] / TUNED_COLUMNS, tuned, gradient.device)
    partial_sums = torch.empty(n_thread_blocks, 3, n_columns, dtype=torch.float32, device=gradient.device)
    tensors = gradient, *(others or (gradient,)), summed, mean, scale, weight
    results = residual_gradient, hidden_gradient, partial_sums, rows and rows.pointers
    constants |= {"to_fp8": rows is not None, "has_second": bool(others), **tuned}
    _dropout_add_norm_gradients[(n_thread_blocks,)](*tensors, *results, seed, n_rows, n_blocks, *numbers, **constants)
    sums = column_sums(partial_sums.flatten(1)).view(3, n_columns)
    return residual_gradient, hidden_gradient, sums


def numbers_and_constants(n_columns: int, dropout_p: float) -> tuple[tuple[int, float], dict[str, int]]:
    """What kernels over whole rows with dropout take: its threshold and scale, and constants."""
    shape = {"n_columns": n_columns, "block_columns": triton.next_power_of_2(n_columns)}
    return (drop_threshold(dropout_p), 1 / (1 - dropout_p)), {**shape, "has_dropout": dropout_p > 0}


@triton.jit
def normalize(values, weight_ptr, bias_ptr, columns, is_column, eps, n_columns: tl.constexpr):
    """LayerNorm of rows (R, C) in fp32; and their means and 1 / standard deviations, (R,)."""
    mean = tl.sum(values, 1) / n_columns
    centred = tl.where(is_column[None, :], values - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / n_columns + eps)
    weight = tl.load(weight_ptr + columns, is_column, 0.0)
    bias = tl.load(bias_ptr + columns, is_column, 0.0)
    return centred * scale[:, None] * weight[None, :] + bias[None, :], mean, scale


@triton.jit
def norm_gradient(gradient, values, mean, scale, weight, is_column, n_columns: tl.constexpr):
    """From the gradient of `normalize`'s result to that of its `values`; and these normalized, without the weight."""
    normalized = tl.where(is_column[None, :], (values - mean[:, None]) * scale[:, None], 0.0)
    weighted = gradient * weight[None, :]
    along, average = tl.split(tl.sum(tl.join(weighted * normalized, weighted), 1) / n_columns)
    return (weighted - normalized * along[:, None] - average[:, None]) * scale[:, None], normalized


@triton.jit
def _dropout_add_norm(
    hidden_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    normalized_ptr,
    mean_ptr,
    scale_ptr,
    fp8,
    seed_ptr,
    n_rows,
    eps,
    threshold,
    kept_scale,
    n_columns: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
    has_dropout: tl.constexpr,
    to_fp8: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_column = columns < n_columns
    inside = (rows < n_rows)[:, None] & is_column[None, :]
    places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]

    values = tl.load(hidden_ptr + places, inside, 0.0).to(tl.float32)
    if has_dropout:
        key = row_key(tl.load(seed_ptr), rows)
        values = tl.where(is_kept(key, block_columns, threshold), values * kept_scale, 0.0)
    values += tl.load(residual_ptr + places, inside, 0.0).to(tl.float32)
    tl.store(hidden_ptr + places, values.to(hidden_ptr.dtype.element_ty), inside)

    normalized, mean, scale = normalize(values, weight_ptr, bias_ptr, columns, is_column, eps, n_columns)
    tl.store(normalized_ptr + places, normalized.to(normalized_ptr.dtype.element_ty), inside)
    tl.store(mean_ptr + rows, mean, rows < n_rows)
    tl.store(scale_ptr + rows, scale, rows < n_rows)
    if to_fp8:
        leave_largest(store_rows(normalized, fp8, rows, n_rows, places, inside), fp8)


@triton.jit
def _dropout_add_norm_gradients(
    gradient_ptr,
    second_gradient_ptr,
    summed_ptr,
    mean_ptr,
    scale_ptr,
    weight_ptr,
    residual_gradient_ptr,
    hidden_gradient_ptr,
    partial_sums_ptr,
    fp8,
    seed_ptr,
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
    to_fp8: tl.constexpr,
):
    columns = tl.arange(0, block_columns)
    is_column = columns < n_columns
    weight = tl.load(weight_ptr + columns, is_column, 0.0)
    weight_sum = tl.zeros((block_rows, block_columns), tl.float32)
    bias_sum = tl.zeros((block_rows, block_columns), tl.float32)
    hidden_sum = tl.zeros((block_rows, block_columns), tl.float32)
    largest = 0.0
    seed = tl.load(seed_ptr)

    for block in tl.range(tl.program_id(0), n_blocks, tl.num_programs(0), num_stages=stages):
        rows = block * block_rows + tl.arange(0, block_rows)
        inside = (rows < n_rows)[:, None] & is_column[None, :]
        places = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
        gradient = tl.load(gradient_ptr + places, inside, 0.0).to(tl.float32)
        if has_second:
            gradient += tl.load(second_gradient_ptr + places, inside, 0.0).to(tl.float32)
        summed = tl.load(summed_ptr + places, inside, 0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, rows < n_rows, 0.0)
        scale = tl.load(scale_ptr + rows, rows < n_rows, 0.0)
        key = row_key(seed, rows)  # while the loads are under way

        result, normalized = norm_gradient(gradient, summed, mean, scale, weight, is_column, n_columns)
        weight_sum += gradient * normalized
        bias_sum += gradient
        tl.store(residual_gradient_ptr + places, result.to(residual_gradient_ptr.dtype.element_ty), inside)
        if has_dropout:
            result = tl.where(is_kept(key, block_columns, threshold), result * kept_scale, 0.0)
            if hidden_gradient_ptr is not None:
                tl.store(hidden_gradient_ptr + places, result.to(hidden_gradient_ptr.dtype.element_ty), inside)
        if to_fp8:
            result = tl.where(is_column[None, :], result, 0.0)
            largest = tl.maximum(largest, store_rows(result, fp8, rows, n_rows, places, inside))
        hidden_sum += result

    sums = partial_sums_ptr + tl.program_id(0) * 3 * n_columns + columns
    tl.store(sums, tl.sum(weight_sum, 0), is_column)
    tl.store(sums + n_columns, tl.sum(bias_sum, 0), is_column)
    tl.store(sums + 2 * n_columns, tl.sum(hidden_sum, 0), is_column)
    if to_fp8:
        leave_largest(largest, fp8)
