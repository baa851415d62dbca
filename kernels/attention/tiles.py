"""What the attention kernels share: rows of one head of one sequence, and a tile of scores on the way back.

Softmax is in base 2, with log2(e) in the scale of the scores. The sum that its gradient needs, `delta`, comes per query
from outside, so a tile needs no other tile of its row. Probabilities are recomputed from the rows' log-sum-exp with
1 / (1 - p) in it already, p the dropout probability: what is kept needs no multiplication any more.
"""

import triton
import triton.language as tl

from kernels.dropout_mask import is_kept, key_from

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def locate(cu_seqlens_ptr, n_heads: tl.constexpr, n_blocks):
    """What this thread block has: a head, the number of a block of the sequence, and where that starts and how long it
    is; of each sequence's `n_blocks` blocks, all heads lie beside each other."""
    head = tl.program_id(0) % n_heads
    sequence = tl.program_id(0) // n_heads // n_blocks
    number = tl.program_id(0) // n_heads % n_blocks
    start = tl.load(cu_seqlens_ptr + sequence).to(tl.int64)
    return head, number, start, tl.load(cu_seqlens_ptr + sequence + 1) - start.to(tl.int32)


@triton.jit
def load_rows(pointer, rows, length, stride: tl.constexpr, head_size: tl.constexpr):
    """The (rows, head_size) at `rows` of a sequence that starts at `pointer`; zeros behind its end."""
    places = rows[:, None] * stride + tl.arange(0, head_size)[None, :]
    return tl.load(pointer + places, (rows < length)[:, None], 0.0)


@triton.jit
def store_rows(pointer, values, rows, length, stride: tl.constexpr, head_size: tl.constexpr):
    """The inverse of `load_rows`, to the dtype of `pointer`; what lies behind the sequence's end is left alone."""
    places = rows[:, None] * stride + tl.arange(0, head_size)[None, :]
    tl.store(pointer + places, values.to(pointer.dtype.element_ty), (rows < length)[:, None])


@triton.jit
def load_scaled_log_sum_exp(pointer, rows, length, kept_scale):
    """What to subtract from scores in base 2, so that 2 to the rest is a probability times `kept_scale`."""
    return tl.load(pointer + rows, rows < length, 0.0) * LOG2_E - tl.log2(kept_scale)


@triton.jit
def tile_gradients(
    query,
    key,
    value,
    gradient,
    log_sum_exp,
    delta,
    row_keys,
    first_key,
    length,
    scale,
    threshold,
    has_dropout: tl.constexpr,
    has_end: tl.constexpr = True,
):
    """A tile of the attention matrix in backward.

    Args:
        query, gradient: (m, D), rows of the queries and of the output's gradient.
        key, value: (n, D).
        log_sum_exp: (m,), from `load_scaled_log_sum_exp`.
        delta: (m,) fp32, the sum of output times gradient over D, divided by `kept_scale`.
        row_keys: (m,) uint32, the queries' keys of the dropout mask.
        first_key: the first key's place in the sequence, a multiple of 32.
        has_end: whether results are zero for keys behind the sequence's end; else they may be anything there, NaN too.

    Returns:
        (m, n) each, in the dtype of the factors: the probabilities that are kept, times `kept_scale`, and the gradient
        of the scaled scores.
    """
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    kept_gradients = tl.dot(gradient, tl.trans(value), input_precision="ieee")
    probabilities = tl.exp2(scores * (scale * LOG2_E) - log_sum_exp[:, None])
    if has_end:
        is_inside = first_key + tl.arange(0, key.shape[0]) < length
        probabilities = tl.where(is_inside[None, :], probabilities, 0.0)
    # One tile in registers instead of two: the sign says whether a probability is dropped.
    if has_dropout:
        is_left = is_kept(key_from(row_keys, first_key), key.shape[0], threshold)
        probabilities = tl.where(is_left, probabilities, -probabilities)
    kept = tl.maximum(probabilities, 0.0)
    score_gradients = kept * kept_gradients - tl.abs(probabilities) * delta[:, None]
    return kept.to(value.dtype), score_gradients.to(value.dtype)
