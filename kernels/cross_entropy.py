"""The masked-LM loss without a second copy of the logits.

Predicting the vocabulary at M masked positions gives M x V logits, the largest tensor of the model by far. Here a block
of rows at a time is multiplied out, reduced to its loss, turned into the gradient in its own memory, and multiplied
into the gradients of the hidden states and the weight; the logits are gone when forward returns. A mean loss is linear
in what comes back to it, so backward is one multiplication. Liger-Kernel's fused linear cross-entropy does so too.

The gradient of the logits is kept unscaled (probabilities minus one-hot) until it has left 16 bits: divided by the
number of positions and multiplied by a loss scale only in fp32, so fp16 neither underflows nor overflows.
"""

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.tuning import settings

IGNORE_INDEX = -100


def linear_cross_entropy(
    hidden_states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, passes: str = "torch"
) -> Tensor:
    """Mean of -log softmax(hidden_states @ weight.T + bias)[label] over the rows whose label is not -100.

    Args:
        hidden_states: (M, H), in the compute dtype.
        weight: (V, H), fp32; cast to the compute dtype for the matmuls. Its gradient is accumulated in fp32.
        bias: (V,), fp32; -inf removes a class (the padding of the vocabulary).
        labels: (M,) int64; -100 leaves a row out.
        passes: over the logits, between the matmuls: by PyTorch's operations (`torch`), these `compiled`, or a kernel
            of our own (`triton`).

    Returns:
        a scalar, fp32; zero if no row has a label.
    """
    return _LinearCrossEntropy.apply(hidden_states, weight, bias, labels, passes)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, passes: str) -> Tensor:
        loss_and_gradient_ = _loss_and_gradient_by(passes)
        compute_weight = weight.to(hidden_states.dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        hidden_gradient = torch.empty_like(hidden_states)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = torch.zeros_like(bias)
        per_block = settings("cross_entropy", hidden_states.device)["rows_per_block"]
        for start in range(0, hidden_states.shape[0], per_block):
            rows = slice(start, start + per_block)
            logits = hidden_states[rows] @ compute_weight.T
            block_loss, block_bias_gradient = loss_and_gradient_(logits, bias, labels[rows])
            loss += block_loss
            bias_gradient += block_bias_gradient
            torch.mm(logits, compute_weight, out=hidden_gradient[rows])
            weight_gradient += logits.T @ hidden_states[rows]
        count = (labels != IGNORE_INDEX).sum().clamp(min=1)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient, count)
        return loss / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, loss_gradient: Tensor):
        hidden_gradient, weight_gradient, bias_gradient, count = ctx.saved_tensors
        scale = loss_gradient / count
        return (
            (hidden_gradient.float() * scale).to(hidden_gradient.dtype),
            weight_gradient * scale,
            bias_gradient * scale,
            None,
            None,
        )


@functools.cache
def _loss_and_gradient_by(passes: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    if passes == "triton":
        return importlib.import_module("kernels.fused.softmax").loss_and_gradient_
    return torch.compile(_loss_and_gradient_, dynamic=True) if passes == "compiled" else _loss_and_gradient_


def _loss_and_gradient_(logits: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of a block (scalar, fp32) and its gradient by the bias (V,); that by the logits replaces them.

    `logits` (R, V) come without the bias, which is added in fp32 to spare it the rounding of the compute dtype.
    """
    kept = (labels != IGNORE_INDEX).unsqueeze(1)
    targets = labels.unsqueeze(1).where(kept, 0)
    scores = logits.float()
    scores += bias
    scores -= scores.amax(1, keepdim=True)
    target_scores = scores.gather(1, targets)
    scores.exp_()
    normalizer = scores.sum(1, keepdim=True)
    loss = ((normalizer.log() - target_scores) * kept).sum()
    scores *= kept / normalizer
    scores.scatter_add_(1, targets, -kept.to(scores.dtype))
    logits.copy_(scores)
    return loss, scores.sum(0)
