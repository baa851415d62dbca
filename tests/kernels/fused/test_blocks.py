"""kernels/fused/blocks.py: values and gradients of two layers against the same layers in plain PyTorch and fp64.

Dropout's masks are drawn again from the same generator and read off the kernel, so that the reference drops the same.
"""

import copy
import dataclasses
import weakref
from collections.abc import Sequence

import pytest
import torch

from kernels.dropout_mask import random_seed
from kernels.fused import blocks as fused_blocks
from kernels.fused import dropout_add_norm, fp8
from kernels.fused import linear as products
from kernels.fused.dropout_add_norm import dropout_add_norm_
from kernels.layers import Linear
from models.config import BertConfig
from models.encoder import BertEncoder, BertLayer, prepare_layers
from models.fused_variants import THESE_VALUES
from training.distributed.bucket_reduction import BucketReduction

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HIDDEN, HEADS = 32, 2
CONFIG = BertConfig(
    vocab_size=8, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=64
)
LENGTHS = (5, 0, 9, 1)
READ = [0, 5, 14, 13, 7, 2, 9, 10, 3, 11, 0, 0]  # what fills masked positions up points at the first token


def encoder(
    hidden_p: float,
    backend: str = "reference",
    in_fp8: bool = False,
    fp8_weight_gradients: bool = False,
    hidden_act: str = "gelu",
) -> BertEncoder:
    """With biases and norms away from zero and one, and no dropout within attention."""
    torch.manual_seed(1)
    encoder = BertEncoder(dataclasses.replace(CONFIG, hidden_act=hidden_act), "torch")
    encoder.attention_backend = backend
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    for layer in encoder.layer:
        layer.attention.self.dropout_p = 0.0
        layer.attention.output.dropout.p = layer.output.dropout.p = hidden_p
        layer.is_fused, layer.in_fp8 = True, in_fp8
        layer.fp8_weight_gradients = fp8_weight_gradients
    first = encoder.layer[0]
    first.returns_hidden, first.leaves_fp8 = True, in_fp8
    return encoder.to(DEVICE)


def batch() -> tuple[torch.Tensor, torch.Tensor, int]:
    cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(DEVICE)
    generator = torch.Generator().manual_seed(2)
    return torch.randn(sum(LENGTHS), HIDDEN, generator=generator).to(DEVICE), cu_seqlens, max(LENGTHS)


def drawn_mask(shape: torch.Size, dropout_p: float) -> torch.Tensor:
    """What the next seed of the generator keeps: ones pass through the kernel without a residual."""
    ones, weight = torch.ones(shape, device=DEVICE), torch.ones(shape[1], device=DEVICE)
    dropout_add_norm_(ones, torch.zeros_like(ones), weight, weight, 1e-12, dropout_p, random_seed(DEVICE))
    return (ones != 0).double()


def drawn_masks(
    encoder: BertEncoder, shape: torch.Size, dropout_p: float, tokens: torch.Tensor | None
) -> list[torch.Tensor]:
    """The masks of a pass through the encoder, two for each layer, in order."""
    masks = []
    for layer in encoder.layer:
        if encoder.attention_backend == "triton":
            random_seed(DEVICE)  # attention draws the first
        if layer is encoder.layer[-1] and tokens is not None:
            shape = len(tokens), shape[1]
        masks += [drawn_mask(shape, dropout_p) for _ in range(2)]
    return masks


def reference(layers: Sequence[BertLayer], hidden, cu_seqlens, max_seqlen, masks=None, dropout_p=0.0, tokens=None):
    """What each layer returns by its formulas, with the masks given, two for each layer; the last one, of `tokens`."""
    masks = iter(masks or [1.0] * 2 * len(layers))
    outputs = []
    for layer in layers:
        read = tokens if layer is layers[-1] else None
        hidden = reference_layer(layer, hidden, cu_seqlens, max_seqlen, (next(masks), next(masks)), dropout_p, read)
        outputs.append(hidden)
    return outputs


