"""kernels/attention/short.py against a loop in float64 that drops the same weights."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention.short import short_attention, short_attention_backward
from kernels.dropout_mask import drop_threshold, is_kept, row_key

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = 2**61 + 12345

LAYOUTS = {
    "block of 32": ([1, 2, 0, 31, 32, 0], 32, 2),
    "block of 64": ([64, 0, 33, 2], 64, 2),
    "block of 128": ([127, 65, 0, 128, 1], 128, 1),
    "shorter than max_seqlen": ([3, 0, 7], 100, 2),
    "only empty ones behind": ([5, 0, 0], 16, 1),
    "blocks": ([65, 0, 1, 32], 129, 2),
    "blocks, all but one token": ([129], 130, 1),
}


def cumulative(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE)


def random_inputs(lengths, n_heads=1, head_size=16, dtype=torch.float32, spread=1.0):
    generator = torch.Generator().manual_seed(1)
    qkv, gradient = (
        torch.randn(sum(lengths), *shape, n_heads, head_size, generator=generator, dtype=torch.float64) * spread
        for shape in ((3,), ())
    )
    return qkv.to(DEVICE, dtype), gradient.to(DEVICE, dtype), cumulative(lengths)


@triton.jit
def write_mask(mask_ptr, seed_ptr, threshold, n_rows, n_columns: tl.constexpr, block_rows: tl.constexpr):
    columns = tl.arange(0, n_columns)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    kept = is_kept(row_key(tl.load(seed_ptr), rows), n_columns, threshold)
    tl.store(mask_ptr + rows[:, None] * n_columns + columns[None, :], kept.to(tl.int8), (rows < n_rows)[:, None])


def kept_weights(n_tokens, n_heads, dropout_p, n_columns):
    """(T, N, n_columns), one where a key's weight is kept."""
    mask = torch.empty(n_tokens, n_heads, n_columns, dtype=torch.int8, device=DEVICE)
    n_rows, seed = n_tokens * n_heads, torch.tensor([SEED], device=DEVICE)
    write_mask[(triton.cdiv(n_rows, 64),)](
        mask, seed, drop_threshold(dropout_p), n_rows, n_columns=n_columns, block_rows=64
    )
    return mask.cpu().double()


def reference(qkv, gradient, lengths, dropout_p):
    """Output, log-sum-exp, gradient and its sum over the tokens, in float64 on the CPU."""
    qkv = qkv.detach().cpu().double().requires_grad_()
    kept = kept_weights(*qkv.shape[::2], dropout_p, triton.next_power_of_2(max(lengths)))
    outputs, log_sums = [], []
    for sequence, mask in zip(qkv.split(lengths), kept.split(lengths), strict=True):
        query, key, value = sequence.permute(1, 2, 0, 3)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.softmax(-1) * mask[:, :, : len(sequence)].transpose(0, 1) / (1 - dropout_p)
        outputs.append((weights @ value).transpose(0, 1))
        log_sums.append(scores.logsumexp(-1))
    output = torch.cat(outputs)
    qkv_gradient = torch.autograd.grad(output, qkv, gradient.cpu().double())[0]
    return output.detach(), torch.cat(log_sums, 1).detach(), qkv_gradient, qkv_gradient.sum(0).flatten()


def computed(qkv, gradient, cu_seqlens, max_seqlen, dropout_p):
    seed = torch.tensor([SEED], device=DEVICE)
    output, log_sum_exp = short_attention(qkv, cu_seqlens, max_seqlen, dropout_p, seed)
    gradients = short_attention_backward(gradient, qkv, output, log_sum_exp, cu_seqlens, max_seqlen, dropout_p, seed)
    return output, log_sum_exp, *gradients


def check(lengths, max_seqlen, dropout_p, rtol=1e-5, **inputs):
    """All results, each within `rtol` of the largest of its kind."""
    qkv, gradient, cu_seqlens = random_inputs(lengths, **inputs)
    expected = reference(qkv, gradient, lengths, dropout_p)
    for actual, wanted in zip(computed(qkv, gradient, cu_seqlens, max_seqlen, dropout_p), expected, strict=True):
        torch.testing.assert_close(actual.cpu().double(), wanted, rtol=0, atol=rtol * wanted.abs().max().item())


