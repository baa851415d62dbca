"""The two halves of an encoder layer over hand-fused kernels, each one function of autograd.

Between the matrix products, a layer only moves memory, and left to itself autograd moves it often: a pass for every
operation, one more wherever gradients meet, one for every bias. Here dropout, residual and LayerNorm are one pass
(dropout_add_norm.py) and GELU is one (gelu.py), forward and backward, with the gradients of the biases as by-products.
The gradient that comes back along the residual is what the product behind it is added to. Weight gradients leave their
products in fp32, as the parameters are, and are rounded nowhere.

What torch.compile makes of a layer stands between: it fuses chains of element-wise operations, but neither adds the
residual's gradient into a product nor knows that a mask can be drawn again.

Shape suffixes: T tokens, H hidden size, I intermediate size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.dropout_add_norm import dropout_add_norm_, dropout_add_norm_backward
from kernels.gelu import gelu, gelu_backward_
from kernels.recorded_attention import RecordedAttention


def attention_block(
    hidden_states: Tensor,
    query_key_value: nn.Linear,
    output: nn.Linear,
    norm: nn.LayerNorm,
    n_heads: int,
    attention: RecordedAttention,
    dropout_p: float,
) -> Tensor:
    """LayerNorm(dropout(output(attention(query_key_value(hidden_states)))) + hidden_states), (T, H) to (T, H).

    Args:
        hidden_states: (T, H), contiguous, in the dtype to compute in.
        query_key_value, output, norm: their parameters are fp32.
        n_heads: that the result of `query_key_value` is divided into.
        attention: made for this call.
        dropout_p: of the result of `output`.
    """
    parameters = query_key_value.weight, query_key_value.bias, output.weight, output.bias, norm.weight, norm.bias
    return _AttentionBlock.apply(hidden_states, *parameters, n_heads, attention, norm.eps, dropout_p)


def feed_forward_block(
    hidden_states: Tensor, intermediate: nn.Linear, output: nn.Linear, norm: nn.LayerNorm, dropout_p: float
) -> Tensor:
    """LayerNorm(dropout(output(gelu(intermediate(hidden_states)))) + hidden_states), (T, H) to (T, H).

    Args:
        hidden_states: (T, H), contiguous, in the dtype to compute in.
        intermediate, output, norm: their parameters are fp32.
        dropout_p: of the result of `output`.
    """
    parameters = intermediate.weight, intermediate.bias, output.weight, output.bias, norm.weight, norm.bias
    return _FeedForwardBlock.apply(hidden_states, *parameters, norm.eps, dropout_p)


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, hidden_TH, qkv_weight, qkv_bias, weight, bias, norm_weight, norm_bias, n_heads, attention, eps, dropout_p
    ):
        dtype = hidden_TH.dtype
        qkv_weight, weight = qkv_weight.to(dtype), weight.to(dtype)
        qkv = F.linear(hidden_TH, qkv_weight, qkv_bias.to(dtype)).unflatten(1, (3, n_heads, -1))
        attended, recorded = attention.forward(qkv)
        summed = F.linear(attended.flatten(1), weight, bias.to(dtype))
        seed = random_seed(hidden_TH.device)
        normalised, mean, scale = dropout_add_norm_(summed, hidden_TH, norm_weight, norm_bias, eps, dropout_p, seed)
        ctx.attention, ctx.dropout_p = attention, dropout_p
        ctx.save_for_backward(
            hidden_TH, qkv, attended, summed, mean, scale, seed, qkv_weight, weight, norm_weight, *recorded
        )
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_TH: Tensor):
        hidden_TH, qkv, attended, summed, mean, scale, seed, qkv_weight, weight, norm_weight, *recorded = (
            ctx.saved_tensors
        )
        residual_gradient, output_gradient, sums_3H = dropout_add_norm_backward(
            gradient_TH.contiguous(), summed, mean, scale, norm_weight, ctx.dropout_p, seed
        )
        norm_weight_gradient, norm_bias_gradient, bias_gradient = sums_3H.unbind()
        weight_gradient = product_in_fp32(output_gradient.T, attended.flatten(1))
        attended_gradient = (output_gradient @ weight).view_as(attended)
        qkv_gradient, qkv_bias_gradient = ctx.attention.backward(attended_gradient, qkv, attended, tuple(recorded))
        qkv_gradient = qkv_gradient.flatten(1)
        qkv_weight_gradient = product_in_fp32(qkv_gradient.T, hidden_TH)
        hidden_gradient = residual_gradient.addmm_(qkv_gradient, qkv_weight)
        return (
            hidden_gradient,
            qkv_weight_gradient,
            qkv_bias_gradient,
            weight_gradient,
            bias_gradient,
            norm_weight_gradient,
            norm_bias_gradient,
            *(None,) * 4,
        )


class _FeedForwardBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TH, in_weight, in_bias, weight, bias, norm_weight, norm_bias, eps, dropout_p):
        dtype = hidden_TH.dtype
        in_weight, weight = in_weight.to(dtype), weight.to(dtype)
        inner_TI = F.linear(hidden_TH, in_weight, in_bias.to(dtype))
        activated_TI = gelu(inner_TI)
        summed = F.linear(activated_TI, weight, bias.to(dtype))
        seed = random_seed(hidden_TH.device)
        normalised, mean, scale = dropout_add_norm_(summed, hidden_TH, norm_weight, norm_bias, eps, dropout_p, seed)
        ctx.dropout_p = dropout_p
        ctx.save_for_backward(
            hidden_TH, inner_TI, activated_TI, summed, mean, scale, seed, in_weight, weight, norm_weight
        )
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_TH: Tensor):
        hidden_TH, inner_TI, activated_TI, summed, mean, scale, seed, in_weight, weight, norm_weight = ctx.saved_tensors
        residual_gradient, output_gradient, sums_3H = dropout_add_norm_backward(
            gradient_TH.contiguous(), summed, mean, scale, norm_weight, ctx.dropout_p, seed
        )
        norm_weight_gradient, norm_bias_gradient, bias_gradient = sums_3H.unbind()
        weight_gradient = product_in_fp32(output_gradient.T, activated_TI)
        inner_gradient = output_gradient @ weight
        in_bias_gradient = gelu_backward_(inner_gradient, inner_TI)
        in_weight_gradient = product_in_fp32(inner_gradient.T, hidden_TH)
        hidden_gradient = residual_gradient.addmm_(inner_gradient, in_weight)
        return (
            hidden_gradient,
            in_weight_gradient,
            in_bias_gradient,
            weight_gradient,
            bias_gradient,
            norm_weight_gradient,
            norm_bias_gradient,
            *(None,) * 2,
        )


def random_seed(device: torch.device) -> Tensor:
    """One int64 (1,) drawn on the device from its generator, so that nobody waits and a seeded run repeats itself."""
    return torch.randint(2**62, (1,), device=device)


def product_in_fp32(left: Tensor, right: Tensor) -> Tensor:
    """(M, K) and (K, N) to (M, N) in fp32, which 16-bit factors on a GPU are accumulated in and not rounded from."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()