def reference_layer(layer: BertLayer, hidden, cu_seqlens, max_seqlen, masks, dropout_p, tokens):

    def end(block, products, residual, mask):
        return block.LayerNorm(block.dense(products) * mask / (1 - dropout_p) + residual)

    attention = layer.attention
    products = attention.self(hidden, cu_seqlens, max_seqlen, "reference")
    if tokens is not None:
        products, hidden = products[tokens], hidden[tokens]
    attended = end(attention.output, products, hidden, masks[0])
    return end(layer.output, layer.intermediate(attended), attended, masks[1])


def gradients(output, gradient, hidden, module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output, (hidden, *module.parameters()), gradient))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dropout_p", "read"), [(0.0, None), (0.3, None), (0.3, READ)])
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", torch.float32, 2e-5), ("triton", torch.float32, 2e-5), ("triton", torch.bfloat16, 4e-2)],
)
def test_values_and_all_gradients(backend, dtype, tolerance, dropout_p, read):
    fused = encoder(dropout_p, backend)
    plain = copy.deepcopy(fused).double()
    hidden, *lengths = batch()
    tokens = read and torch.tensor(read, device=DEVICE)
    torch.manual_seed(3)
    masks = drawn_masks(fused, hidden.shape, dropout_p, tokens)
    torch.manual_seed(3)

    leaf = hidden.to(dtype).requires_grad_()
    output = fused(leaf, *lengths, tokens)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    expected_leaf = leaf.detach().double().requires_grad_()
    expected = reference(plain.layer, expected_leaf, *lengths, masks, dropout_p, tokens)[-1]
    assert output.dtype == dtype
    assert relative_error(output, expected) < tolerance
    actual = gradients(output, gradient.to(dtype), leaf, fused)
    wanted = gradients(expected, gradient.to(dtype).double(), expected_leaf, plain)
    names = ["hidden", *(name for name, _ in fused.named_parameters())]
    errors = {name: relative_error(*pair) for name, *pair in zip(names, actual, wanted, strict=True)}
    assert max(errors.values()) < tolerance, errors
    assert {tensor.dtype for tensor in actual[1:]} == {torch.float32}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matmuls_leave_weight_gradients_in_their_buckets(monkeypatch, dtype, overlaps):
    """All else is copied there, and in a second micro-batch everything is added."""
    copied = []
    copy_all = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, those: copied.extend(to) or copy_all(to, those))
    fused = encoder(0.0)
    hidden, *lengths = batch()
    expected = torch.autograd.grad(fused(hidden, *lengths).square().sum(), list(fused.parameters()))
    copied.clear()
    reduction = BucketReduction(list(fused.parameters()), lambda gradients: None, overlaps=overlaps, dtype=dtype)
    reduction.backward(fused(hidden, *lengths).square().sum(), accumulates=False, reduces=True)
    assert {parameter.gradient_place for parameter in fused.parameters()} == {None}
    places = {gradient.data_ptr() for gradient in copied}
    for (name, parameter), gradient in zip(fused.named_parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient.to(dtype))
        assert (parameter.grad.data_ptr() in places) == (parameter.ndim == 1), name
    if dtype == torch.float32:
        reduction.backward(fused(hidden, *lengths).square().sum(), accumulates=True, reduces=True)
        for parameter, gradient in zip(fused.parameters(), expected, strict=True):
            assert torch.equal(parameter.grad, 2 * gradient)


