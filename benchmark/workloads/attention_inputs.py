"""What attention is given when it is measured by itself: random numbers for sequences of stated lengths."""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionInputs(NamedTuple):
    """Query, key and value of a flat batch, and where its sequences lie."""

    qkv: Tensor  # (T, 3, N, D)
    gradient: Tensor  # (T, N, D), of the output
    cu_seqlens: Tensor  # (B + 1,) int32
    max_seqlen: int


def random_inputs(
    cu_seqlens: Tensor, max_seqlen: int, n_heads: int, head_size: int, dtype: torch.dtype, device: torch.device
) -> AttentionInputs:
    """The same numbers at each call with the same arguments."""
    generator = torch.Generator(device).manual_seed(0)
    n_tokens = int(cu_seqlens[-1])
    qkv, gradient = (
        torch.randn(n_tokens, *parts, n_heads, head_size, device=device, dtype=dtype, generator=generator)
        for parts in ((3,), ())
    )
    return AttentionInputs(qkv, gradient, cu_seqlens.to(device), max_seqlen)
