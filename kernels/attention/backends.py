"""Attention within each sequence of a flat batch: one function, and one table of the backends that compute it.

- `flash`: FlashAttention-2 as PyTorch ships it, called by its ATen name, since what PyTorch makes public of variable
  lengths takes no dropout.
- `sdpa`: PyTorch's scaled_dot_product_attention over the padded rectangle, for the CPU, for fp32 and for GPUs without
  FlashAttention-2. cuDNN's version is left out because it can round the dropout probability to sixteenths.
- `triton`: kernels made for sequences of at most 512 tokens (short.py). Triton is imported only when it is named.
- `reference`: a loop over sequences, in plain formulas. Slow; what the others are tested against.

A new backend is an entry of `BACKENDS`, and all who choose, check or run one read that table.
"""

import contextlib
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.errors import Problem
from kernels.launch import triton_problem


def variable_length_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float, backend: str
) -> Tensor:
    """Softmax attention in which a token sees its own sequence only.

    Args:
        qkv: (T, 3, N, D): query, key and value of each token, N heads of size D.
        cu_seqlens: (B + 1,) int32, cumulative sequence lengths; the last is T.
        max_seqlen: no sequence is longer; a Python integer, so that reading it does not wait for the device.
        dropout_p: probability with which an attention weight is dropped, the others scaled by 1 / (1 - p).
        backend: a name in `BACKENDS`.

    Returns:
        (T, N, D), the dtype of `qkv`.
    """
    return BACKENDS[backend].attend(qkv, cu_seqlens, max_seqlen, dropout_p)


def default_backend(device: torch.device, dtype: torch.dtype) -> str:
    """`flash` where the hardware and the dtype allow it, else `sdpa`."""
    # FlashAttention-2 needs Ampere's asynchronous copies; ROCm reports capabilities of its own.
    is_fast = device.type == "cuda" and dtype.itemsize == 2 and torch.version.hip is None
    return "flash" if is_fast and torch.cuda.get_device_capability(device) >= (8, 0) else "sdpa"


def _flash_problem(device: torch.device, dtype: torch.dtype, head_size: int, max_seqlen: int) -> Problem | None:
    if default_backend(device, dtype) == "flash":
        return None
    return Problem(
        "--attention flash: FlashAttention-2 runs on NVIDIA GPUs of compute capability 8.0 and higher in 16 bits, "
        f"and this run is on {device.type} in {str(dtype).removeprefix('torch.')}",
        "leave the flag out",
    )


def _flash_forward(qkv, cu_seqlens, max_seqlen, dropout_p):
    output, *saved, _ = torch.ops.aten._flash_attention_forward(
        *qkv.unbind(1), cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, False, False
    )
    return output, tuple(saved)


def _flash_backward(gradient, qkv, output, saved, cu_seqlens, max_seqlen, dropout_p):
    log_sum_exp, *random_state = saved
    lengths = cu_seqlens, cu_seqlens, max_seqlen, max_seqlen
    gradients = torch.ops.aten._flash_attention_backward(
        gradient, *qkv.unbind(1), output, log_sum_exp, *lengths, dropout_p, False, *random_state
    )
    return torch.stack(gradients, 1), None


def _short_problem(device: torch.device, dtype: torch.dtype, head_size: int, max_seqlen: int) -> Problem | None:
    if reason := triton_problem(device):
        return Problem(f"--attention triton: {reason}", "leave the flag out")
    from kernels.attention.short import HEAD_SIZES, LONGEST  # imports Triton, as the imports below do

    if max_seqlen > LONGEST:
        limit = f"sequences of at most {LONGEST} tokens, not of {max_seqlen}"
    elif head_size not in HEAD_SIZES:
        limit = f"heads of size {', '.join(map(str, HEAD_SIZES))}, not of {head_size}"
    else:
        return None
    return Problem(f"--attention triton: attention in Triton is for {limit}", "leave the flag out")


def _short_forward(qkv, cu_seqlens, max_seqlen, dropout_p):
    from kernels.attention.short import short_attention
    from kernels.dropout_mask import random_seed

    seed = random_seed(qkv.device)
    output, log_sum_exp = short_attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed)
    return output, (log_sum_exp, seed)


def _short_backward(gradient, qkv, output, saved, cu_seqlens, max_seqlen, dropout_p):
    from kernels.attention.short import short_attention_backward

    log_sum_exp, seed = saved
    return short_attention_backward(gradient, qkv, output, log_sum_exp, cu_seqlens, max_seqlen, dropout_p, seed)


