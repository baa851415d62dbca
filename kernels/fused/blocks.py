"""The two halves of an encoder layer over fused kernels, each one function of autograd.

Left to itself, autograd moves memory often: a pass for every operation, one more wherever gradients meet, one for every
bias. Here dropout, residual and LayerNorm are one pass (dropout_add_norm.py) and GELU is one (gelu.py), forward and
backward, with the gradients of the biases as by-products. On Hopper, GELU is no pass at all, but part of a matmul
(gelu_matmul.py). Weight gradients leave their matmuls in fp32.

A block uses its input twice, in a matmul and as the residual, and autograd would add the two gradients in a pass. So
the input travels from block to block as two tensors in one memory (`Hidden`). Their gradients come back apart, and the
norm's backward in the block before adds them in its registers.

In fp8, a pass that has a matmul's factor in registers leaves it in fp8 (fp8.py), also for the next block. Where weight
gradients are in fp8 as well, factors that only matmuls read exist in fp8 alone.

Where only some tokens are read of a model's output, its last attention block drops the others before its last matmul.
Their gradients are zero, so backward brings both of its gradients back to all tokens with zeros.

Shape suffixes: T tokens, R tokens that are handed on (all but in such a block), H hidden size, I width between a
block's two matmuls.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.attention.backends import BACKENDS
from kernels.dropout_mask import random_seed
from kernels.fused.dropout_add_norm import dropout_add_norm_, dropout_add_norm_backward
from kernels.fused.fp8 import Rows, quantize_rows
from kernels.fused.gelu import gelu, gelu_backward_
from kernels.fused.gelu_matmul import gelu_input_gradient, gelu_linear, has_epilogue
from kernels.fused.linear import Prepared, Weight, input_gradient, is_fp8, kept_inputs, linear, room, weight_gradient


class Hidden(NamedTuple):
    """Hidden states (T, H), contiguous, in the dtype to compute in, on the way from block to block."""

    states: Tensor
    """For matmuls, and for whoever is no block."""
    residual: Tensor
    """The same memory, whose gradient autograd keeps apart from that of `states`."""
    rows: Rows | None = None
    """The same in fp8, where somebody has left it; no gradient goes through it."""


class Gelu:
    """The feed-forward block's first matmul and GELU, exact or by tanh; one kernel where gelu_matmul.py has it."""

    tokens = None  # it hands all on

    def __init__(self, tanh: bool = False):
        self._tanh = tanh

    def forward(
        self, hidden_TH: Tensor, first: Prepared, hidden_rows: Rows | None, rows: Rows | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """The matmul's result (T, I); what is made of it; and tensors for `backward`.

        What is made of it is left in `rows` too where there are any, or in those alone.
        """
        if has_epilogue(hidden_TH, hidden_TH.shape[1], len(first.bias)):
            return *gelu_linear(hidden_TH, first, hidden_rows, rows, self._tanh), ()
        inner_TI = linear(hidden_TH, first, hidden_rows)
        return inner_TI, gelu(inner_TI, rows, self._tanh), ()

    def backward(
        self,
        gradient_TH: Tensor | None,
        last: Weight,
        gradient_rows: Rows | None,
        inner_TI: Tensor,
        saved: Sequence[Tensor],
        rows: Rows | None,
    ) -> tuple[Tensor | None, Tensor]:
        """The gradient of `inner_TI`, where it is left as in `forward`; its sum over T in fp32, a bias's gradient.

        Args:
            gradient_TH: of the result of the block's last matmul, whose weight is `last`.
            gradient_rows: the same in fp8, where that is.
        """
        if has_epilogue(inner_TI, *last[0].shape):
            return gelu_input_gradient(gradient_TH, last, gradient_rows, inner_TI, rows, self._tanh)
        gradient_TI = input_gradient(gradient_TH, last, gradient_rows, inner_TI.dtype)
        return gelu_backward_(gradient_TI, inner_TI, rows, self._tanh)


class Attention:
    """The attention block's first matmul and attention: one call's settings. Methods are those of `Gelu`.

    Of `tokens` (R,), where they are given, attention's result alone is handed on; one may come more than once.

    What lies between forward and backward is a tuple of tensors, so that it can be recomputed where activations are
    checkpointed. A backend without such a pair, as those for CPUs and fp32, keeps a graph instead.
    """

    def __init__(
        self,
        n_heads: int,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float,
        backend: str,
        tokens: Tensor | None = None,
    ):
        self._n_heads, self._backend = n_heads, BACKENDS[backend]
        self._settings = cu_seqlens, max_seqlen, dropout_p
        self.tokens = tokens
        self._graph: tuple[Tensor, Tensor] | None = None

    def forward(
        self, hidden_TH: Tensor, first: Prepared, hidden_rows: Rows | None, rows: Rows | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        inner_TI = linear(hidden_TH, first, hidden_rows)
        qkv, saved = inner_TI.unflatten(1, (3, self._n_heads, -1)), ()
        if self._backend.forward:
            output, saved = self._backend.forward(qkv, *self._settings)
        else:
            with torch.enable_grad():
                leaf = qkv.detach().requires_grad_()
                output = self._backend.attend(leaf, *self._settings)
            self._graph = leaf, output
        output = output.detach()
        output_RI = _taken(output.flatten(1), self.tokens)
        if rows is not None:
            quantize_rows(output_RI, rows)
        return inner_TI, output_RI, (output, *saved)

    def backward(
        self,
        gradient_RH: Tensor | None,
        last: Weight,
        gradient_rows: Rows | None,
        inner_TI: Tensor,
        saved: Sequence[Tensor],
        rows: Rows | None,
    ) -> tuple[Tensor, Tensor]:
        qkv = inner_TI.unflatten(1, (3, self._n_heads, -1))
        output, *saved = saved
        gradient_RI = input_gradient(gradient_RH, last, gradient_rows, inner_TI.dtype)
        gradient = _put_back(gradient_RI, self.tokens, len(output)).view_as(output)
        if self._backend.backward:
            qkv_gradient, bias_gradient = self._backend.backward(gradient, qkv, output, saved, *self._settings)
        else:
            leaf, recorded = self._graph
            self._graph = bias_gradient = None
            (qkv_gradient,) = torch.autograd.grad(recorded, leaf, gradient)
        qkv_gradient = qkv_gradient.flatten(1)
        if bias_gradient is None:
            bias_gradient = qkv_gradient.sum(0, dtype=torch.float32)
        if rows is not None:
            quantize_rows(qkv_gradient, rows)
        return qkv_gradient, bias_gradient


def _taken(states: Tensor, tokens: Tensor | None) -> Tensor:
    """The rows (R, ...) of these tokens among those of all (T, ...)."""
    return states if tokens is None else states.index_select(0, tokens)


def _put_back(gradient: Tensor, tokens: Tensor | None, n_tokens: int) -> Tensor:
    """From the gradient of what `_taken` returned to that of what it was given."""
    if tokens is None:
        return gradient
    # On a GPU this adds in any order, and the bits repeat: of the rows that fall on one token all but two at most are
    # zeros, of what fills the masked positions up.
    return gradient.new_zeros(n_tokens, *gradient.shape[1:]).index_add_(0, tokens, gradient)


def fused_block(
    hidden: Hidden,
    first: nn.Linear,
    middle: Attention | Gelu,
    last: nn.Linear,
    norm: nn.LayerNorm,
    prepared: Sequence[Prepared],
    dropout_p: float,
    to_fp8: bool = False,
) -> Hidden:
    """LayerNorm(dropout(last(middle(first(hidden)))) + hidden), for the tokens that `middle` hands on.

    Args:
        first, last, norm: their parameters, which are fp32, for autograd.
        middle: made for this call.
        prepared: what `linear.prepare` made of both matmuls' parameters; it decides what the matmuls run in.
        dropout_p: of the result of `last`.
        to_fp8: leave the result in fp8 as well.
    """
    parameters = norm.weight, norm.bias, first.weight, first.bias, last.weight, last.bias
    return Hidden(*_Block.apply(*hidden, middle, *prepared, norm.eps, dropout_p, to_fp8, *parameters))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TH, residual_TH, rows, middle, first, last, eps, dropout_p, to_fp8, *parameters):
        norm_weight, norm_bias, *_ = parameters
        residual_RH = _taken(residual_TH, middle.tokens)
        n_tokens, n_read = len(hidden_TH), len(residual_RH)
        if is_fp8(first.weight) and rows is None:
            largest = None if first.largest is None else torch.zeros_like(first.largest)
            rows = quantize_rows(hidden_TH, room(n_tokens, first.weight, largest))
        output_rows = room(n_read, last.weight, first.largest)
        inner_TI, output, saved = middle.forward(hidden_TH, first, rows, output_rows)
        summed = linear(output, last, output_rows)
        seed = random_seed(hidden_TH.device)
        result_rows = room(n_read, first.weight, last.largest) if to_fp8 else None
        normalized, mean, scale = dropout_add_norm_(
            summed, residual_RH, norm_weight, norm_bias, eps, dropout_p, seed, result_rows
        )
        ctx.set_materialize_grads(False)
        ctx.middle, ctx.dropout_p = middle, dropout_p
        ctx.weights = parameters[2], parameters[4]
        ctx.largest = first.largest_gradient, last.largest_gradient
        groups = first.weight, last.weight, kept_inputs(hidden_TH, rows), kept_inputs(output, output_rows), saved
        ctx.sizes = [len(group) for group in groups]
        tensors = inner_TI, summed, mean, scale, seed, norm_weight
        ctx.save_for_backward(*itertools.chain(*groups), *tensors)
        return normalized, normalized.detach(), result_rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        tensors = iter(ctx.saved_tensors)
        first, last, inputs, output, saved = (tuple(itertools.islice(tensors, size)) for size in ctx.sizes)
        inner_TI, summed, mean, scale, seed, norm_weight = tensors
        n_tokens, n_read, dtype = len(inner_TI), len(summed), summed.dtype
        first_largest, last_largest = ctx.largest
        # The gradient of an unused output is zeros.
        present = [gradient.contiguous() for gradient in gradients if gradient is not None]
        present = present or [torch.zeros_like(summed)]
        last_rows = room(n_read, last, last_largest, of_gradient=True)
        residual_gradient, last_gradient, sums_3H = dropout_add_norm_backward(
            present, summed, mean, scale, norm_weight, ctx.dropout_p, seed, last_rows
        )
        norm_weight_gradient, norm_bias_gradient, last_bias_gradient = sums_3H.unbind()
        first_weight, last_weight = ctx.weights
        last_weight_gradient = weight_gradient(last_gradient, last_rows, output, last_weight)
        rows = room(n_tokens, first, first_largest, of_gradient=True)
        inner_gradient, first_bias_gradient = ctx.middle.backward(last_gradient, last, last_rows, inner_TI, saved, rows)
        first_weight_gradient = weight_gradient(inner_gradient, rows, inputs, first_weight)
        of_norm = norm_weight_gradient, norm_bias_gradient
        of_linears = first_weight_gradient, first_bias_gradient, last_weight_gradient, last_bias_gradient
        hidden_gradient = input_gradient(inner_gradient, first, rows, dtype)
        residual_gradient = _put_back(residual_gradient, ctx.middle.tokens, n_tokens)
        return hidden_gradient, residual_gradient, *(None,) * 7, *of_norm, *of_linears