@pytest.mark.gpu
@pytest.mark.parametrize("in_fp8", [{}, {"in_fp8": True}, {"in_fp8": True, "fp8_weight_gradients": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matmuls_of_each_kind_leave_their_result_rounded_once(in_fp8, dtype):
    fused = encoder(0.0, "triton", **in_fp8)
    hidden, *lengths = batch()
    hidden = hidden.bfloat16()
    expected = torch.autograd.grad(fused(hidden, *lengths).float().square().sum(), list(fused.parameters()))
    reduction = BucketReduction(list(fused.parameters()), lambda gradients: None, overlaps=False, dtype=dtype)
    reduction.backward(fused(hidden, *lengths).float().square().sum(), accumulates=False, reduces=True)
    for parameter, gradient in zip(fused.parameters(), expected, strict=True):
        assert parameter.grad.dtype == dtype
        bound = 1e-5 if dtype == torch.float32 else 2**-8
        assert relative_error(parameter.grad, gradient) < bound


@pytest.mark.parametrize("hidden_act", THESE_VALUES["hidden_act"])
def test_activations_are_those_of_plain_layers_by_each_name(hidden_act):
    """The forms of GELU differ by ten times the tolerance, forward and backward."""
    fused = encoder(0.0, hidden_act=hidden_act)
    plain = copy.deepcopy(fused).double()
    hidden, *lengths = batch()
    leaf, expected_leaf = hidden.requires_grad_(), hidden.detach().double().requires_grad_()
    outputs = fused(leaf, *lengths), reference(plain.layer, expected_leaf, *lengths)[-1]
    gradient = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    found = [outputs[0], *gradients(outputs[0], gradient, leaf, fused)]
    wanted = [outputs[1], *gradients(outputs[1], gradient.double(), expected_leaf, plain)]
    assert max(relative_error(*pair) for pair in zip(found, wanted, strict=True)) < 1e-5


def fp8_rounded(matrix: torch.Tensor, per_row: bool) -> torch.Tensor:
    """A matrix rounded to e4m3 as stated: scaled so that its largest value becomes 448, or by the smallest power of two
    that brings each row below."""
    largest = matrix.abs().amax(1, keepdim=True) if per_row else matrix.abs().max()
    scale = largest.clamp(min=1e-30) / 448
    if per_row:
        scale = 2.0 ** torch.log2(scale).ceil()
    return (matrix / scale).float().to(torch.float8_e4m3fn).double() * scale


class Fp8Product(torch.autograd.Function):
    """A linear layer's product with its factors rounded, forward and to the input, and where asked to the weight."""

    @staticmethod
    def forward(ctx, inputs, weight, fp8_weight_gradients):
        rounded = fp8_rounded(inputs, True)
        ctx.fp8_weight_gradients = fp8_weight_gradients
        ctx.save_for_backward(rounded if fp8_weight_gradients else inputs, weight)
        return rounded @ fp8_rounded(weight, False).T

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        rounded = fp8_rounded(gradient, True)
        weight_gradient = (rounded if ctx.fp8_weight_gradients else gradient).T @ inputs
        return rounded @ fp8_rounded(weight, False), weight_gradient, None


@pytest.mark.parametrize("read", [None, READ])
@pytest.mark.parametrize("fp8_weight_gradients", [False, True])
def test_fp8_has_the_error_of_its_rounding_and_no_other(fp8_weight_gradients, read):
    """Beside fp64 that rounds the same factors there is hardly a difference; beside plain fp64, one of 4 to 8 %.

    In bf16, as on GPUs, whose products in fp8 have no other result, many factors are rounded to a neighbor, so that
    the second layer's gradients are nearer to fp64 that rounds than to fp64 that does not, but no more.
    """
    dtype, bound, nearer = (torch.bfloat16, 0.2, 1.03) if DEVICE.type == "cuda" else (torch.float32, 1e-5, 1e3)
    fused = encoder(0.0, in_fp8=True, fp8_weight_gradients=fp8_weight_gradients)
    plain = copy.deepcopy(fused).double()
    rounded = copy.deepcopy(plain)
    for module in rounded.modules():
        if isinstance(module, Linear):
            module.forward = lambda x, m=module: Fp8Product.apply(x, m.weight, fp8_weight_gradients) + m.bias
    hidden, *lengths = batch()
    tokens = read and torch.tensor(read, device=DEVICE)
    leaf = hidden.to(dtype).requires_grad_()
    output = fused(leaf, *lengths, tokens)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(4)).to(DEVICE, dtype)
    actual = [output, *gradients(output, gradient, leaf, fused)]

    def errors(other: BertEncoder) -> torch.Tensor:
        expected_leaf = leaf.detach().double().requires_grad_()
        expected = reference(other.layer, expected_leaf, *lengths, tokens=tokens)[-1]
        wanted = [expected, *gradients(expected, gradient.double(), expected_leaf, other)]
        return torch.tensor([relative_error(*pair) for pair in zip(actual, wanted, strict=True)])

    beside_rounded, beside_plain = errors(rounded), errors(plain)
    assert beside_rounded.max() < bound, beside_rounded
    assert beside_plain.max() < 0.2, beside_plain
    assert beside_plain.mean() > nearer * beside_rounded.mean(), (beside_plain, beside_rounded)


def test_evaluation_drops_nothing_and_records_nothing():
    fused = encoder(0.5).eval()
    hidden, *lengths = batch()
    with torch.no_grad():
        output = fused(hidden, *lengths)
    assert output.grad_fn is None
    for layer in fused.layer:
        layer.is_fused = False
    torch.testing.assert_close(output, fused(hidden, *lengths).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "in_fp8", "fp8_weight_gradients"),
    [("reference", False, False), ("triton", True, True)],
)
@pytest.mark.slow
def test_checkpointed_layers_drop_the_same_elements_again(backend, in_fp8, fp8_weight_gradients):
    dtype = torch.bfloat16 if in_fp8 and DEVICE.type == "cuda" else torch.float32
    fused = encoder(0.3, backend, in_fp8, fp8_weight_gradients)
    for layer in fused.layer:
        layer.attention.self.dropout_p = 0.3
    hidden, *lengths = batch()
    tokens = torch.tensor(READ, device=DEVICE)
    results = []
    for checkpoint_activations in (False, True):
        fused.checkpoint_activations = checkpoint_activations
        torch.manual_seed(5)
        leaf = hidden.to(dtype).requires_grad_()
        output = fused(leaf, *lengths, tokens)
        results.append(gradients(output, torch.ones_like(output), leaf, fused))
    for once, again in zip(*results, strict=True):
        torch.testing.assert_close(once, again, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("is_fused", [False, True])
def test_what_fills_masked_positions_up_changes_no_bit(is_fused):
    """Its gradients, which are zero and fall on one token, are added in any order."""
    fused = encoder(0.0, "triton")
    for layer in fused.layer:
        layer.is_fused, layer.returns_hidden = is_fused, is_fused and layer.returns_hidden
    hidden, *lengths = batch()
    tokens = torch.tensor([0, 5, 14, *[0] * 4093], device=DEVICE)
    gradient = torch.zeros(len(tokens), HIDDEN, dtype=torch.bfloat16, device=DEVICE)
    gradient[:4] = torch.randn(4, HIDDEN, device=DEVICE)  # of [CLS], two masked tokens, and [CLS], which is masked too
    leaf = hidden.bfloat16().requires_grad_()
    first, *others = (gradients(fused(leaf, *lengths, tokens), gradient, leaf, fused) for _ in range(5))
    assert all(torch.equal(*pair) for other in others for pair in zip(first, other, strict=True))


def low_precision(in_fp8: bool) -> torch.dtype:
    """What activations are in, such that weights have to be prepared; products in fp8 return fp32 on a CPU alone."""
    return torch.float32 if in_fp8 and DEVICE.type == "cpu" else torch.bfloat16


def test_weights_are_those_of_now():
    """Forward and backward, whatever they were in the pass before."""
    fused, other = (encoder(0.0, in_fp8=True) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * parameter.flip(0)
    hidden, *lengths = batch()
    leaf = hidden.to(low_precision(in_fp8=True)).requires_grad_()

    def output_and_gradients(model: BertEncoder) -> list[torch.Tensor]:
        output = model(leaf, *lengths)
        return [output, *gradients(output, torch.ones_like(output), leaf, model)]

    before = output_and_gradients(fused)
    fused.load_state_dict(other.state_dict())
    after, expected = output_and_gradients(fused), output_and_gradients(other)
    assert all(torch.equal(*pair) for pair in zip(after, expected, strict=True))
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize(("checkpoint_activations", "in_fp8"), [(False, False), (True, True)])
def test_weights_are_prepared_once_for_all_layers(monkeypatch, checkpoint_activations, in_fp8):
    """The four products' in turn, also where layers are computed again."""
    prepared = []

    def recording(linears, *arguments):
        prepared.append([linear.weight for linear in linears])
        return original(linears, *arguments)

    original = products.prepare
    monkeypatch.setattr(products, "prepare", recording)
    fused = encoder(0.0, in_fp8=in_fp8)
    fused.checkpoint_activations = checkpoint_activations
    hidden, *lengths = batch()
    fused(hidden.to(low_precision(in_fp8)).requires_grad_(), *lengths).sum().backward()
    assert [len(weights) for weights in prepared] == [len(fused.layer)] * 4
    matrices = {id(weight) for weight in fused.parameters() if weight.ndim == 2}
    assert {id(weight) for weights in prepared for weight in weights} == matrices


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1), (0, 0, 1, 1)])
def test_outputs_that_are_used_once_twice_or_never(used):
    """Whatever is made of each layer's hidden states, the gradients are those of all uses together."""
    fused = encoder(0.0)
    plain = copy.deepcopy(fused).double()
    hidden, *lengths = batch()
    leaf = hidden.clone().requires_grad_()
    prepared = prepare_layers(fused.layer, leaf.dtype)
    first = fused.layer[0](leaf, *lengths, "reference", prepared[0])
    outputs = first.states, fused.layer[1](first, *lengths, "reference", prepared[1])
    expected_leaf = hidden.double().requires_grad_()
    expected_outputs = reference(plain.layer, expected_leaf, *lengths)
    results = []
    for of_layers, inputs, module in ((outputs, leaf, fused), (expected_outputs, expected_leaf, plain)):
        loss = sum(of_layers[layer].pow(2 + n).sum() for n, layer in enumerate(used))
        found = torch.autograd.grad(loss, (inputs, *module.parameters()), allow_unused=True)
        results.append([torch.zeros(1) if gradient is None else gradient for gradient in found])
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < 2e-5 or not expected.any()
        assert actual.any() == expected.any()