class _ShortAttention(torch.autograd.Function):
    """The Triton kernels as a function of their own; fused layers call the pair within theirs."""

    @staticmethod
    def forward(ctx, qkv, cu_seqlens, *settings):
        qkv = qkv.contiguous()
        output, saved = _short_forward(qkv, cu_seqlens, *settings)
        ctx.save_for_backward(qkv, output, cu_seqlens, *saved)
        ctx.settings = settings
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        qkv, output, cu_seqlens, *saved = ctx.saved_tensors
        qkv_gradient, _ = _short_backward(gradient.contiguous(), qkv, output, saved, cu_seqlens, *ctx.settings)
        return qkv_gradient, None, None, None


def _sdpa_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float) -> Tensor:
    n_tokens, n_sequences = qkv.shape[0], cu_seqlens.shape[0] - 1
    rows = _full_rows(cu_seqlens, max_seqlen, n_tokens)
    if rows is not None:
        return _rectangle_attention(qkv.unflatten(0, (rows, max_seqlen)), None, dropout_p).flatten(0, 1)
    tokens = torch.arange(n_tokens, device=qkv.device, dtype=cu_seqlens.dtype)
    sequence = torch.searchsorted(cu_seqlens[1:], tokens, right=True)
    indices = sequence * max_seqlen + tokens - cu_seqlens[sequence]
    padded = qkv.new_zeros(n_sequences * max_seqlen, *qkv.shape[1:])
    padded[indices] = qkv
    # An empty sequence keeps one column, of zeros: a softmax over nothing would be NaN.
    mask = torch.arange(max_seqlen, device=qkv.device) < cu_seqlens.diff().clamp(min=1).unsqueeze(1)
    padded = padded.unflatten(0, (n_sequences, max_seqlen))
    return _Unpad.apply(_rectangle_attention(padded, mask[:, None, None, :], dropout_p).flatten(0, 1), indices)


class _Unpad(torch.autograd.Function):
    """padded[indices] of indices that never repeat: backward is a copy, where autograd would add atomically."""

    @staticmethod
    def forward(ctx, padded: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.n_rows = padded.shape[0]
        return padded[indices]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (indices,) = ctx.saved_tensors
        padded_gradient = gradient.new_zeros(ctx.n_rows, *gradient.shape[1:])
        padded_gradient[indices] = gradient
        return padded_gradient, None


def _full_rows(cu_seqlens: Tensor, max_seqlen: int, n_tokens: int) -> int | None:
    """The number of sequences if each is `max_seqlen` long or empty, so that the flat batch is a rectangle as it is.

    Looked at on the CPU only: on a GPU the answer would cost a synchronization.
    """
    if cu_seqlens.is_cuda or n_tokens % max_seqlen or torch.compiler.is_compiling():
        return None
    lengths = cu_seqlens.diff()
    return n_tokens // max_seqlen if bool(((lengths == max_seqlen) | (lengths == 0)).all()) else None


def _rectangle_attention(qkv: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """(B, S, 3, N, D) and a mask broadcastable to (B, N, S, S), true where attended, to (B, S, N, D)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    not_cudnn = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(not_cudnn) if qkv.is_cuda else contextlib.nullcontext():
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)
    return attended.transpose(1, 2)


def _reference_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float) -> Tensor:
    outputs = []
    for sequence in qkv.split(cu_seqlens.diff().tolist()):
        query, key, value = sequence.permute(1, 2, 0, 3)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        probabilities = F.dropout(scores.softmax(-1), dropout_p)
        outputs.append((probabilities @ value).transpose(0, 1))
    return torch.cat(outputs)


class Backend(NamedTuple):
    """One way to compute attention; arguments are named as in `variable_length_attention`."""

    attend: Callable[[Tensor, Tensor, int, float], Tensor]
    """(qkv, cu_seqlens, max_seqlen, dropout_p) -> (T, N, D), differentiable."""
    problem: Callable[[torch.device, torch.dtype, int, int], Problem | None] = lambda *shape: None
    """(device, dtype, head_size, max_seqlen) -> why it cannot run; None where it can."""
    forward: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] | None = None
    """(qkv, cu_seqlens, max_seqlen, dropout_p) -> (T, N, D) and what backward needs, without a graph. Fused layers
    call this pair; for a backend that has none they record the graph of `attend`."""
    backward: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    """(gradient, qkv, output, saved, cu_seqlens, max_seqlen, dropout_p) -> the gradient (T, 3, N, D) of `qkv`, and its
    sum over T, (3 * N * D,) in fp32, where that is a by-product, else None."""


BACKENDS = MappingProxyType(
    {
        "flash": Backend(lambda *inputs: _flash_forward(*inputs)[0], _flash_problem, _flash_forward, _flash_backward),
        "sdpa": Backend(_sdpa_attention),
        "triton": Backend(_ShortAttention.apply, _short_problem, _short_forward, _short_backward),
        "reference": Backend(_reference_attention),
    }
)
CHOICES = tuple(name for name in BACKENDS if name != "reference")  # of `--attention`
