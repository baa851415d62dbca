"""Every attention backend against the plain reference, in values and gradients, and the true dropout rate."""

import pytest
import torch
from flat_batches import BATCH_LAYOUTS

from kernels.attention.backends import default_backend, variable_length_attention

LAYOUTS = {
    **BATCH_LAYOUTS,
    "full with empty padding": ([16, 16, 0], 16),
    "one token": ([1], 16),
    "longest shorter than max_seqlen": ([3, 7], 16),
}


# Triton's kernels run on a GPU where there is one, else in its interpreter.
DEVICE_OF = {"sdpa": "cpu", "reference": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}


def random_qkv(lengths, n_heads=2, head_size=16, device="cpu", dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, n_heads, head_size, generator=generator, dtype=torch.float64)
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=device)
    return qkv.to(device, dtype).requires_grad_(), cu_seqlens


def value_and_gradient(qkv, cu_seqlens, max_seqlen, backend):
    output = variable_length_attention(qkv, cu_seqlens, max_seqlen, backend=backend)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device, dtype=output.dtype).view_as(output)
    return output, torch.autograd.grad((output * weights).sum(), qkv)[0]


def test_reference_by_hand():
    # Two sequences, one head of size 1. A lone token attends to itself; equal keys give the mean of the values.
    qkv = torch.tensor([[1.0, 2.0, 7.0], [1.0, 3.0, 2.0], [5.0, 3.0, 4.0]]).view(3, 3, 1, 1)
    output = variable_length_attention(qkv, torch.tensor([0, 1, 3], dtype=torch.int32), 2, backend="reference")
    assert output.flatten().tolist() == [7.0, 3.0, 3.0]


@pytest.mark.parametrize(("backend", "dtype"), [("sdpa", torch.float64), ("triton", torch.float32)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_backends_equal_reference(name, backend, dtype):
    lengths, max_seqlen = LAYOUTS[name]
    qkv, cu_seqlens = random_qkv(lengths)
    expected = value_and_gradient(qkv, cu_seqlens, max_seqlen, "reference")
    qkv = qkv.detach().to(DEVICE_OF[backend], dtype).requires_grad_()
    cu_seqlens = cu_seqlens.to(DEVICE_OF[backend])
    tolerances = {} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    for actual, wanted in zip(value_and_gradient(qkv, cu_seqlens, max_seqlen, backend), expected, strict=True):
        torch.testing.assert_close(actual.cpu().double(), wanted, **tolerances)


def test_one_sequence_does_not_see_another():
    qkv, cu_seqlens = random_qkv([5, 6])
    before = variable_length_attention(qkv, cu_seqlens, 8)[:5]
    changed = torch.cat([qkv[:5], torch.randn_like(qkv[5:])])
    torch.testing.assert_close(variable_length_attention(changed, cu_seqlens, 8)[:5], before)


def dropped_share(backend, device, dtype, dropout_p, length=128, n_sequences=8, head_size=None):
    """The share of attention weights dropped: with zero queries all are 1/S, and V = I brings them out one by one."""
    head_size = head_size or length
    value = torch.eye(length, device=device, dtype=dtype)[:, :head_size].unsqueeze(1).expand(length, 2, head_size)
    qkv = torch.zeros(length, 3, 2, head_size, device=device, dtype=dtype)
    qkv[:, 2] = value
    cu_seqlens = torch.arange(n_sequences + 1, device=device, dtype=torch.int32) * length
    output = variable_length_attention(qkv.repeat(n_sequences, 1, 1, 1), cu_seqlens, length, dropout_p, backend)
    kept = output != 0
    torch.testing.assert_close(output[kept].double().mean().item(), 1 / (length * (1 - dropout_p)), rtol=0.01, atol=0)
    return 1 - kept.double().mean().item()


@pytest.mark.parametrize("backend", ["sdpa", "reference", "triton"])
def test_dropout_rate_is_true(backend):
    torch.manual_seed(0)
    # 8 sequences x 2 heads x 64 x 64 weights: the standard deviation of the share is 0.0012.
    share = dropped_share(backend, DEVICE_OF[backend], torch.float32, 0.1, length=64)
    assert share == pytest.approx(0.1, abs=0.005)


def test_triton_draws_its_mask_from_the_generator_and_has_it_again_in_backward():
    qkv, cu_seqlens = random_qkv([5, 16], device=DEVICE_OF["triton"], dtype=torch.float32)

    def attended(seed):
        torch.manual_seed(seed)
        return variable_length_attention(qkv, cu_seqlens, 16, 0.5, "triton")

    output = attended(1)
    assert torch.equal(output, attended(1))
    assert not torch.equal(output, attended(2))
    # The output is linear in the values: the output's product with its gradient is the values' with theirs.
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    gradient = torch.autograd.grad((output * weights).sum(), qkv)[0]
    torch.testing.assert_close((gradient[:, 2] * qkv[:, 2]).sum(), (output * weights).sum(), rtol=1e-4, atol=1e-4)


def test_unknown_backend_is_refused():
    qkv, cu_seqlens = random_qkv([3])
    with pytest.raises(ValueError, match="'fast'"):
        variable_length_attention(qkv, cu_seqlens, 3, backend="fast")


def test_backend_follows_device_and_dtype():
    assert default_backend(torch.device("cpu"), torch.bfloat16) == "sdpa"
    assert default_backend(torch.device("cuda"), torch.float32) == "sdpa"


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("flash", torch.bfloat16),
        ("flash", torch.float16),
        ("triton", torch.bfloat16),
        ("triton", torch.float16),
        ("triton", torch.float32),
        ("sdpa", torch.float32),
    ],
)
def test_gpu_backends_equal_reference(name, backend, dtype):
    lengths, max_seqlen = LAYOUTS[name]
    qkv, cu_seqlens = random_qkv(lengths, head_size=64)
    expected = value_and_gradient(qkv, cu_seqlens, max_seqlen, "reference")
    on_gpu, cu_seqlens = random_qkv(lengths, head_size=64, device="cuda", dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    for actual, wanted in zip(value_and_gradient(on_gpu, cu_seqlens, max_seqlen, backend), expected, strict=True):
        assert (actual.cpu().double() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "dtype"), [("flash", torch.bfloat16), ("triton", torch.bfloat16), ("sdpa", torch.float32)]
)
def test_gpu_dropout_rate_is_true(backend, dtype):
    torch.manual_seed(0)
    assert dropped_share(backend, "cuda", dtype, 0.1, n_sequences=64) == pytest.approx(0.1, abs=0.002)
