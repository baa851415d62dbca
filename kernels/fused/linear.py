"""A block's matmuls, in the dtype of its activations or in fp8.

A weight is a tuple of tensors, so that autograd can save it: the weight in the compute dtype alone, or those of
`fp8.Weight`. So is what is kept of the inputs. Which of the two it is decides what a matmul runs in. Parameters are
brought there anew in each forward pass, for all layers at once: a kernel for each would be hundreds of them, many
smaller than their launch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.fused import fp8
from kernels.fused.fp8 import Rows

Weight = tuple[Tensor, ...]
Inputs = tuple[Tensor, ...]


class Prepared(NamedTuple):
    """A linear layer's parameters as the matmuls take them."""

    weight: Weight
    bias: Tensor
    """(N,), in the dtype of the activations."""
    largest_bias: Tensor | None = None
    """Where the weight is in fp8: the bias's largest absolute value, a number, `fp8.SCALE_ALIGNMENT` times."""
    largest: Tensor | None = None
    """Where weight gradients are in fp8: a zero for the `fp8.Rows.largest` of what a block makes of the result."""
    largest_gradient: Tensor | None = None
    """The same for the gradient of the result."""


@torch.no_grad()
def prepare(
    linears: Sequence[nn.Linear], dtype: torch.dtype, to_fp8: bool, fp8_weight_gradients: bool = False
) -> list[Prepared]:
    """Parameters of layers of one shape (N, K), fp32, for matmuls of activations in `dtype`, in few launches.

    With `to_fp8`, weights are in fp8, and `dtype` is bf16.
    """
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
    parts = [fp8.quantize_weights(weights) if to_fp8 else [(weight,) for weight in _converted(weights, dtype)]]
    parts.append(_converted(biases, dtype))
    if to_fp8:
        largest_bias = torch.stack(torch._foreach_norm(parts[1], torch.inf))
        parts.append(largest_bias[:, None].repeat(1, fp8.SCALE_ALIGNMENT))
    if to_fp8 and fp8_weight_gradients:
        apart = torch.zeros(2 * len(linears), fp8.SCALE_ALIGNMENT, device=weights[0].device)
        largest = apart[:, :1].unbind()
        parts += [largest[::2], largest[1::2]]
    return [Prepared(*each) for each in zip(*parts, strict=True)]


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


def linear(inputs: Tensor | None, prepared: Prepared, rows: Rows | None) -> Tensor:
    """inputs (T, K) times the transpose of a weight (N, K), plus a bias (N,): (T, N), in the dtype of the bias.

    Args:
        inputs: not read where the weight is in fp8.
        rows: the inputs in fp8, where the weight is.
    """
    weight, bias, *_ = prepared
    if not is_fp8(weight):
        return F.linear(inputs, weight[0], bias)
    values, _, scale, *_ = weight
    return fp8.matmul(rows, values, scale, bias.dtype, bias)


def input_gradient(gradient: Tensor | None, weight: Weight, rows: Rows | None, dtype: torch.dtype) -> Tensor:
    """gradient (T, N) times weight (N, K): (T, K) in `dtype`; arguments as in `linear`."""
    if not is_fp8(weight):
        return gradient @ weight[0]
    _, columns, scale, *_ = weight
    return fp8.matmul(rows, columns, scale, dtype)


def room(n_tokens: int, weight: Weight, largest: Tensor | None, of_gradient: bool = False) -> Rows | None:
    """Room for the inputs of a matmul with `weight`, or for the gradient of its result, in fp8; None if it runs in
    another format."""
    if not is_fp8(weight):
        return None
    n_rows, n_columns = weight[0].shape
    return fp8.empty_rows(n_tokens, n_rows if of_gradient else n_columns, weight[0].device, largest)


def kept_inputs(inputs: Tensor | None, rows: Rows | None) -> Inputs:
    """What `weight_gradient` reads of a matmul's inputs: the three of `Rows`, or the inputs alone."""
    return rows if rows is not None and rows.largest is not None else (inputs,)


def weight_gradient(gradient: Tensor | None, rows: Rows | None, inputs: Inputs, parameter: Tensor) -> Tensor:
    """The transpose of gradient (T, N) times inputs (T, K): (N, K) in fp32, unrounded on a GPU.

    Args:
        gradient: not read where the inputs are kept in fp8.
        rows: the gradient in fp8, where the inputs are.
        parameter: the weight (N, K). Its `gradient_place`, where somebody gave it one
            (training/distributed/bucket_reduction.py), is written to and returned, in its own dtype.
    """
    place = getattr(parameter, "gradient_place", None)
    if len(inputs) > 1:
        return fp8.product_over_rows(rows, Rows(*inputs), place)
    result = torch.empty_like(parameter) if place is None else place
    if gradient.dtype == result.dtype:
        torch.mm(gradient.T, *inputs, out=result)
    elif gradient.is_cuda and result.dtype == torch.float32:
        torch.mm(gradient.T, *inputs, out_dtype=result.dtype, out=result)
    else:
        result.copy_(gradient.T @ inputs[0])
    return result
