"""The attention kernels for sequences of more than 128 tokens, walked over in blocks.

Backward has two kernels, since no thread block sees all of a sequence and nothing is added up through memory: one has a
block of queries and meets all keys, the other a block of keys and meets all queries. Both make the scores again, seven
matmuls instead of five; in return every gradient is written once, and the same bits come every time.

By count it is instructions, some 14 to 17 per score, and neither matmuls nor memory that bounds these kernels. So only
the last block of keys is asked whether the sequence ends within it, and the mask's keys, a hundred instructions per
query, are made by the first kernel of backward and read by the second.
"""

import triton
import triton.language as tl

from kernels.attention.tiles import LN_2, LOG2_E, load_rows, load_scaled_log_sum_exp, locate, store_rows, tile_gradients
from kernels.dropout_mask import is_kept, key_from, row_key


@triton.jit(do_not_specialize=["n_tokens", "n_blocks", "threshold"])
def attention_forward_blocks(
    qkv_ptr,
    output_ptr,
    log_sum_exp_ptr,
    cu_seqlens_ptr,
    seed_ptr,
    n_tokens,
    n_blocks,
    scale,
    threshold,
    kept_scale,
    n_heads: tl.constexpr,
    head_size: tl.constexpr,
    block_queries: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """One thread block: one head of one of a sequence's `n_blocks` blocks of queries."""
    width: tl.constexpr = n_heads * head_size
    head, number, start, length = locate(cu_seqlens_ptr, n_heads, n_blocks)
    first_query = number * block_queries
    if first_query >= length:
        return
    qkv_ptr += start * (3 * width) + head * head_size

    places = first_query + tl.arange(0, block_queries)
    query = load_rows(qkv_ptr, places, length, 3 * width, head_size)
    row_keys = row_key(tl.load(seed_ptr), (start.to(tl.int32) + places) * n_heads + head)
    highest = tl.full((block_queries,), float("-inf"), tl.float32)
    total = tl.zeros((block_queries,), tl.float32)
    output = tl.zeros((block_queries, head_size), tl.float32)
    scale *= LOG2_E
    n_full = length // block_keys
    for block in range(n_full):
        highest, total, output = _meet_keys(
            highest, total, output, query, row_keys, block * block_keys, qkv_ptr, length, scale, threshold,
            width, head_size, block_keys, has_dropout, False,
        )  # fmt: skip
    if n_full * block_keys < length:
        highest, total, output = _meet_keys(
            highest, total, output, query, row_keys, n_full * block_keys, qkv_ptr, length, scale, threshold,
            width, head_size, block_keys, has_dropout, True,
        )  # fmt: skip
    output *= (kept_scale / total)[:, None]
    store_rows(output_ptr + start * width + head * head_size, output, places, length, width, head_size)
    log_sum_exp_ptr += head.to(tl.int64) * n_tokens + start
    tl.store(log_sum_exp_ptr + places, (highest + tl.log2(total)) * LN_2, places < length)


@triton.jit
def _meet_keys(
    highest,
    total,
    output,
    query,
    row_keys,
    first_key,
    qkv_ptr,
    length,
    scale,
    threshold,
    width: tl.constexpr,
    head_size: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
    has_end: tl.constexpr,
):
    """The running softmax of forward, one block of keys further; `has_end`: whether the sequence ends within it."""
    key_places = first_key + tl.arange(0, block_keys)
    key = load_rows(qkv_ptr + width, key_places, length, 3 * width, head_size)
    value = load_rows(qkv_ptr + 2 * width, key_places, length, 3 * width, head_size)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if has_end:
        scores = tl.where((key_places < length)[None, :], scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1) * scale)
    correction = tl.exp2(highest - higher)
    weights = tl.exp2(scores * scale - higher[:, None])
    total = total * correction + tl.sum(weights, 1)
    if has_dropout:
        # Not a constant zero: that would be chosen after the rounding, of which two come in one register.
        weights = tl.where(is_kept(key_from(row_keys, first_key), block_keys, threshold), weights, weights * 0.0)
    output = tl.dot(weights.to(value.dtype), value, output * correction[:, None], input_precision="ieee")
    return higher, total, output


