"""Attention with dropout for BERT's short sequences, forward and backward.

FlashAttention-2 is made for sequences that no program can hold: it walks over them in blocks, adds the queries'
gradients up through memory, takes and gives query, key and value as three tensors, and leaves the gradient of their
bias to others. A sequence of 128 tokens needs none of that. Here one program has the whole of it, for one head: it
reads query, key and value once from where their product has written them, writes all three gradients to where the
product's backward reads them, and has the bias's sums on the way. Up to 512 tokens it goes in blocks, as there, but
without atomic additions. The same bits come every time.

Whether a weight is dropped depends on the seed, the head, the query's token and the key's place in its sequence alone
(`kernels.dropout_mask`), so all kernels and block shapes have the same mask, and none is stored.

The key's bias moves all scores of a query alike, which softmax does not see: its gradient is zero, and is not summed.

Sources: Dao 2023, https://arxiv.org/abs/2307.08691 (FlashAttention-2); Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867 (the running softmax).
"""

import torch
import triton
from torch import Tensor

from kernels.blocked_attention import backward_keys, backward_queries, forward_blocks
from kernels.dropout_mask import drop_threshold
from kernels.whole_attention import backward_whole, forward_whole

LONGEST_WHOLE = 128
LONGEST = 512
SMALLEST_BLOCK = 32
HEAD_SIZES = (16, 32, 64, 128)
WIDEST_ROW = 128  # bytes of a head that the kernels for whole sequences can keep in registers and shared memory

# What benchmark/kernel_resources.py found: two programs of 8 warps or four of 4 share a processor's 65,536 registers.
REGISTERS = 128


def short_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax attention in which a token sees its own sequence only, its weights dropped at random.

    Args:
        qkv: (T, 3, N, D), contiguous: query, key and value of each token, N heads of size D, a power of two from 16 to
            128; bf16, fp16 or fp32.
        cu_seqlens: (B + 1,) int32 on the device, cumulative sequence lengths; the last is T. Sequences may be empty.
        max_seqlen: no sequence is longer; at most 512.
        dropout_p: probability with which an attention weight is dropped, below 1, the others scaled by 1 / (1 - p).
        seed: one int64 on the device.

    Returns:
        (T, N, D) in the dtype of `qkv`; and for backward the logarithm of the sum of the exponentiated scores of each
        query, (N, T) in fp32.

    Raises:
        ValueError: sequences may be longer, or heads have another size, than the kernels are made for.
    """
    _check(qkv, max_seqlen)
    n_tokens, _, n_heads, head_size = qkv.shape
    output = torch.empty(n_tokens, n_heads, head_size, dtype=qkv.dtype, device=qkv.device)
    log_sum_exp = torch.empty(n_heads, n_tokens, dtype=torch.float32, device=qkv.device)
    tensors = (qkv, output, log_sum_exp, cu_seqlens, seed)
    numbers = (head_size**-0.5, drop_threshold(dropout_p), 1 / (1 - dropout_p))
    constants = {"n_heads": n_heads, "head_size": head_size, "has_dropout": dropout_p > 0}
    n_sequences = cu_seqlens.shape[0] - 1
    if _is_whole(qkv, max_seqlen):
        block = _whole_block(max_seqlen)
        forward_whole[(n_sequences * n_heads,)](
            *tensors,
            n_tokens,
            *numbers,
            **constants,
            block=block,
            block_queries=min(block, 64),
            num_warps=4,
            maxnreg=REGISTERS,
        )
    else:
        block = _block(qkv)
        n_blocks = triton.cdiv(max_seqlen, block)
        forward_blocks[(n_sequences * n_blocks * n_heads,)](
            *tensors, n_tokens, n_blocks, *numbers, **constants, block_queries=block, block_keys=block, num_warps=4
        )
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

    Raises:
        ValueError: as `short_attention`.
    """
    _check(qkv, max_seqlen)
    n_tokens, _, n_heads, head_size = qkv.shape
    n_sequences = cu_seqlens.shape[0] - 1
    qkv_gradient = torch.empty_like(qkv)
    numbers = (head_size**-0.5, drop_threshold(dropout_p), 1 / (1 - dropout_p))
    constants = {"n_heads": n_heads, "head_size": head_size, "has_dropout": dropout_p > 0}
    if _is_whole(qkv, max_seqlen):
        block = _whole_block(max_seqlen)
        sums = qkv.new_empty(2, n_sequences, n_heads * head_size, dtype=torch.float32)
        backward_whole[(n_sequences * n_heads,)](
            gradient,
            qkv,
            output,
            log_sum_exp,
            qkv_gradient,
            sums,
            cu_seqlens,
            seed,
            n_tokens,
            *numbers,
            **constants,
            block=block,
            block_keys=min(block, 64),
            num_warps=8 if block == LONGEST_WHOLE else 4,
            maxnreg=REGISTERS,
        )
    else:
        block = _block(qkv)
        n_blocks = triton.cdiv(max_seqlen, block)
        sums = qkv.new_empty(2, n_sequences * n_blocks, n_heads * head_size, dtype=torch.float32)
        delta = torch.empty_like(log_sum_exp)
        constants |= {"block_queries": block, "block_keys": block, "num_warps": 4}
        grid = (n_sequences * n_blocks * n_heads,)
        backward_queries[grid](
            gradient,
            qkv,
            output,
            log_sum_exp,
            delta,
            qkv_gradient,
            sums[0],
            cu_seqlens,
            seed,
            n_tokens,
            n_blocks,
            *numbers,
            **constants,
        )
        backward_keys[grid](
            gradient,
            qkv,
            log_sum_exp,
            delta,
            qkv_gradient,
            sums[1],
            cu_seqlens,
            seed,
            n_tokens,
            n_blocks,
            *numbers,
            **constants,
        )
    bias_gradient = sums.new_zeros(3, n_heads * head_size)
    torch.sum(sums, 1, out=bias_gradient[::2])
    return qkv_gradient, bias_gradient.flatten()


def _check(qkv: Tensor, max_seqlen: int) -> None:
    if max_seqlen > LONGEST:
        raise ValueError(
            f"attention backend triton is for sequences of at most {LONGEST} tokens, and max_seqlen is {max_seqlen}: "
            "choose another backend."
        )
    if qkv.shape[-1] not in HEAD_SIZES:
        raise ValueError(
            f"attention backend triton is for heads of size {', '.join(map(str, HEAD_SIZES))}, and these have "
            f"{qkv.shape[-1]}: choose another backend."
        )


def _is_whole(qkv: Tensor, max_seqlen: int) -> bool:
    return max_seqlen <= LONGEST_WHOLE and qkv.shape[-1] * qkv.element_size() <= WIDEST_ROW


def _whole_block(max_seqlen: int) -> int:
    return max(SMALLEST_BLOCK, triton.next_power_of_2(max_seqlen))


def _block(qkv: Tensor) -> int:
    """Rows of a block; fp32 needs twice the memory, and its products twice the registers."""
    return 64 if qkv.element_size() == 2 else 32
