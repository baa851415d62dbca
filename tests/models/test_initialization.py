"""Initial weights: Google's truncated normal distribution, and the same numbers from a seed in all versions."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from modeling import BertForPreTraining
from models.config import BertConfig
from models.encoder import draw_truncated_normal

STD = 0.02


def drawn(n_elements: int, seed: int = 0) -> np.ndarray:
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.empty(n_elements))
    draw_truncated_normal(weight, STD)
    return weight.detach().numpy()


def test_it_is_the_inverse_of_the_distribution_function():
    torch.manual_seed(0)
    inside = stats.norm.cdf(2) - stats.norm.cdf(-2)
    uniform = torch.empty(10_000).uniform_(-inside, inside).double().numpy()
    np.testing.assert_allclose(drawn(10_000), STD * stats.norm.ppf((1 + uniform) / 2), rtol=1e-4, atol=1e-8)


def test_it_is_a_truncated_normal_distribution():
    values = drawn(100_000)
    assert stats.kstest(values, stats.truncnorm(-2, 2, scale=STD).cdf).pvalue > 0.01
    assert np.abs(values).max() <= np.float32(2 * STD)
    assert values.std() == pytest.approx(stats.truncnorm.std(-2, 2, scale=STD), rel=0.01)


def test_every_weight_of_a_model_is_drawn():
    config = BertConfig(97, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    models = []
    for _ in range(2):  # memory that was not written to would differ
        torch.manual_seed(0)
        models.append(BertForPreTraining(config).state_dict())
        torch.full((1 << 20,), float("nan"))
    for name, weight in models[0].items():
        assert torch.equal(weight, models[1][name]), name
        is_matrix = weight.dim() == 2
        assert (weight.std() > STD / 2) == is_matrix, name