class Indifferent(torch.autograd.Function):
    """A use that sends no gradient back."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def test_the_gradient_of_a_use_without_one_is_zero():
    fused = encoder(0.0)
    hidden, *lengths = batch()
    Indifferent.apply(fused(hidden, *lengths)).sum().backward()
    assert not any(parameter.grad.any() for parameter in fused.parameters())


def test_nobody_adds_what_the_norms_backward_can_add(monkeypatch):
    n_gradients = []

    def counting(gradients, *arguments):
        n_gradients.append(len(gradients))
        return dropout_add_norm.dropout_add_norm_backward(gradients, *arguments)

    monkeypatch.setattr(fused_blocks, "dropout_add_norm_backward", counting)
    hidden, *lengths = batch()
    encoder(0.0)(hidden, *lengths).sum().backward()
    assert n_gradients == [1, 2, 2, 2]  # the last block's output is used once


@pytest.mark.parametrize("fp8_weight_gradients", [False, True])
def test_factors_are_brought_into_fp8_once_and_kept_for_weight_gradients_alone(monkeypatch, fp8_weight_gradients):
    made, passes = [], []

    def making(*arguments):
        rows = fp8_rows(*arguments)
        made.append(weakref.ref(rows.values))
        return rows

    def passing(*arguments):
        passes.append(len(arguments))
        return quantize(*arguments)

    fp8_rows, quantize = fp8.empty_rows, fp8.quantize_rows
    monkeypatch.setattr(fp8, "empty_rows", making)
    monkeypatch.setattr(fused_blocks, "quantize_rows", passing)
    hidden, *lengths = batch()
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    fused = encoder(0.0, in_fp8=True, fp8_weight_gradients=fp8_weight_gradients)
    output = fused(hidden.to(dtype), *lengths)
    assert len(passes) == 3  # the first layer's input, and attention's output twice
    assert len(made) == 8  # the inputs of two layers' four products
    kept = [rows() is not None for rows in made]
    assert kept == [fp8_weight_gradients] * len(made)
    output.sum().backward()
    assert not any(rows() is not None for rows in made)
    assert len(passes) == 5  # and the gradients of queries, keys and values
