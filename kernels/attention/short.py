"""Attention with dropout for BERT's short sequences, forward and backward.

FlashAttention-2 walks over sequences in blocks, adds the queries' gradients up through memory, takes and gives query,
key and value as three tensors, and leaves the gradient of their bias to others. Here one thread block has the whole of
a sequence of up to 128 tokens, for one head: it reads query, key and value from where their matmul has written them,
writes all three gradients to where the matmul's backward reads them, and has the bias's sums on the way. Up to 512
tokens it goes in blocks as FlashAttention-2 does, but without atomic additions. The same bits come every time.

Whether a weight is dropped depends on the seed, the head, the query's token and the key's place in its sequence alone
(`kernels.dropout_mask`), so all kernels and block shapes have the same mask, and none is stored.

The key's bias moves all scores of a query alike, which softmax does not see: its gradient is zero, and is not summed.

Sources: Dao 2023, https://arxiv.org/abs/2307.08691 (FlashAttention-2); Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867 (the running softmax).
"""

import torch
import triton
from torch import Tensor

from kernels.attention.blocked import attention_backward_keys, attention_backward_queries, attention_forward_blocks
from kernels.attention.whole import attention_backward_whole, attention_forward_whole
from kernels.column_sums import column_sums
from kernels.dropout_mask import drop_threshold
from kernels.tuning import settings

LONGEST_WHOLE = 128
LONGEST = 512
SMALLEST_BLOCK = 32
HEAD_SIZES = (16, 32, 64, 128)
WIDEST_ROW = 128  # bytes of a row of one head, above which a whole sequence is too much for a block