@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_gradients(name, dropout_p):
    lengths, max_seqlen, n_heads = LAYOUTS[name]
    check(lengths, max_seqlen, dropout_p, n_heads=n_heads)


@pytest.mark.parametrize("head_size", [32, 64, 128])
def test_other_heads(head_size):
    check([9, 0, 40], 40, 0.5, head_size=head_size)


def test_scores_of_hundreds_neither_overflow_nor_vanish():
    check([40, 3, 0, 64], 64, 0.1, spread=12.0, rtol=1e-4)
    check([40, 3], 130, 0.1, spread=12.0, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.bfloat16, 0.015), (torch.float16, 0.002)])
@pytest.mark.parametrize(("lengths", "max_seqlen"), [([64, 0, 33], 64), ([128], 128), ([130], 130)])
def test_16_bits(lengths, max_seqlen, dtype, rtol):
    check(lengths, max_seqlen, 0.1, rtol=rtol, dtype=dtype)


@settings(max_examples=6)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any), st.sampled_from([40, 64, 128, 129]))
@pytest.mark.slow
def test_any_lengths(lengths, max_seqlen):
    check(lengths, max_seqlen, 0.3)


def test_the_mask_is_the_same_in_every_block_shape():
    qkv, gradient, cu_seqlens = random_inputs([32, 5, 0, 17], n_heads=2)
    first, *others = [computed(qkv, gradient, cu_seqlens, longest, 0.5) for longest in (32, 64, 128, 200)]
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * one.abs().max().item())


def test_the_same_bits_come_twice_and_others_from_another_seed():
    qkv, gradient, cu_seqlens = random_inputs([50, 64, 3])
    for longest in (64, 130):
        first, second = (computed(qkv, gradient, cu_seqlens, longest, 0.1) for _ in range(2))
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
        other, _ = short_attention(qkv, cu_seqlens, longest, 0.1, torch.tensor([7], device=DEVICE))
        assert not torch.equal(first[0], other)


@pytest.mark.parametrize(("dropout_p", "max_seqlen"), [(0.5, 64), (0.1, 130)])
def test_the_rate_is_true_and_heads_and_sequences_differ(dropout_p, max_seqlen):
    # With zero queries all weights are 1/S, and V = I brings them out one by one.
    length, n_heads, n_sequences = 64, 2, 4
    qkv = torch.zeros(n_sequences, length, 3, n_heads, length, device=DEVICE, dtype=torch.float16)
    qkv[:, :, 2] = torch.eye(length, device=DEVICE).unsqueeze(1)
    seed = torch.tensor([SEED], device=DEVICE)
    output, _ = short_attention(qkv.flatten(0, 1), cumulative([length] * n_sequences), max_seqlen, dropout_p, seed)
    weights = output.cpu().double().unflatten(0, (n_sequences, length)).transpose(1, 2).flatten(0, 1)
    kept = weights != 0
    torch.testing.assert_close(
        weights[kept], torch.full_like(weights[kept], 1 / length / (1 - dropout_p)), rtol=2e-3, atol=0
    )
    deviation = (dropout_p * (1 - dropout_p) / kept.numel()) ** 0.5
    assert abs(1 - kept.double().mean().item() - dropout_p) < 5 * deviation
    agreement = (1 - dropout_p) ** 2 + dropout_p**2
    for one in range(len(kept)):
        for two in range(one):
            share = (kept[one] == kept[two]).double().mean().item()
            assert share == pytest.approx(agreement, abs=5 * (agreement * (1 - agreement)) ** 0.5 / length)


def test_the_bias_of_the_key_has_no_gradient():
    qkv, gradient, cu_seqlens = random_inputs([20, 30])
    *_, bias_gradient = computed(qkv, gradient, cu_seqlens, 32, 0.1)
    query, key, value = bias_gradient.view(3, -1)
    assert not key.any()
    assert query.all()
    assert value.all()
