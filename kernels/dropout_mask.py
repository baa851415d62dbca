"""Dropout masks that are computed wherever they are needed, and stored nowhere.

Forward and backward must drop the same elements, so a mask is a function of a seed and an element's place. Philox, some
100 integer operations, runs once per row and gives the row's key. Within a row, four columns share one number: the next
of a SplitMix sequence that starts at the key, hashed. Each of the four multiplies it by a constant of its own and
compares the product.

The constants are odd, so each product takes every value of 32 bits as evenly as the number does: a probability of 0.1
is 0.1 to nine digits, and not a multiple of 1/256 as in FlashAttention-2. From one constant to the next is the
multiplier of a congruential generator that does well in the spectral test: two of the four are both dropped with
probability p^2 to six digits. A product's high bits, which decide, depend on all bits of the number, so the hash ends
with that multiplication and not, as usual, with one more mixing of the low bits.

Columns that share a number are 8 apart. In a matmul's result one thread has all four of them, so that there the hash
costs a quarter per element. That four elements get the same number is in the shape of the computation, a broadcast, and
not left to the compiler to find out: with columns' numbers masked it often did not.

Sources: Salmon et al. 2011 (Philox, with its 7 rounds); Steele, Lea and Flood 2014 (SplitMix); C. Wellons 2018,
https://nullprogram.com/blog/2018/07/31/, for the constants of the 32-bit hash; Steele and Vigna 2022,
https://doi.org/10.1002/spe.3030, for the multiplier.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PHILOX_ROUNDS = tl.constexpr(7)
WEYL_INCREMENT = tl.constexpr(0x9E3779B9)  # 2^32 over the golden ratio, odd: the sequence has full period
HASH_1 = tl.constexpr(0x7FEB352D)
# The hash's second constant, and it times 0x93D765DD once, twice and three times.
FACTOR_0 = tl.constexpr(0x846CA68B)
FACTOR_1 = tl.constexpr(0xDF3D9CFF)
FACTOR_2 = tl.constexpr(0x4E4A2323)
FACTOR_3 = tl.constexpr(0x71422437)
SHARING = tl.constexpr(4)
APART = tl.constexpr(8)


@triton.jit
def row_key(seed, row):
    """The keys of rows (int32 or int64, any shape) under a seed (int64 scalar): uint32, in the shape of `row`."""
    return tl.randint(seed, row, PHILOX_ROUNDS).to(tl.uint32, bitcast=True)


@triton.jit
def key_from(key, column):
    """The keys with which `is_kept` continues at this column of the rows, a multiple of 32."""
    return key + tl.cast(column, tl.uint32) * WEYL_INCREMENT


@triton.jit
def is_kept(key, n_columns: tl.constexpr, threshold):
    """Whether the first elements of rows are kept, (m, n_columns), each with probability 1 - threshold / 2^32.

    Args:
        key: (m,) uint32, from `row_key`, or `key_from` for later elements.
        n_columns: a power of two; what it is does not change the mask.
        threshold: uint32, the probability to be dropped times 2^32; see `drop_threshold`.
    """
    apart: tl.constexpr = min(APART, n_columns)
    sharing: tl.constexpr = min(SHARING, n_columns // apart)
    n_blocks: tl.constexpr = n_columns // (sharing * apart)
    shape: tl.constexpr = (n_blocks, sharing, apart)
    first = tl.arange(0, n_blocks)[:, None, None] * (SHARING * APART) + tl.arange(0, apart)[None, None, :]
    first = tl.reshape(tl.broadcast_to(first, shape), (n_columns,))
    member = tl.reshape(tl.broadcast_to(tl.arange(0, sharing)[None, :, None], shape), (n_columns,))
    factor = tl.where(
        member < 2, tl.where(member == 0, FACTOR_0, FACTOR_1), tl.where(member == 2, FACTOR_2, FACTOR_3)
    ).to(tl.uint32)

    x = key[:, None] + (first.to(tl.uint32) * WEYL_INCREMENT)[None, :]
    x = (x ^ (x >> 16)) * HASH_1
    return (x ^ (x >> 15)) * factor[None, :] >= threshold


def drop_threshold(probability: float) -> int:
    """The threshold for `is_kept` that drops with this probability, below 1."""
    return int(probability * 2**32)


def random_seed(device: torch.device) -> Tensor:
    """One int64 (1,) drawn on the device from its generator, so that nobody waits and a seeded run repeats itself."""
    return torch.randint(2**62, (1,), device=device)
