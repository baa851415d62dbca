"""kernels/fused/softmax.py against PyTorch's cross-entropy in fp64, and as part of the fused loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tuned import tune

from kernels.cross_entropy import linear_cross_entropy
from kernels.fused.softmax import loss_and_gradient_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(n_rows, n_columns, n_ignored=0, seed=0, dtype=torch.float32):
    """Logits, bias and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n_rows, n_columns, generator=generator)
    bias = torch.randn(n_columns, generator=generator)
    labels = torch.randint(n_columns, (n_rows,), generator=generator)
    labels[torch.randperm(n_rows, generator=generator)[:n_ignored]] = -100
    return logits.to(DEVICE, dtype), bias.to(DEVICE), labels.to(DEVICE)


def check(logits, bias, labels, rounding=2**-20):
    leaves = logits.double().requires_grad_(), bias.double().requires_grad_()
    expected = F.cross_entropy(sum(leaves), labels, reduction="sum")
    by_logits, by_bias = torch.autograd.grad(expected, leaves)
    actual = logits.clone()
    loss, bias_gradient = loss_and_gradient_(actual, bias, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(actual.double(), by_logits, rtol=rounding, atol=2e-6)
    n_rows = len(logits)
    torch.testing.assert_close(bias_gradient.double(), by_bias, rtol=rounding, atol=n_rows * (2e-6 + rounding / 4))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 7),
    st.integers(2, 100),
    st.integers(0, 7),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 32, 128]),
)
def test_equals_the_reference(n_rows, n_columns, n_ignored, block_rows, block_columns):
    with pytest.MonkeyPatch.context() as patch:
        tune(patch, "softmax", block_rows=block_rows, block_columns=block_columns)
        check(*draw(n_rows, n_columns, min(n_rows, n_ignored)))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
def test_16_bits_are_off_by_their_rounding_only(dtype, rounding):
    check(*draw(5, 5000, 1, dtype=dtype), rounding=rounding)


def test_large_scores_in_any_order_stay_finite():
    for largest in (0, 5000, 9999):
        logits, bias, labels = draw(2, 10000)
        logits[0, largest] = 1e4
        logits[1] -= 1e4
        check(logits, bias, labels, rounding=2**-9)  # that of a sum in the ten thousands


def test_removed_classes_have_no_gradient():
    logits, bias, labels = draw(3, 4200)
    bias[:4100] = -torch.inf  # all of a block
    labels = 4100 + labels % 100
    expected = F.cross_entropy((logits + bias)[:, 4100:].double(), labels - 4100, reduction="sum")
    loss, bias_gradient = loss_and_gradient_(logits, bias, labels)
    assert loss.item() == pytest.approx(expected.item())
    assert (logits[:, :4100] == 0).all()
    assert (bias_gradient[:4100] == 0).all()


def test_rows_without_a_label_give_zero_whatever_they_hold():
    logits, bias, labels = draw(3, 50)
    labels[1:] = -100
    logits[2] = torch.nan
    loss, bias_gradient = loss_and_gradient_(logits, bias, labels)
    assert loss.isfinite()
    assert (logits[1:] == 0).all()
    assert bias_gradient.isfinite().all()


def test_the_fused_loss_is_that_of_pytorchs_operations():
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_() for shape in ((20, 8), (300, 8), (300,))
    )
    labels = torch.randint(300, (20,), generator=generator).to(DEVICE)
    labels[::3] = -100
    found = []
    for passes in ("torch", "triton"):
        loss = linear_cross_entropy(hidden, weight, bias, labels, passes)
        found.append([loss, *torch.autograd.grad(loss, (hidden, weight, bias))])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
