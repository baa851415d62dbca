"""The two halves of an encoder layer over fused kernels, each one function of autograd.

Between the matmuls, a layer only moves memory, and left to itself autograd moves it often: a pass for every
operation, one more wherever gradients meet, one for every bias. Here dropout, residual and LayerNorm are one pass
(dropout_add_norm.py) and GELU is one (gelu.py), forward and backward, with the gradients of the biases as by-products.
Weight gradients leave their matmuls in fp32, as the parameters are, and are rounded nowhere. A block is handed its
weights twice: as parameters, for autograd, and as the matmuls take them (`linear.prepare`), to compute with.

A block uses its input twice, in a matmul and as the residual, and autograd would add the two gradients in a pass. So
the input travels from block to block as two tensors in one memory (`Hidden`). Their gradients come back apart, and the
norm's backward in the block before adds them in its registers.

In fp8, a pass that has a matmul's factor in registers leaves it in fp8 as well (fp8.py), also for the next block.

Shape suffixes: T tokens, H hidden size, I intermediate size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.attention.recorded import RecordedAttention
from kernels.dropout_mask import random_seed
from kernels.fused.dropout_add_norm import dropout_add_norm_, dropout_add_norm_backward
from kernels.fused.fp8 import Rows
from kernels.fused.gelu import gelu, gelu_backward_
from kernels.fused.linear import Prepared, input_gradient, is_fp8, linear, weight_gradient


class Hidden(NamedTuple):
    """Hidden states (T, H), contiguous, in the dtype to compute in, on the way from block to block."""

    states: Tensor
    """For matmuls, and for whoever is no block."""
    residual: Tensor
    """The same memory, whose gradient autograd keeps apart from that of `states`."""
    rows: Rows | None = None
    """The same in fp8, where somebody has left it; no gradient goes through it, and nobody keeps it for backward."""


def as_hidden(hidden_states: Tensor | Hidden) -> Hidden:
    """What a block takes. The two gradients of a tensor that comes from elsewhere are added by autograd."""
    return hidden_states if isinstance(hidden_states, Hidden) else Hidden(hidden_states, hidden_states)


def attention_block(
    hidden: Hidden,
    query_key_value: nn.Linear,
    output: nn.Linear,
    norm: nn.LayerNorm,
    prepared: Sequence[Prepared],
    n_heads: int,
    attention: RecordedAttention,
    dropout_p: float,
    to_fp8: bool = False,
) -> Hidden:
    """LayerNorm(dropout(output(attention(query_key_value(hidden)))) + hidden).

    Args:
        query_key_value, output, norm: their parameters are fp32.
        prepared: what `linear.prepare` made of both matmuls' parameters; it decides what the matmuls run in.
        n_heads: that the result of `query_key_value` is divided into.
        attention: made for this call.
        dropout_p: of the result of `output`.
        to_fp8: leave the result in fp8 as well.
    """
    settings = *prepared, n_heads, attention, norm.eps, dropout_p, to_fp8
    return Hidden(
        *_AttentionBlock.apply(*hidden, norm.weight, norm.bias, *settings, *_parameters(query_key_value, output))
    )


def feed_forward_block(
    hidden: Hidden,
    intermediate: nn.Linear,
    output: nn.Linear,
    norm: nn.LayerNorm,
    prepared: Sequence[Prepared],
    dropout_p: float,
    to_fp8: bool = False,
) -> Hidden:
    """LayerNorm(dropout(output(gelu(intermediate(hidden)))) + hidden).

    Arguments are those of `attention_block`.
    """
    settings = *prepared, norm.eps, dropout_p, to_fp8
    return Hidden(
        *_FeedForwardBlock.apply(*hidden, norm.weight, norm.bias, *settings, *_parameters(intermediate, output))
    )


def _parameters(*linears: nn.Linear) -> list[Tensor]:
    """What a block's gradients of its weights and biases are for."""
    return [parameter for linear in linears for parameter in (linear.weight, linear.bias)]


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden_TH,
        residual_TH,
        rows,
        norm_weight,
        norm_bias,
        query_key_value,
        output,
        n_heads,
        attention,
        eps,
        dropout_p,
        to_fp8,
        *parameters,
    ):
        qkv = linear(hidden_TH, query_key_value, rows).unflatten(1, (3, n_heads, -1))
        attended, recorded = attention.forward(qkv)
        summed = linear(attended.flatten(1), output)
        seed = random_seed(hidden_TH.device)
        normalized, mean, scale, rows = dropout_add_norm_(
            summed, residual_TH, norm_weight, norm_bias, eps, dropout_p, seed, to_fp8
        )
        ctx.set_materialize_grads(False)
        ctx.attention, ctx.dropout_p, ctx.n_per_weight = attention, dropout_p, len(output.weight)
        weights = *query_key_value.weight, *output.weight
        ctx.save_for_backward(hidden_TH, qkv, attended, summed, mean, scale, seed, norm_weight, *weights, *recorded)
        return normalized, normalized.detach(), rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        hidden_TH, qkv, attended, summed, mean, scale, seed, norm_weight, *others = ctx.saved_tensors
        n = ctx.n_per_weight
        qkv_weight, weight, recorded = others[:n], others[n : 2 * n], others[2 * n :]
        residual_gradient, output_gradient, sums_3H, rows = dropout_add_norm_backward(
            _present(gradients, summed), summed, mean, scale, norm_weight, ctx.dropout_p, seed, is_fp8(weight)
        )
        norm_weight_gradient, norm_bias_gradient, bias_gradient = sums_3H.unbind()
        output_weight_gradient = weight_gradient(output_gradient, attended.flatten(1))
        attended_gradient = input_gradient(output_gradient, weight, rows).view_as(attended)
        qkv_gradient, qkv_bias_gradient = ctx.attention.backward(attended_gradient, qkv, attended, recorded)
        qkv_gradient = qkv_gradient.flatten(1)
        qkv_weight_gradient = weight_gradient(qkv_gradient, hidden_TH)
        return (
            input_gradient(qkv_gradient, qkv_weight),
            residual_gradient,
            None,
            norm_weight_gradient,
            norm_bias_gradient,
            *(None,) * 7,
            qkv_weight_gradient,
            qkv_bias_gradient,
            output_weight_gradient,
            bias_gradient,
        )


