"""A block's matrix products, in the dtype of its activations or in fp8.

A weight is a tuple of tensors, so that autograd can save it: the weight in the compute dtype alone, or the three of
`fp8.Weight`. Which of the two it is decides what a product runs in; the blocks need not know.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import fp8
from kernels.fp8 import Rows

Weight = tuple[Tensor, ...]


def prepare_weight(weight: Tensor, dtype: torch.dtype, to_fp8: bool) -> Weight:
    """A parameter (N, K), fp32, as the products take it."""
    return fp8.quantise_weights([weight])[0] if to_fp8 else (weight.to(dtype),)


def is_fp8(weight: Weight) -> bool:
    """Whether products with this weight run in fp8."""
    return len(weight) > 1


def linear(inputs: Tensor, weight: Weight, bias: Tensor, rows: Rows | None = None) -> Tensor:
    """inputs (T, K) times the transpose of weight (N, K), plus bias (N,), fp32: (T, N), the dtype of `inputs`.

    Args:
        rows: the inputs in fp8, where somebody has left them.
    """
    dtype = inputs.dtype
    if not is_fp8(weight):
        return F.linear(inputs, weight[0], bias.to(dtype))
    return fp8.linear(rows or fp8.quantise_rows(inputs), fp8.Weight(*weight), bias.to(dtype), dtype)


def input_gradient(gradient: Tensor, weight: Weight, rows: Rows | None = None) -> Tensor:
    """gradient (T, N) times weight (N, K): (T, K); `rows` as in `linear`."""
    if not is_fp8(weight):
        return gradient @ weight[0]
    return fp8.input_gradient(rows or fp8.quantise_rows(gradient), fp8.Weight(*weight), gradient.dtype)


def weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The transpose of gradient (T, N) times inputs (T, K): (N, K) in fp32.

    16-bit factors are multiplied as they are on a GPU; what they are accumulated in is what comes out.
    """
    if gradient.is_cuda and gradient.dtype != torch.float32:
        return torch.mm(gradient.T, inputs, out_dtype=torch.float32)
    return (gradient.T @ inputs).float()
