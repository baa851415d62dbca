"""Attention as two functions, forward and backward, for layers that write the gradient of what is around it themselves.

What lies between the two is a tuple of tensors. So it can be saved by autograd's own means, and recomputed where
activations are checkpointed. A backend without such a pair, as those for CPUs and fp32, keeps a graph instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention.backends import BACKENDS


class RecordedAttention:
    """One call's settings, and what its backward needs beside tensors.

    Args:
        cu_seqlens: (B + 1,) int32, cumulative sequence lengths.
        max_seqlen: no sequence is longer.
        dropout_p: probability with which an attention weight is dropped.
        backend: a name in `kernels.attention.backends.BACKENDS`.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, backend: str):
        self._backend = BACKENDS[backend]
        self._settings = cu_seqlens, max_seqlen, dropout_p
        self._graph: tuple[Tensor, Tensor] | None = None

    def forward(self, qkv: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attend, (T, 3, N, D) to (T, N, D); the tuple is for `backward`."""
        if self._backend.forward:
            return self._backend.forward(qkv, *self._settings)
        with torch.enable_grad():
            leaf = qkv.detach().requires_grad_()
            output = self._backend.attend(leaf, *self._settings)
        self._graph = leaf, output
        return output.detach(), ()

    def backward(self, gradient: Tensor, qkv: Tensor, output: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """From the gradient of the output to that of `qkv` (T, 3, N, D), and its sum over T, (3 * N * D,) in fp32.

        The sum is the gradient of a bias that was added to `qkv`.
        """
        if self._backend.backward:
            qkv_gradient, bias_gradient = self._backend.backward(gradient, qkv, output, saved, *self._settings)
        else:
            leaf, recorded = self._graph
            self._graph = bias_gradient = None
            (qkv_gradient,) = torch.autograd.grad(recorded, leaf, gradient)
        if bias_gradient is None:
            bias_gradient = qkv_gradient.flatten(1).sum(0, dtype=torch.float32)
        return qkv_gradient, bias_gradient