class _FeedForwardBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden_TH,
        residual_TH,
        rows,
        norm_weight,
        norm_bias,
        intermediate,
        output,
        eps,
        dropout_p,
        to_fp8,
        *parameters,
    ):
        inner_TI = linear(hidden_TH, intermediate, rows)
        activated_TI, rows = gelu(inner_TI, is_fp8(output.weight))
        summed = linear(activated_TI, output, rows)
        seed = random_seed(hidden_TH.device)
        normalized, mean, scale, rows = dropout_add_norm_(
            summed, residual_TH, norm_weight, norm_bias, eps, dropout_p, seed, to_fp8
        )
        ctx.set_materialize_grads(False)
        ctx.dropout_p, ctx.n_per_weight = dropout_p, len(output.weight)
        weights = *intermediate.weight, *output.weight
        ctx.save_for_backward(hidden_TH, inner_TI, activated_TI, summed, mean, scale, seed, norm_weight, *weights)
        return normalized, normalized.detach(), rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        hidden_TH, inner_TI, activated_TI, summed, mean, scale, seed, norm_weight, *weights = ctx.saved_tensors
        inner_weight, weight = weights[: ctx.n_per_weight], weights[ctx.n_per_weight :]
        residual_gradient, output_gradient, sums_3H, rows = dropout_add_norm_backward(
            _present(gradients, summed), summed, mean, scale, norm_weight, ctx.dropout_p, seed, is_fp8(weight)
        )
        norm_weight_gradient, norm_bias_gradient, bias_gradient = sums_3H.unbind()
        output_weight_gradient = weight_gradient(output_gradient, activated_TI)
        inner_gradient = input_gradient(output_gradient, weight, rows)
        inner_bias_gradient, rows = gelu_backward_(inner_gradient, inner_TI, is_fp8(inner_weight))
        inner_weight_gradient = weight_gradient(inner_gradient, hidden_TH)
        return (
            input_gradient(inner_gradient, inner_weight, rows),
            residual_gradient,
            None,
            norm_weight_gradient,
            norm_bias_gradient,
            *(None,) * 5,
            inner_weight_gradient,
            inner_bias_gradient,
            output_weight_gradient,
            bias_gradient,
        )


def _present(gradients: Sequence[Tensor | None], like: Tensor) -> Sequence[Tensor]:
    """The gradients that there are of a block's outputs; of what nobody has used, zeros."""
    return [gradient.contiguous() for gradient in gradients if gradient is not None] or [torch.zeros_like(like)]
