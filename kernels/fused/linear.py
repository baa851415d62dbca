"""A block's matmuls, in the dtype of its activations or in fp8.

A weight is a tuple of tensors, so that autograd can save it: the weight in the compute dtype alone, or the three of
`fp8.Weight`. Which of the two it is decides what a matmul runs in. Parameters are brought there anew in each forward
pass, for all layers at once: a kernel for each would be hundreds of them, many smaller than their launch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.fused import fp8
from kernels.fused.fp8 import Rows

Weight = tuple[Tensor, ...]


class Prepared(NamedTuple):
    """A linear layer's parameters as the matmuls take them."""

    weight: Weight
    bias: Tensor
    """(N,), in the dtype of the activations."""


@torch.no_grad()
def prepare(linears: Sequence[nn.Linear], dtype: torch.dtype, to_fp8: bool) -> list[Prepared]:
    """Parameters of layers of one shape (N, K), fp32, for matmuls of activations in `dtype`, in few launches.

    With `to_fp8`, weights are in fp8, and `dtype` is bf16.
    """
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
    if to_fp8:
        prepared = fp8.quantize_weights(weights)
    else:
        prepared = [(weight,) for weight in _converted(weights, dtype)]
    return [Prepared(*parts) for parts in zip(prepared, _converted(biases, dtype), strict=True)]


def _converted(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies in `dtype`, or the tensors where they have it."""
    if tensors[0].dtype == dtype:
        return tensors
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies


def is_fp8(weight: Weight) -> bool:
    """Whether matmuls with this weight run in fp8."""
    return len(weight) > 1


def linear(inputs: Tensor, prepared: Prepared, rows: Rows | None = None) -> Tensor:
    """inputs (T, K) times the transpose of a weight (N, K), plus a bias (N,): (T, N), the dtype of `inputs`.

    Args:
        rows: the inputs in fp8, where somebody has left them.
    """
    weight, bias = prepared
    if not is_fp8(weight):
        return F.linear(inputs, weight[0], bias)
    values, _, scale = weight
    return fp8.matmul(rows or fp8.quantize_rows(inputs), values, scale, inputs.dtype, bias)


def input_gradient(gradient: Tensor, weight: Weight, rows: Rows | None = None) -> Tensor:
    """gradient (T, N) times weight (N, K): (T, K); `rows` as in `linear`."""
    if not is_fp8(weight):
        return gradient @ weight[0]
    _, columns, scale = weight
    return fp8.matmul(rows or fp8.quantize_rows(gradient), columns, scale, gradient.dtype)


def weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The transpose of gradient (T, N) times inputs (T, K): (N, K) in fp32, unrounded on a GPU."""
    if gradient.is_cuda and gradient.dtype != torch.float32:
        return torch.mm(gradient.T, inputs, out_dtype=torch.float32)
    return (gradient.T @ inputs).float()
