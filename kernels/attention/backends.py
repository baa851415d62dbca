"""Attention within each sequence of a flat batch: one function, four backends.

- `flash`: FlashAttention-2 as PyTorch ships it, called by its ATen name. The public
  `torch.nn.attention.varlen.varlen_attn` is the same kernel but takes no dropout, and neither do FlexAttention and
  FlashAttention-3; BERT is trained with dropout 0.1 on the attention probabilities.
- `sdpa`: PyTorch's scaled_dot_product_attention over the padded rectangle, for the CPU, for fp32 and for GPUs without
  FlashAttention-2. cuDNN's version is left out because it can round the dropout probability to sixteenths.
- `triton`: kernels made for sequences of at most 512 tokens, see `kernels.short_attention`. Only who names it needs
  Triton.
- `reference`: a loop over sequences, in plain formulas. Slow; what the others are tested against.

The backend follows from device and dtype unless one is named, as `--attention` and tests do.
"""

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention.padding import pad, padded_indices, unpad

BACKENDS = ("flash", "sdpa", "triton", "reference")


def variable_length_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float = 0.0, backend: str | None = None
) -> Tensor:
    """Softmax attention in which a token sees its own sequence only.

    Args:
        qkv: (T, 3, N, D): query, key and value of each token, N heads of size D.
        cu_seqlens: (B + 1,) int32, cumulative sequence lengths; the last is T.
        max_seqlen: no sequence is longer; a Python integer, so that reading it does not wait for the device.
        dropout_p: probability with which an attention weight is dropped, the others scaled by 1 / (1 - p).
        backend: one of `BACKENDS`; None chooses by device and dtype.

    Returns:
        (T, N, D), the dtype of `qkv`.

    Raises:
        ValueError: there is no such backend, or it is not made for these shapes.

    Source: Vaswani et al. 2017, section 3.2.1; Dao 2023 (FlashAttention-2).
    """
    backend = backend or default_backend(qkv.device, qkv.dtype)
    if backend == "flash":
        return _flash_attention(qkv, cu_seqlens, max_seqlen, dropout_p)
    if backend == "sdpa":
        return _sdpa_attention(qkv, cu_seqlens, max_seqlen, dropout_p)
    if backend == "triton":
        return _ShortAttention.apply(qkv, cu_seqlens, max_seqlen, dropout_p)
    if backend == "reference":
        return _reference_attention(qkv, cu_seqlens, dropout_p)
    raise ValueError(f"unknown attention backend {backend!r}: choose one of {', '.join(BACKENDS)}")


def backend_problem(
    backend: str, device: torch.device, dtype: torch.dtype, head_size: int, max_seqlen: int
) -> str | None:
    """Why attention of this shape cannot run on a backend, a sentence without its full stop; None where it can.

    For `triton`, where kernels in Triton run at all.
    """
    if backend == "flash" and default_backend(device, dtype) != "flash":
        return (
            "FlashAttention-2 runs on NVIDIA GPUs of compute capability 8.0 and higher in 16 bits, "
            f"and this run is on {device.type} in {dtype}".replace("torch.", "")
        )
    if backend == "triton":
        from kernels.attention.short import shape_problem

        return shape_problem(head_size, max_seqlen)
    return None


def default_backend(device: torch.device, dtype: torch.dtype) -> str:
    """`flash` where the hardware and the dtype allow it, else `sdpa`."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and _has_flash(device.index or 0):
        return "flash"
    return "sdpa"


@functools.cache
def _has_flash(device_index: int) -> bool:
    # FlashAttention-2 needs Ampere's asynchronous copies; ROCm reports capabilities of its own.
    return torch.version.hip is None and torch.cuda.get_device_capability(device_index) >= (8, 0)


def _flash_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float) -> Tensor:
    query, key, value = qkv.unbind(1)
    return torch.ops.aten._flash_attention_forward(
        query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, False, False
    )[0]


class _ShortAttention(torch.autograd.Function):
    """Attention by hand alone; layers by hand have it within a function of their own (recorded_attention.py)."""

    @staticmethod
    def forward(ctx, qkv, cu_seqlens, max_seqlen, dropout_p):
        from kernels.attention.short import short_attention
        from kernels.dropout_mask import random_seed

        qkv = qkv.contiguous()
        seed = random_seed(qkv.device)
        output, log_sum_exp = short_attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed)
        ctx.save_for_backward(qkv, output, log_sum_exp, cu_seqlens, seed)
        ctx.max_seqlen, ctx.dropout_p = max_seqlen, dropout_p
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        from kernels.attention.short import short_attention_backward

        qkv, output, log_sum_exp, cu_seqlens, seed = ctx.saved_tensors
        qkv_gradient, _ = short_attention_backward(
            gradient.contiguous(), qkv, output, log_sum_exp, cu_seqlens, ctx.max_seqlen, ctx.dropout_p, seed
        )
        return qkv_gradient, None, None, None


def _sdpa_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float) -> Tensor:
    n_tokens, n_sequences = qkv.shape[0], cu_seqlens.shape[0] - 1
    rows = _full_rows(cu_seqlens, max_seqlen, n_tokens)
    if rows is not None:
        attended = _rectangle_attention(qkv.unflatten(0, (rows, max_seqlen)), None, dropout_p)
        return attended.flatten(0, 1)
    lengths = cu_seqlens.diff()
    columns = torch.arange(max_seqlen, device=qkv.device)
    # An empty sequence keeps one column, of zeros: a softmax over nothing would be NaN.
    mask = columns < lengths.clamp(min=1).unsqueeze(1)
    indices = padded_indices(cu_seqlens, max_seqlen, n_tokens)
    attended = _rectangle_attention(pad(qkv, indices, n_sequences, max_seqlen), mask[:, None, None, :], dropout_p)
    return unpad(attended, indices)


def _full_rows(cu_seqlens: Tensor, max_seqlen: int, n_tokens: int) -> int | None:
    """The number of sequences if each is `max_seqlen` long or empty, so that the flat batch is a rectangle as it is.

    Looked at on the CPU only: on a GPU the answer would cost a synchronisation.
    """
    if cu_seqlens.is_cuda or n_tokens % max_seqlen or torch.compiler.is_compiling():
        return None
    lengths = cu_seqlens.diff()
    return n_tokens // max_seqlen if bool(((lengths == max_seqlen) | (lengths == 0)).all()) else None


def _rectangle_attention(qkv: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """(B, S, 3, N, D) and a mask broadcastable to (B, N, S, S), true where attended, to (B, S, N, D)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    with _without_cudnn(qkv.device):
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)
    return attended.transpose(1, 2)


def _without_cudnn(device: torch.device) -> contextlib.AbstractContextManager:
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _reference_attention(qkv: Tensor, cu_seqlens: Tensor, dropout_p: float) -> Tensor:
    outputs = []
    for sequence in qkv.split(cu_seqlens.diff().tolist()):
        query, key, value = sequence.permute(1, 2, 0, 3)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        probabilities = F.dropout(scores.softmax(-1), dropout_p)
        outputs.append((probabilities @ value).transpose(0, 1))
    return torch.cat(outputs)
