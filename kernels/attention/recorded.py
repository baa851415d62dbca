"""Attention as two functions, forward and backward, for those who write the gradient of what is around it themselves.

What lies between the two is a tuple of tensors. So it can be saved by autograd's own means, and recomputed where
activations are checkpointed. Only the backends for CPUs and fp32, which have no such pair, keep a graph instead.

It needs Triton, for the backend of that name and as all do who use it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention import short as short_attention
from kernels.attention.backends import variable_length_attention
from kernels.dropout_mask import random_seed


class RecordedAttention:
    """One call's settings, and what its backward needs beside tensors.

    Args:
        cu_seqlens: (B + 1,) int32, cumulative sequence lengths.
        max_seqlen: no sequence is longer.
        dropout_p: probability with which an attention weight is dropped.
        backend: as in kernels/attention/backends.py.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, backend: str):
        self.cu_seqlens, self.max_seqlen = cu_seqlens, max_seqlen
        self.dropout_p, self.backend = dropout_p, backend
        self._graph: tuple[Tensor, Tensor] | None = None

    def forward(self, qkv: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attend, (T, 3, N, D) to (T, N, D); the tuple is for `backward`."""
        if self.backend == "triton":
            seed = random_seed(qkv.device)
            output, log_sum_exp = short_attention.short_attention(qkv, *self._settings(), seed)
            return output, (log_sum_exp, seed)
        if self.backend == "flash":
            output, log_sum_exp, seed, offset, _ = torch.ops.aten._flash_attention_forward(
                *qkv.unbind(1), *self._lengths(), self.dropout_p, False, False
            )
            return output, (log_sum_exp, seed, offset)
        with torch.enable_grad():
            leaf = qkv.detach().requires_grad_()
            output = variable_length_attention(leaf, self.cu_seqlens, self.max_seqlen, self.dropout_p, self.backend)
        self._graph = leaf, output
        return output.detach(), ()

    def backward(self, gradient: Tensor, qkv: Tensor, output: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """From the gradient of the output to that of `qkv` (T, 3, N, D), and its sum over T, (3 * N * D,) in fp32.

        The sum is the gradient of a bias that was added to `qkv`.
        """
        if self.backend == "triton":
            log_sum_exp, seed = saved
            return short_attention.short_attention_backward(gradient, qkv, output, log_sum_exp, *self._settings(), seed)
        if self.backend == "flash":
            gradients = torch.ops.aten._flash_attention_backward(
                gradient, *qkv.unbind(1), output, saved[0], *self._lengths(), self.dropout_p, False, *saved[1:]
            )
            qkv_gradient = torch.stack(gradients, 1)
        else:
            leaf, recorded = self._graph
            self._graph = None
            (qkv_gradient,) = torch.autograd.grad(recorded, leaf, gradient)
        return qkv_gradient, qkv_gradient.flatten(1).sum(0, dtype=torch.float32)

    def _settings(self) -> tuple[Tensor, int, float]:
        return self.cu_seqlens, self.max_seqlen, self.dropout_p

    def _lengths(self) -> tuple[Tensor, Tensor, int, int]:
        """Of queries and keys, which are the same tokens, in the order of ATen's arguments."""
        return self.cu_seqlens, self.cu_seqlens, self.max_seqlen, self.max_seqlen
