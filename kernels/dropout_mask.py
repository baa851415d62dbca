"""Dropout masks that are computed wherever they are needed, and stored nowhere.

Forward and backward must drop the same elements, so a mask is a function of a seed and an element's place. PyTorch's
kernels draw it by Philox, some 100 integer operations for four numbers, and keep it, a byte per element. Here Philox
runs once per row and gives the row's key; within a row, column c has the c-th number of a SplitMix sequence that starts
at the key: one multiplication and one hash of seven operations, in whatever layout the elements lie. The comparison has
all 32 bits, so a probability of 0.1 is 0.1 to ten digits, and not a multiple of 1/256 as in FlashAttention-2.

Sources: Salmon et al. 2011 (Philox, with its 7 rounds); Steele, Lea and Flood 2014 (SplitMix); C. Wellons 2018,
https://nullprogram.com/blog/2018/07/31/, for the constants of the 32-bit hash.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PHILOX_ROUNDS = tl.constexpr(7)
WEYL_INCREMENT = tl.constexpr(0x9E3779B9)  # 2^32 over the golden ratio, odd: the sequence has full period
HASH_1 = tl.constexpr(0x7FEB352D)
HASH_2 = tl.constexpr(0x846CA68B)


@triton.jit
def row_key(seed, row):
    """The keys of rows (int32 or int64, any shape) under a seed (int64 scalar): uint32, in the shape of `row`."""
    return tl.randint(seed, row, PHILOX_ROUNDS).to(tl.uint32, bitcast=True)


@triton.jit
def is_kept(key, column, threshold):
    """Whether elements are kept, true with probability 1 - threshold / 2^32.

    Args:
        key: uint32, from `row_key`.
        column: integers below 2^32, broadcastable with `key`.
        threshold: uint32, the probability to be dropped times 2^32; see `drop_threshold`.
    """
    x = key + column.to(tl.uint32) * WEYL_INCREMENT
    x = (x ^ (x >> 16)) * HASH_1
    x = (x ^ (x >> 15)) * HASH_2
    x = x ^ (x >> 16)
    return x >= threshold


def drop_threshold(probability: float) -> int:
    """The threshold for `is_kept` that drops with this probability, below 1."""
    return int(probability * 2**32)


def random_seed(device: torch.device) -> Tensor:
    """One int64 (1,) drawn on the device from its generator, so that nobody waits and a seeded run repeats itself."""
    return torch.randint(2**62, (1,), device=device)
