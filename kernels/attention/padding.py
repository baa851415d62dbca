"""Between the flat layout and the (batch, sequence) rectangle.

The model works on flat tokens: all sequences of a batch one after the other, T tokens in all, with `cu_seqlens`, the
cumulative lengths, saying where each begins. Padding then costs nothing. Two places still need the rectangle: attention
on hardware without a variable-length kernel, and people who bring padded tensors of their own. These functions cross
over in both directions; each is the other's transpose, so each is the other's backward as well, and as the indices
never repeat both are a plain copy instead of autograd's atomic additions.

No function here waits for the device: sizes come from shapes and from the Python integer `max_seqlen`.
"""

import torch
from torch import Tensor


def sequence_indices(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Which sequence each token belongs to: (T,) int64, for `cu_seqlens` (B + 1,) int32; sequences may be empty."""
    tokens = torch.arange(n_tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:], tokens, right=True)


def padded_indices(cu_seqlens: Tensor, max_seqlen: int, n_tokens: int) -> Tensor:
    """Where each token lies in the flattened rectangle of B rows and `max_seqlen` columns: (T,) int64."""
    sequence = sequence_indices(cu_seqlens, n_tokens)
    tokens = torch.arange(n_tokens, device=cu_seqlens.device)
    return sequence * max_seqlen + tokens - cu_seqlens[sequence]


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, flat: Tensor, indices: Tensor, n_rows: int) -> Tensor:
        ctx.save_for_backward(indices)
        padded = flat.new_zeros(n_rows, *flat.shape[1:])
        padded[indices] = flat
        return padded

    @staticmethod
    def backward(ctx, padded_gradient: Tensor):
        (indices,) = ctx.saved_tensors
        return padded_gradient[indices], None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, padded: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.n_rows = padded.shape[0]
        return padded[indices]

    @staticmethod
    def backward(ctx, flat_gradient: Tensor):
        (indices,) = ctx.saved_tensors
        padded_gradient = flat_gradient.new_zeros(ctx.n_rows, *flat_gradient.shape[1:])
        padded_gradient[indices] = flat_gradient
        return padded_gradient, None


def pad(flat: Tensor, indices: Tensor, batch_size: int, max_seqlen: int) -> Tensor:
    """Flat tokens (T, ...) into a rectangle (batch_size, max_seqlen, ...), zero where there is no token.

    `indices` (T,) are those of `padded_indices`, or any that do not repeat.
    """
    return _Pad.apply(flat, indices, batch_size * max_seqlen).unflatten(0, (batch_size, max_seqlen))


def unpad(padded: Tensor, indices: Tensor) -> Tensor:
    """The tokens (T, ...) that lie at `indices` (T,) of a rectangle (B, S, ...)."""
    return _Unpad.apply(padded.flatten(0, 1), indices)