def short_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax attention in which a token sees its own sequence only, its weights dropped at random.

    Args:
        qkv: (T, 3, N, D), contiguous: query, key and value of each token, N heads of one of `HEAD_SIZES`; bf16, fp16 or
            fp32.
        cu_seqlens: (B + 1,) int32 on the device, cumulative sequence lengths; the last is T. Sequences may be empty.
        max_seqlen: no sequence is longer; at most `LONGEST`.
        dropout_p: probability with which an attention weight is dropped, below 1, the others scaled by 1 / (1 - p).
        seed: one int64 on the device.

    Returns:
        (T, N, D) in the dtype of `qkv`; and for backward the logarithm of the sum of the exponentiated scores of each
        query, (N, T) in fp32.
    """
    n_tokens, _, n_heads, head_size = qkv.shape
    output = torch.empty(n_tokens, n_heads, head_size, dtype=qkv.dtype, device=qkv.device)
    log_sum_exp = torch.empty(n_heads, n_tokens, dtype=torch.float32, device=qkv.device)
    n_thread_blocks = (cu_seqlens.shape[0] - 1) * n_heads
    tensors = (qkv, output, log_sum_exp, cu_seqlens, seed)
    numbers, constants = _numbers_and_constants(qkv, dropout_p)
    if is_whole(qkv, max_seqlen):
        tuned = _settings_of_whole("attention_forward_whole", "block_queries", qkv, max_seqlen)
        attention_forward_whole[(n_thread_blocks,)](*tensors, n_tokens, *numbers, **constants, **tuned)
    else:
        tuned = settings("attention_forward_blocks", qkv.device, _format(qkv))
        n_blocks = triton.cdiv(max_seqlen, tuned["block_queries"])
        grid = (n_thread_blocks * n_blocks,)
        attention_forward_blocks[grid](*tensors, n_tokens, n_blocks, *numbers, **constants, **tuned)
    return output, log_sum_exp


def short_attention_backward(
    gradient: Tensor,
    qkv: Tensor,
    output: Tensor,
    log_sum_exp: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """From the gradient of the output to that of query, key and value.

    Args:
        gradient: (T, N, D), contiguous, the dtype of `qkv`.
        output, log_sum_exp: what `short_attention` returned.
        qkv, cu_seqlens, max_seqlen, dropout_p, seed: as given to it.

    Returns:
        (T, 3, N, D) in the dtype of `qkv`; and its sum over the tokens, (3 N D,) in fp32, the gradient of a bias that
        was added to `qkv`, exactly zero for the keys.
    """
    n_tokens, _, n_heads, head_size = qkv.shape
    n_sequences, width = cu_seqlens.shape[0] - 1, n_heads * head_size
    qkv_gradient = torch.empty_like(qkv)
    bias_gradient = qkv.new_zeros(3, width, dtype=torch.float32)
    numbers, constants = _numbers_and_constants(qkv, dropout_p)
    if is_whole(qkv, max_seqlen):
        sums = qkv.new_empty(2, n_sequences, width, dtype=torch.float32)
        tensors = (gradient, qkv, output, log_sum_exp, qkv_gradient, sums, cu_seqlens, seed)
        tuned = _settings_of_whole("attention_backward_whole", "block_keys", qkv, max_seqlen)
        attention_backward_whole[(n_sequences * n_heads,)](*tensors, n_tokens, *numbers, **constants, **tuned)
        column_sums(sums, out=bias_gradient[::2])
        return qkv_gradient, bias_gradient.flatten()

    delta, row_keys = torch.empty_like(log_sum_exp), torch.empty_like(log_sum_exp, dtype=torch.int32)
    tuned = settings("attention_backward_queries", qkv.device, _format(qkv))
    n_blocks = triton.cdiv(max_seqlen, tuned["block_queries"])
    sums = qkv.new_empty(n_sequences * n_blocks, width, dtype=torch.float32)
    tensors = (gradient, qkv, output, log_sum_exp, delta, row_keys, qkv_gradient, sums, cu_seqlens, seed)
    grid = (n_sequences * n_blocks * n_heads,)
    attention_backward_queries[grid](*tensors, n_tokens, n_blocks, *numbers, **constants, **tuned)
    column_sums(sums, out=bias_gradient[0])

    tuned = settings("attention_backward_keys", qkv.device, _format(qkv))
    n_blocks = triton.cdiv(max_seqlen, tuned["block_keys"])
    sums = qkv.new_empty(n_sequences * n_blocks, width, dtype=torch.float32)
    tensors = (gradient, qkv, log_sum_exp, delta, row_keys, qkv_gradient, sums, cu_seqlens)
    grid = (n_sequences * n_blocks * n_heads,)
    attention_backward_keys[grid](*tensors, n_tokens, n_blocks, *numbers, **constants, **tuned)
    column_sums(sums, out=bias_gradient[2])
    return qkv_gradient, bias_gradient.flatten()


def _numbers_and_constants(qkv: Tensor, dropout_p: float) -> tuple[tuple[float, int, float], dict[str, int]]:
    """What every kernel takes: scale of the scores, threshold and scale of the dropout; and its constants."""
    n_heads, head_size = qkv.shape[2:]
    constants = {"n_heads": n_heads, "head_size": head_size, "has_dropout": dropout_p > 0}
    return (head_size**-0.5, drop_threshold(dropout_p), 1 / (1 - dropout_p)), constants


def is_whole(qkv: Tensor, max_seqlen: int) -> bool:
    """Whether one thread block can hold a sequence of that length."""
    return max_seqlen <= LONGEST_WHOLE and qkv.shape[-1] * qkv.element_size() <= WIDEST_ROW


def _settings_of_whole(kernel: str, part: str, qkv: Tensor, max_seqlen: int) -> dict[str, int]:
    """Of a kernel whose thread blocks have sequences whole, and `part` of their tokens at a time."""
    block = max(SMALLEST_BLOCK, triton.next_power_of_2(max_seqlen))
    tuned = settings(kernel, qkv.device, "longest" if block == LONGEST_WHOLE else "")
    return tuned | {"block": block, part: min(block, tuned[part])}


def _format(qkv: Tensor) -> str:
    """What kernels for longer sequences are tuned for apart: fp32, or in 16 bits heads with wide rows."""
    if qkv.element_size() > 2:
        return "fp32"
    return "wide" if qkv.shape[-1] * qkv.element_size() > WIDEST_ROW else ""
