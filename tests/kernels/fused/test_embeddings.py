"""kernels/fused/embeddings.py against the module's formulas in fp64, the mask read off the output."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tuned import tune

from kernels.dropout_mask import random_seed
from kernels.fused.dropout_add_norm import dropout_add_norm_
from models.config import BertConfig
from models.encoder import BertEmbeddings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N_TOKENS = 37


def embeddings(dropout_p=0.0, hidden_size=40):
    torch.manual_seed(0)
    shape = {"hidden_size": hidden_size, "num_attention_heads": 1, "max_position_embeddings": 16}
    module = BertEmbeddings(BertConfig(60, **shape, hidden_dropout_prob=dropout_p), "torch").to(DEVICE)
    torch.nn.init.normal_(module.LayerNorm.weight)
    torch.nn.init.normal_(module.LayerNorm.bias)
    module.is_fused = True
    return module


def ids():
    generator = torch.Generator().manual_seed(1)
    words, types, positions = (torch.randint(n, (N_TOKENS,), generator=generator).to(DEVICE) for n in (60, 2, 16))
    return words, types, positions


def drawn_mask(hidden_size, dropout_p):
    """What the next seed of the generator keeps."""
    ones, weight = torch.ones(N_TOKENS, hidden_size, device=DEVICE), torch.ones(hidden_size, device=DEVICE)
    dropout_add_norm_(ones, torch.zeros_like(ones), weight, weight, 1e-12, dropout_p, random_seed(DEVICE))
    return (ones != 0).double()


def reference(module, mask, dropout_p):
    words, types, positions = ids()
    total = module.word_embeddings(words) + module.position_embeddings(positions) + module.token_type_embeddings(types)
    norm = module.LayerNorm
    return F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps) * mask / (1 - dropout_p)


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("uses", ["states", "residual", "both"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_values_and_gradients(dtype, tolerance, dropout_p, uses):
    """Of both tensors in which the result travels."""
    fused = embeddings(dropout_p)
    plain = copy.deepcopy(fused).double()
    torch.manual_seed(3)
    expected = reference(plain, drawn_mask(40, dropout_p), dropout_p)
    torch.manual_seed(3)
    hidden = fused(*ids(), dtype)
    assert hidden.states.dtype == dtype
    assert hidden.states.data_ptr() == hidden.residual.data_ptr()
    assert relative_error(hidden.states, expected) < tolerance
    factors = torch.randn(2, N_TOKENS, 40, generator=torch.Generator().manual_seed(4)).to(DEVICE, dtype)
    used = {"states": (1, 0), "residual": (0, 1), "both": (1, 1)}[uses]
    tensors = [tensor for tensor, is_used in zip(hidden[:2], used, strict=True) if is_used]
    gradient = [factor for factor, is_used in zip(factors, used, strict=True) if is_used]
    actual = torch.autograd.grad(tensors, list(fused.parameters()), gradient)
    wanted = torch.autograd.grad(expected, list(plain.parameters()), sum(each.double() for each in gradient))
    for (name, _), ours, theirs in zip(fused.named_parameters(), actual, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < tolerance, name


@pytest.mark.parametrize("hidden_size", [8, 24, 1024])
def test_any_width_in_blocks_of_any_height(hidden_size, monkeypatch):
    for kernel in ("embeddings", "embeddings_gradient"):
        tune(monkeypatch, kernel, block_rows=4)
    fused = embeddings(hidden_size=hidden_size)
    plain = copy.deepcopy(fused).double()
    states = fused(*ids(), torch.float32).states
    expected = reference(plain, 1.0, 0.0)
    assert relative_error(states, expected) < 1e-6
    (states * states).sum().backward()
    (expected * expected).sum().backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert relative_error(ours.grad, theirs.grad) < 1e-5


def test_nothing_is_dropped_where_nothing_is_trained():
    fused = embeddings(0.5).eval()
    expected = reference(copy.deepcopy(fused).double(), 1.0, 0.0)
    assert relative_error(fused(*ids(), torch.float32).states, expected) < 1e-6


def test_the_same_bits_every_time():
    fused = embeddings(0.1)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        states = fused(*ids(), torch.bfloat16).states
        found.append([states, *torch.autograd.grad(states.float().square().sum(), list(fused.parameters()))])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
