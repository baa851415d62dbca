"""The attention kernels for sequences that one thread block can hold whole: up to 128 tokens.

What they are built around is registers: two blocks of a multiprocessor must fit beside each other, or nothing hides the
time that memory takes. So the matrix of scores is never there whole. Forward takes 64 queries at a time, each with all
of its keys, and its softmax is exact. Backward takes all queries with half of the keys, for which the sum over a row
has to come from the output. Gradients are computed transposed, (D, rows): Triton brings a transposed left factor into
registers before it multiplies, while the right factor stays in shared memory; and their sum over the tokens, for the
bias, then runs within threads instead of between them.
"""

import triton
import triton.language as tl

from kernels.attention.tiles import LN_2, LOG2_E, load_rows, load_scaled_log_sum_exp, locate, store_rows, tile_gradients
from kernels.dropout_mask import is_kept, row_key


@triton.jit(do_not_specialize=["n_tokens", "threshold"])
def attention_forward_whole(
    qkv_ptr,
    output_ptr,
    log_sum_exp_ptr,
    cu_seqlens_ptr,
    seed_ptr,
    n_tokens,
    scale,
    threshold,
    kept_scale,
    n_heads: tl.constexpr,
    head_size: tl.constexpr,
    block: tl.constexpr,
    block_queries: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """One thread block: one head of one sequence of up to `block` tokens."""
    width: tl.constexpr = n_heads * head_size
    head, _, start, length = locate(cu_seqlens_ptr, n_heads, 1)
    qkv_ptr += start * (3 * width) + head * head_size
    output_ptr += start * width + head * head_size
    log_sum_exp_ptr += head.to(tl.int64) * n_tokens + start

    key_places = tl.arange(0, block)
    key = load_rows(qkv_ptr + width, key_places, length, 3 * width, head_size)
    value = load_rows(qkv_ptr + 2 * width, key_places, length, 3 * width, head_size)
    seed = tl.load(seed_ptr)
    scale *= LOG2_E
    for first in tl.range(0, length, block_queries, num_stages=1):
        places = first + tl.arange(0, block_queries)
        query = load_rows(qkv_ptr, places, length, 3 * width, head_size)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = tl.where((key_places < length)[None, :], scores, float("-inf"))
        highest = tl.max(scores, 1) * scale
        weights = tl.exp2(scores * scale - highest[:, None])
        total = tl.sum(weights, 1)
        if has_dropout:
            row_keys = row_key(seed, (start.to(tl.int32) + places) * n_heads + head)
            # Not a constant zero: that would be chosen after the rounding, of which two come in one register.
            weights = tl.where(is_kept(row_keys, block, threshold), weights, weights * 0.0)
        output = tl.dot(weights.to(value.dtype), value, input_precision="ieee") * (kept_scale / total)[:, None]
        store_rows(output_ptr, output, places, length, width, head_size)
        tl.store(log_sum_exp_ptr + places, (highest + tl.log2(total)) * LN_2, places < length)


@triton.jit(do_not_specialize=["n_tokens", "threshold"])
def attention_backward_whole(
    gradient_ptr,
    qkv_ptr,
    output_ptr,
    log_sum_exp_ptr,
    qkv_gradient_ptr,
    partial_sums_ptr,
    cu_seqlens_ptr,
    seed_ptr,
    n_tokens,
    scale,
    threshold,
    kept_scale,
    n_heads: tl.constexpr,
    head_size: tl.constexpr,
    block: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """One thread block: one head of one sequence of up to `block` tokens, which are one or two times `block_keys`.

    `partial_sums` is (2, sequences, heads, head size): the sums over the sequence of the queries' and values' gradient.
    """
    width: tl.constexpr = n_heads * head_size
    head, _, start, length = locate(cu_seqlens_ptr, n_heads, 1)
    query_sums = partial_sums_ptr + tl.program_id(0) * head_size + tl.arange(0, head_size)
    value_sums = query_sums + tl.num_programs(0) * head_size
    if length == 0:
        tl.store(query_sums, tl.zeros((head_size,), tl.float32))
        tl.store(value_sums, tl.zeros((head_size,), tl.float32))
        return
    qkv_ptr += start * (3 * width) + head * head_size
    qkv_gradient_ptr += start * (3 * width) + head * head_size
    output_ptr += start * width + head * head_size
    gradient_ptr += start * width + head * head_size

    places = tl.arange(0, block)
    query = load_rows(qkv_ptr, places, length, 3 * width, head_size)
    gradient = load_rows(gradient_ptr, places, length, width, head_size)
    output = load_rows(output_ptr, places, length, width, head_size)
    early = tl.arange(0, block_keys)
    late = block_keys + early
    early_key = load_rows(qkv_ptr + width, early, length, 3 * width, head_size)
    early_value = load_rows(qkv_ptr + 2 * width, early, length, 3 * width, head_size)
    if block > block_keys:
        late_key = load_rows(qkv_ptr + width, late, length, 3 * width, head_size)
        late_value = load_rows(qkv_ptr + 2 * width, late, length, 3 * width, head_size)
    delta = tl.sum(gradient.to(tl.float32) * output.to(tl.float32), 1) / kept_scale
    log_sum_exp_ptr += head.to(tl.int64) * n_tokens + start
    log_sum_exp = load_scaled_log_sum_exp(log_sum_exp_ptr, places, length, kept_scale)
    row_keys = row_key(tl.load(seed_ptr), (start.to(tl.int32) + places) * n_heads + head)

    early_gradients, value_sum = _key_gradients(
        query, early_key, early_value, gradient, log_sum_exp, delta, row_keys, 0, length, scale, threshold,
        qkv_gradient_ptr, width, head_size, has_dropout,
    )  # fmt: skip
    if block > block_keys:
        late_gradients, late_sum = _key_gradients(
            query, late_key, late_value, gradient, log_sum_exp, delta, row_keys, block_keys, length, scale, threshold,
            qkv_gradient_ptr, width, head_size, has_dropout,
        )  # fmt: skip
        value_sum += late_sum
    query_gradient = tl.dot(tl.trans(early_key), tl.trans(early_gradients), input_precision="ieee") * scale
    if block > block_keys:
        # Scaled one by one: as two matmuls into one sum they would get a layout that halves their speed.
        query_gradient += tl.dot(tl.trans(late_key), tl.trans(late_gradients), input_precision="ieee") * scale
    store_rows(qkv_gradient_ptr, tl.trans(query_gradient), places, length, 3 * width, head_size)
    tl.store(query_sums, tl.sum(query_gradient, 1))
    tl.store(value_sums, value_sum)


@triton.jit
def _key_gradients(
    query,
    key,
    value,
    gradient,
    log_sum_exp,
    delta,
    row_keys,
    first_key: tl.constexpr,
    length,
    scale,
    threshold,
    qkv_gradient_ptr,
    width: tl.constexpr,
    head_size: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """Store the gradients of these keys and values; the gradient of the scores, and the values' sum over the places."""
    kept, score_gradients = tile_gradients(
        query, key, value, gradient, log_sum_exp, delta, row_keys, first_key, length, scale, threshold, has_dropout
    )
    key_places = first_key + tl.arange(0, key.shape[0])
    key_gradient = tl.dot(tl.trans(query), score_gradients, input_precision="ieee") * scale
    store_rows(qkv_gradient_ptr + width, tl.trans(key_gradient), key_places, length, 3 * width, head_size)
    value_gradient = tl.dot(tl.trans(gradient), kept, input_precision="ieee")
    store_rows(qkv_gradient_ptr + 2 * width, tl.trans(value_gradient), key_places, length, 3 * width, head_size)
    return score_gradients, tl.sum(value_gradient, 1)
