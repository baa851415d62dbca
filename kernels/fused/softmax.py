"""The masked-LM loss and its gradient from the logits, which are read twice and written once.

PyTorch's operations take the logits to fp32 and pass over them a dozen times, which in phase 1 costs as much as two
encoder layers. Here a thread block has whole rows: it goes over them once for the largest score and the sum of
exponentials, rescaled whenever a larger score comes, and once more for the probabilities. A row of 16 bits still lies
in the L2 cache then.

Source: Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867 (the sum in one pass).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cross_entropy import IGNORE_INDEX
from kernels.tuning import settings

IGNORED = tl.constexpr(IGNORE_INDEX)
LOWEST = tl.constexpr(
    -1e30
)  # to begin with: minus infinity, which is a class that was removed, less itself is no number


def loss_and_gradient_(logits: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradients: that by the logits replaces them.

    Args:
        logits: (R, V), contiguous, without the bias.
        bias: (V,), fp32; -inf removes a class.
        labels: (R,) int64; -100 leaves a row out.

    Returns:
        a scalar in fp32, and the gradient by the bias, (V,) in fp32, of the gradients as they were rounded.
    """
    n_rows, n_columns = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    tuned = settings("softmax", logits.device)
    grid = (triton.cdiv(n_rows, tuned["block_rows"]),)
    _loss_and_gradient[grid](logits, bias, labels, losses, n_rows, n_columns, **tuned)
    return losses.sum(), logits.sum(0, dtype=torch.float32)


@triton.jit
def _loss_and_gradient(
    logits_ptr,
    bias_ptr,
    labels_ptr,
    losses_ptr,
    n_rows,
    n_columns,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = rows < n_rows
    logits_ptr += rows.to(tl.int64)[:, None] * n_columns
    labels = tl.load(labels_ptr + rows, is_row, IGNORED)
    kept = labels != IGNORED

    largest = tl.full((block_rows,), LOWEST, tl.float32)
    total = tl.zeros((block_rows,), tl.float32)
    target = tl.zeros((block_rows,), tl.float32)
    for first in range(0, n_columns, block_columns):
        columns = first + tl.arange(0, block_columns)
        scores = _scores(logits_ptr, bias_ptr, columns, is_row, n_columns)
        is_target = columns[None, :] == labels[:, None]
        target += tl.sum(tl.where(is_target, scores, 0.0), 1)
        larger = tl.maximum(largest, tl.max(scores, 1))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(scores - larger[:, None]), 1)
        largest = larger
    tl.store(losses_ptr + rows, tl.where(kept, tl.log(total) + largest - target, 0.0), is_row)

    inverse = 1.0 / total
    for first in range(0, n_columns, block_columns):
        columns = first + tl.arange(0, block_columns)
        scores = _scores(logits_ptr, bias_ptr, columns, is_row, n_columns)
        gradient = tl.exp(scores - largest[:, None]) * inverse[:, None]
        gradient -= tl.where(columns[None, :] == labels[:, None], 1.0, 0.0)
        gradient = tl.where(kept[:, None], gradient, 0.0)
        inside = is_row[:, None] & (columns < n_columns)[None, :]
        tl.store(logits_ptr + columns[None, :], gradient.to(logits_ptr.dtype.element_ty), inside)


@triton.jit
def _scores(logits_ptr, bias_ptr, columns, is_row, n_columns):
    """Logits and bias in fp32; minus infinity behind the last class, zero behind the last row."""
    is_column = columns < n_columns
    logits = tl.load(logits_ptr + columns[None, :], is_row[:, None] & is_column[None, :], 0.0).to(tl.float32)
    return logits + tl.load(bias_ptr + columns, is_column, float("-inf"))[None, :]