@triton.jit(do_not_specialize=["n_tokens", "n_blocks", "threshold"])
def attention_backward_queries(
    gradient_ptr,
    qkv_ptr,
    output_ptr,
    log_sum_exp_ptr,
    delta_ptr,
    row_keys_ptr,
    qkv_gradient_ptr,
    sums_ptr,
    cu_seqlens_ptr,
    seed_ptr,
    n_tokens,
    n_blocks,
    scale,
    threshold,
    kept_scale,
    n_heads: tl.constexpr,
    head_size: tl.constexpr,
    block_queries: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """The queries' gradient of one block, its sum over the block into `sums`; `delta` and keys for the other kernel."""
    width: tl.constexpr = n_heads * head_size
    head, number, start, length = locate(cu_seqlens_ptr, n_heads, n_blocks)
    first_query = number * block_queries
    sums = sums_ptr + tl.program_id(0) * head_size + tl.arange(0, head_size)
    if first_query >= length:
        tl.store(sums, tl.zeros((head_size,), tl.float32))
        return
    qkv_ptr += start * (3 * width) + head * head_size
    qkv_gradient_ptr += start * (3 * width) + head * head_size
    output_ptr += start * width + head * head_size
    gradient_ptr += start * width + head * head_size
    log_sum_exp_ptr += head.to(tl.int64) * n_tokens + start
    delta_ptr += head.to(tl.int64) * n_tokens + start
    row_keys_ptr += head.to(tl.int64) * n_tokens + start

    places = first_query + tl.arange(0, block_queries)
    query = load_rows(qkv_ptr, places, length, 3 * width, head_size)
    gradient = load_rows(gradient_ptr, places, length, width, head_size)
    output = load_rows(output_ptr, places, length, width, head_size)
    delta = tl.sum(gradient.to(tl.float32) * output.to(tl.float32), 1) / kept_scale
    tl.store(delta_ptr + places, delta, places < length)
    log_sum_exp = load_scaled_log_sum_exp(log_sum_exp_ptr, places, length, kept_scale)
    row_keys = row_key(tl.load(seed_ptr), (start.to(tl.int32) + places) * n_heads + head)
    if has_dropout:
        tl.store(row_keys_ptr + places, row_keys.to(tl.int32, bitcast=True), places < length)
    query_gradient = tl.zeros((block_queries, head_size), tl.float32)
    n_full = length // block_keys
    for block in range(n_full):
        query_gradient = _add_keys(
            query_gradient, query, gradient, log_sum_exp, delta, row_keys, block * block_keys, qkv_ptr, length, scale,
            threshold, width, head_size, block_keys, has_dropout, False,
        )  # fmt: skip
    if n_full * block_keys < length:
        query_gradient = _add_keys(
            query_gradient, query, gradient, log_sum_exp, delta, row_keys, n_full * block_keys, qkv_ptr, length, scale,
            threshold, width, head_size, block_keys, has_dropout, True,
        )  # fmt: skip
    query_gradient *= scale
    store_rows(qkv_gradient_ptr, query_gradient, places, length, 3 * width, head_size)
    tl.store(sums, tl.sum(query_gradient, 0))


@triton.jit
def _add_keys(
    query_gradient,
    query,
    gradient,
    log_sum_exp,
    delta,
    row_keys,
    first_key,
    qkv_ptr,
    length,
    scale,
    threshold,
    width: tl.constexpr,
    head_size: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
    has_end: tl.constexpr,
):
    """The queries' gradient with the share of one block of keys added; `has_end` as above."""
    key_places = first_key + tl.arange(0, block_keys)
    key = load_rows(qkv_ptr + width, key_places, length, 3 * width, head_size)
    value = load_rows(qkv_ptr + 2 * width, key_places, length, 3 * width, head_size)
    _, score_gradients = tile_gradients(
        query, key, value, gradient, log_sum_exp, delta, row_keys, first_key, length, scale, threshold, has_dropout,
        has_end,
    )  # fmt: skip
    return tl.dot(score_gradients, key, query_gradient, input_precision="ieee")


@triton.jit(do_not_specialize=["n_tokens", "n_blocks", "threshold"])
def attention_backward_keys(
    gradient_ptr,
    qkv_ptr,
    log_sum_exp_ptr,
    delta_ptr,
    row_keys_ptr,
    qkv_gradient_ptr,
    sums_ptr,
    cu_seqlens_ptr,
    n_tokens,
    n_blocks,
    scale,
    threshold,
    kept_scale,
    n_heads: tl.constexpr,
    head_size: tl.constexpr,
    block_queries: tl.constexpr,
    block_keys: tl.constexpr,
    has_dropout: tl.constexpr,
):
    """The keys' and values' gradients of one block of keys, and the latter's sum over the block into `sums`."""
    width: tl.constexpr = n_heads * head_size
    head, number, start, length = locate(cu_seqlens_ptr, n_heads, n_blocks)
    first_key = number * block_keys
    sums = sums_ptr + tl.program_id(0) * head_size + tl.arange(0, head_size)
    if first_key >= length:
        tl.store(sums, tl.zeros((head_size,), tl.float32))
        return
    qkv_ptr += start * (3 * width) + head * head_size
    qkv_gradient_ptr += start * (3 * width) + head * head_size
    gradient_ptr += start * width + head * head_size
    log_sum_exp_ptr += head.to(tl.int64) * n_tokens + start
    delta_ptr += head.to(tl.int64) * n_tokens + start
    row_keys_ptr += head.to(tl.int64) * n_tokens + start

    key_places = first_key + tl.arange(0, block_keys)
    key = load_rows(qkv_ptr + width, key_places, length, 3 * width, head_size)
    value = load_rows(qkv_ptr + 2 * width, key_places, length, 3 * width, head_size)
    key_gradient = tl.zeros((head_size, block_keys), tl.float32)
    value_gradient = tl.zeros((head_size, block_keys), tl.float32)
    for first_query in range(0, length, block_queries):
        places = first_query + tl.arange(0, block_queries)
        query = load_rows(qkv_ptr, places, length, 3 * width, head_size)
        gradient = load_rows(gradient_ptr, places, length, width, head_size)
        log_sum_exp = load_scaled_log_sum_exp(log_sum_exp_ptr, places, length, kept_scale)
        delta = tl.load(delta_ptr + places, places < length, 0.0)
        row_keys = tl.load(row_keys_ptr + places, places < length, 0).to(tl.uint32, bitcast=True)
        # A key's results are its own until the sum over them, so keys behind the end can wait until then.
        kept, score_gradients = tile_gradients(
            query, key, value, gradient, log_sum_exp, delta, row_keys, first_key, length, scale, threshold,
            has_dropout, has_end=False,
        )  # fmt: skip
        value_gradient = tl.dot(tl.trans(gradient), kept, value_gradient, input_precision="ieee")
        key_gradient = tl.dot(tl.trans(query), score_gradients, key_gradient, input_precision="ieee")
    store_rows(qkv_gradient_ptr + width, tl.trans(key_gradient * scale), key_places, length, 3 * width, head_size)
    store_rows(qkv_gradient_ptr + 2 * width, tl.trans(value_gradient), key_places, length, 3 * width, head_size)
    tl.store(sums, tl.sum(tl.where((key_places < length)[None, :], value_gradient, 0.0), 1))
