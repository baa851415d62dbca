"""What attention is given when it is measured by itself: random numbers for sequences of stated lengths."""

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.pretraining.synthetic import synthetic_batch


class AttentionInputs(NamedTuple):
    """Query, key and value of a flat batch, and where its sequences lie."""

    qkv: Tensor  # (T, 3, N, D)
    gradient: Tensor  # (T, N, D), of the output
    cu_seqlens: Tensor  # (B + 1,) int32
    max_seqlen: int


def random_inputs(
    n_sequences: int, max_seqlen: int, mean: float | None, heads: tuple[int, int], dtype: torch.dtype, device: str
) -> AttentionInputs:
    """Of full sequences or, with a mean, of lengths around it; `heads` are number and size. The same at each call."""
    cu_seqlens = synthetic_batch(n_sequences, max_seqlen, 1, 2, mean).cu_seqlens
    generator = torch.Generator(device).manual_seed(0)
    qkv, gradient = (
        torch.randn(int(cu_seqlens[-1]), *parts, *heads, device=device, dtype=dtype, generator=generator)
        for parts in ((3,), ())
    )
    return AttentionInputs(qkv, gradient, cu_seqlens.to(device), max_seqlen)
