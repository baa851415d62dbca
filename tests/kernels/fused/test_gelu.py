"""kernels/fused/gelu.py against PyTorch's GELU in fp64, the exact one and its form by tanh."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fused.fp8 import empty_rows, quantize_rows
from kernels.fused.gelu import gelu, gelu_backward_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both_forms = pytest.mark.parametrize("tanh", [False, True])


def check(inputs: torch.Tensor, gradient: torch.Tensor, tanh: bool, absolute: float, relative: float) -> None:
    leaf = inputs.double().requires_grad_()
    expected = F.gelu(leaf, approximate="tanh" if tanh else "none")
    (expected_gradient,) = torch.autograd.grad(expected, leaf, gradient.double())
    torch.testing.assert_close(gelu(inputs, tanh=tanh).double(), expected, atol=absolute, rtol=relative)
    actual = gradient.clone()
    _, bias_gradient = gelu_backward_(actual, inputs, tanh=tanh)
    torch.testing.assert_close(actual.double(), expected_gradient, atol=absolute, rtol=relative)
    n_rows = len(inputs)
    torch.testing.assert_close(
        bias_gradient.double(), expected_gradient.sum(0), atol=absolute * n_rows, rtol=relative * n_rows
    )


@both_forms
def test_over_the_whole_range(tanh):
    inputs = torch.linspace(-12, 12, 48 * 500, device=DEVICE).view(48, 500)
    check(inputs, torch.ones_like(inputs), tanh, absolute=1e-6, relative=1e-6)


@both_forms
@pytest.mark.filterwarnings("ignore:overflow")  # of a square, as it should
def test_its_ends_are_finite(tanh):
    inputs = torch.tensor([[-1e30, -1e4, 0.0, 1e4, 1e30]], device=DEVICE)
    gradient = torch.ones_like(inputs)
    gelu_backward_(gradient, inputs, tanh=tanh)
    torch.testing.assert_close(gelu(inputs, tanh=tanh), inputs.clamp(min=0), rtol=0, atol=0)
    assert gradient[0].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=2e-7)


@both_forms
def test_what_is_no_number_stays_none(tanh):
    inputs = torch.tensor([[float("nan"), 1.0]], device=DEVICE)
    gradient = torch.ones_like(inputs)
    gelu_backward_(gradient, inputs, tanh=tanh)
    for found in (gelu(inputs, tanh=tanh), gradient):
        assert found[0].isnan().tolist() == [True, False]


@both_forms
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_16_bits_are_off_by_their_rounding_only(dtype, rounding, tanh):
    generator = torch.Generator().manual_seed(1)
    inputs, gradient = (2 * torch.randn(64, 96, generator=generator).to(DEVICE, dtype) for _ in range(2))
    check(inputs, gradient, tanh, absolute=1e-5, relative=rounding)


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 1500), st.booleans())
def test_any_shape(n_rows, n_columns, tanh):
    generator = torch.Generator().manual_seed(n_rows * n_columns)
    inputs, gradient = (torch.randn(n_rows, n_columns, generator=generator).to(DEVICE) for _ in range(2))
    check(inputs, gradient, tanh, absolute=2e-6, relative=2e-6)


@both_forms
@pytest.mark.parametrize("shape", [(5, 24), (3, 4100)])
def test_fp8_beside(shape, tanh):
    """The same rows as brought into fp8 by themselves, also where nothing but those is left."""
    generator = torch.Generator().manual_seed(3)
    inputs, gradient = (torch.randn(*shape, generator=generator).to(DEVICE) for _ in range(2))
    room = [empty_rows(*shape, DEVICE) for _ in range(2)]
    alone = [empty_rows(*shape, DEVICE, torch.zeros(1, device=DEVICE)) for _ in range(2)]
    given = gradient.clone()
    assert gelu(inputs, alone[0], tanh) is None
    result, sums_alone = gelu_backward_(given, inputs, alone[1], tanh)
    assert result is None
    assert torch.equal(given, gradient)
    activated = gelu(inputs, room[0], tanh)
    result, sums = gelu_backward_(gradient, inputs, room[1], tanh)
    assert result is gradient
    assert torch.equal(sums, sums_alone)
    for matrix, beside, by_itself in zip((activated, gradient), room, alone, strict=True):
        expected = quantize_rows(matrix)
        torch.testing.assert_close(beside.scale, expected.scale)
        assert (beside.values.float() == expected.values.float()).float().mean() > 0.999  # but for ties
        assert torch.equal(by_itself.values.float(), beside.values.float())
        assert by_itself.largest == by_itself.scale.max()
