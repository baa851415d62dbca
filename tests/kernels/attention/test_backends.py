"""Every backend of the table against the plain reference, in values and gradients, and the true dropout rate.

A new backend needs no line here: it is tested wherever its `problem` lets it run.
"""

import pytest
import torch
from flat_batches import BATCH_LAYOUTS

from kernels.attention.backends import BACKENDS, default_backend, variable_length_attention
from kernels.fused.blocks import Attention
from kernels.fused.linear import Prepared

LAYOUTS = {
    **BATCH_LAYOUTS,
    "full with empty padding": ([16, 16, 0], 16),
    "one token": ([1], 16),
    "longest shorter than max_seqlen": ([3, 7], 16),
}

GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def runs(backend, device, dtype, head_size=16, max_seqlen=16):
    return BACKENDS[backend].problem(torch.device(device), dtype, head_size, max_seqlen) is None


# The interpreter on a CPU, or a GPU where there is one: Triton's kernels run in one of the two.
DEVICE_OF = {
    name: device
    for device in ("cuda", "cpu")
    if device == "cpu" or torch.cuda.is_available()
    for name in BACKENDS
    if runs(name, device, torch.float32)
}


def random_qkv(lengths, n_heads=2, head_size=16, device="cpu", dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, n_heads, head_size, generator=generator, dtype=torch.float64)
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=device)
    return qkv.to(device, dtype).requires_grad_(), cu_seqlens


def value_and_gradient(qkv, cu_seqlens, max_seqlen, backend):
    output = variable_length_attention(qkv, cu_seqlens, max_seqlen, 0.0, backend)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device, dtype=output.dtype).view_as(output)
    return output, torch.autograd.grad((output * weights).sum(), qkv)[0]


def test_reference_by_hand():
    # Two sequences, one head of size 1. A lone token attends to itself; equal keys give the mean of the values.
    qkv = torch.tensor([[1.0, 2.0, 7.0], [1.0, 3.0, 2.0], [5.0, 3.0, 4.0]]).view(3, 3, 1, 1)
    output = variable_length_attention(qkv, torch.tensor([0, 1, 3], dtype=torch.int32), 2, 0.0, "reference")
    assert output.flatten().tolist() == [7.0, 3.0, 3.0]


@pytest.mark.parametrize("backend", DEVICE_OF)
@pytest.mark.parametrize("name", LAYOUTS)
def test_backends_equal_reference(name, backend):
    lengths, max_seqlen = LAYOUTS[name]
    expected = value_and_gradient(*random_qkv(lengths), max_seqlen, "reference")
    qkv, cu_seqlens = random_qkv(lengths, device=DEVICE_OF[backend], dtype=torch.float32)
    for actual, wanted in zip(value_and_gradient(qkv, cu_seqlens, max_seqlen, backend), expected, strict=True):
        torch.testing.assert_close(actual.cpu().double(), wanted, rtol=1e-5, atol=1e-5)


def recorded_equals_attention(backend, device, dtype):
    """What fused layers call, against the same backend on its own; and the sum that is a bias's gradient.

    The matmuls beside attention, which belong to the call, are by the identity.
    """
    qkv, cu_seqlens = random_qkv([3, 0, 14], device=device, dtype=dtype)
    output, qkv_gradient = value_and_gradient(qkv, cu_seqlens, 16, backend)
    inner = qkv.detach().flatten(1)
    recorded = Attention(2, cu_seqlens, 16, 0.0, backend)
    first, last = (torch.eye(matrix.shape[1], device=device, dtype=dtype) for matrix in (inner, output.flatten(1)))
    first = Prepared((first,), torch.zeros(inner.shape[1], device=device, dtype=dtype))
    multiplied, attended, saved = recorded.forward(inner, first, None, None)
    assert torch.equal(multiplied, inner)
    assert torch.equal(attended, output.flatten(1))
    weights = torch.linspace(-1, 1, output.numel(), device=device, dtype=dtype).view_as(attended)
    gradient, bias_gradient = recorded.backward(weights, (last,), None, inner, saved, None)
    torch.testing.assert_close(gradient, qkv_gradient.flatten(1), rtol=0, atol=0)
    assert bias_gradient.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    expected = qkv_gradient.flatten(1).float().sum(0)
    torch.testing.assert_close(bias_gradient, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", DEVICE_OF)
def test_fused_layers_get_the_same_from_every_backend(backend):
    recorded_equals_attention(backend, DEVICE_OF[backend], torch.float32)


def test_one_sequence_does_not_see_another():
    qkv, cu_seqlens = random_qkv([5, 6])
    before = variable_length_attention(qkv, cu_seqlens, 8, 0.0, "sdpa")[:5]
    changed = torch.cat([qkv[:5], torch.randn_like(qkv[5:])])
    torch.testing.assert_close(variable_length_attention(changed, cu_seqlens, 8, 0.0, "sdpa")[:5], before)


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


@pytest.mark.parametrize("backend", DEVICE_OF)
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


def test_backend_follows_device_and_dtype():
    assert default_backend(torch.device("cpu"), torch.bfloat16) == "sdpa"
    assert default_backend(torch.device("cuda"), torch.float32) == "sdpa"


def test_what_a_backend_cannot_do_is_said():
    cpu = torch.device("cpu")
    assert BACKENDS["sdpa"].problem(cpu, torch.float32, 24, 1024) is None
    flash = str(BACKENDS["flash"].problem(cpu, torch.bfloat16, 64, 128))
    assert flash.startswith("--attention flash: FlashAttention-2 runs on NVIDIA GPUs of compute capability 8.0")
    assert flash.endswith("and this run is on cpu in bfloat16; leave the flag out.")
    for shape, limit in (((16, 513), "at most 512 tokens, not of 513"), ((24, 32), "16, 32, 64, 128, not of 24")):
        assert limit in str(BACKENDS["triton"].problem(torch.device(DEVICE_OF["triton"]), torch.float32, *shape))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", GPU_DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gpu_backends_equal_reference(name, backend, dtype):
    if not runs(backend, "cuda", dtype):
        pytest.skip("does not run in this dtype")
    lengths, max_seqlen = LAYOUTS[name]
    expected = value_and_gradient(*random_qkv(lengths, head_size=64), max_seqlen, "reference")
    on_gpu, cu_seqlens = random_qkv(lengths, head_size=64, device="cuda", dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    for actual, wanted in zip(value_and_gradient(on_gpu, cu_seqlens, max_seqlen, backend), expected, strict=True):
        assert (actual.cpu().double() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_gpu_dropout_rate_is_true(backend):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if runs(backend, "cuda", torch.bfloat16) and backend != "sdpa" else torch.float32
    assert dropped_share(backend, "cuda", dtype, 0.1, n_sequences=64) == pytest.approx(0.1, abs=0.002)
    if dtype != torch.float32:
        recorded_equals_attention(backend, "cuda", dtype)
