"""The fused loss against plain PyTorch, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tuned import tune

from kernels.cross_entropy import linear_cross_entropy


def random_inputs(rows, hidden, vocab, ignored, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    hidden_states = torch.randn(rows, hidden, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, hidden, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocab, (rows,), generator=generator)
    labels[torch.randperm(rows, generator=generator)[:ignored]] = -100
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        hidden_states.to(device, dtype).requires_grad_(),
        weight.to(device, parameters).requires_grad_(),
        bias.to(device, parameters).requires_grad_(),
        labels.to(device),
    )


def reference(hidden_states, weight, bias, labels):
    n_labels = (labels != -100).sum().clamp(min=1)
    return torch.nn.functional.cross_entropy(hidden_states @ weight.T + bias, labels, reduction="sum") / n_labels


def value_and_gradients(function, inputs, scale=1.0):
    loss = function(*inputs)
    return [loss, *torch.autograd.grad(loss * scale, inputs[:3])]


def test_by_hand():
    # One row, two classes, scores 0 and ln 3: probabilities 1/4 and 3/4.
    hidden_states = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [3.0]]).log().nan_to_num(neginf=0.0).requires_grad_()
    loss = linear_cross_entropy(hidden_states, weight, torch.zeros(2, requires_grad=True), torch.tensor([0]))
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    loss.backward()
    assert weight.grad.flatten().tolist() == pytest.approx([-0.75, 0.75])
    assert hidden_states.grad.item() == pytest.approx(0.75 * torch.tensor(3.0).log().item())


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 20), st.integers(2, 30), st.integers(1, 9), st.floats(0.1, 1000))
def test_equals_reference(rows, ignored, vocab, block, scale):
    inputs = random_inputs(rows, 6, vocab, min(rows, ignored))
    expected = value_and_gradients(reference, inputs, scale)
    with pytest.MonkeyPatch.context() as patch:
        tune(patch, "cross_entropy", rows_per_block=block)
        actual = value_and_gradients(linear_cross_entropy, inputs, scale)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5 * max(1.0, scale))


def test_classes_with_bias_minus_infinity_have_no_gradient():
    hidden_states, weight, _, labels = random_inputs(8, 4, 10, 0)
    labels %= 7
    bias = torch.cat([torch.zeros(7), torch.full((3,), -torch.inf)]).double()
    loss = linear_cross_entropy(hidden_states, weight, bias, labels)
    expected = reference(hidden_states, weight[:7], bias[:7], labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    assert (weight.grad[7:] == 0).all()
    assert weight.grad.isfinite().all()


def test_no_labels_gives_zero_not_nan():
    inputs = random_inputs(4, 3, 5, ignored=4)
    loss, *gradients = value_and_gradients(linear_cross_entropy, inputs)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_within_their_rounding(dtype):
    exact = random_inputs(64, 32, 200, 5)
    expected = value_and_gradients(reference, exact)
    actual = value_and_gradients(linear_cross_entropy, random_inputs(64, 32, 200, 5, dtype=dtype))
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < 0.02


def test_fp16_gradient_survives_many_rows_and_a_loss_scale():
    """In fp16 a gradient divided by 5,000 rows would fall below the normal numbers, and scaled by 2^16 overflow."""
    inputs = random_inputs(5000, 8, 50, 0, dtype=torch.float16)
    exact = random_inputs(5000, 8, 50, 0)
    for scale in (1.0, 2.0**16):
        weight_gradient = value_and_gradients(linear_cross_entropy, inputs, scale)[2]
        expected = value_and_gradients(reference, exact, scale)[2]
        assert (weight_gradient.double() - expected).norm() / expected.norm() < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_reference(dtype):
    exact = random_inputs(5000, 64, 1000, 77)
    expected = value_and_gradients(reference, exact)
    actual = value_and_gradients(linear_cross_entropy, random_inputs(5000, 64, 1000, 77, dtype=dtype, device="cuda"))
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.cpu().double() - theirs).norm() / theirs.norm() < (1e-5 if dtype == torch.float32 else 0.02)
