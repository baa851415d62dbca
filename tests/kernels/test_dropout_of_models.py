"""Dropout of whole models: it moves hidden states as much as dropout of transformers' model with the same weights does.

Masks differ, so what is compared is the variance of the last hidden states over many draws. Too weak a dropout makes a
model learn faster at first, which no comparison of losses without dropout would show.
"""

import pytest
import torch
from flat_batches import random_flat_batch

from benchmark.workloads.hugging_face import HuggingFaceBert, pad
from modeling import BertForPreTraining, prepare_model
from models.config import BertConfig, Execution

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTHS, VOCABULARY, DRAWS = [8, 6], 96, 30
INPUTS = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")


def batch():
    torch.manual_seed(1)
    made = random_flat_batch(LENGTHS, 16, VOCABULARY, n_padding_sequences=0)
    return [made[name].to(DEVICE) if torch.is_tensor(made[name]) else made[name] for name in INPUTS]


def variance(hidden_states):
    """Of a function's (T, H) over its calls, the mean over all elements."""
    with torch.no_grad():
        return torch.stack([hidden_states().float() for _ in range(DRAWS)]).var(0).mean().item()


def theirs(config):
    torch.manual_seed(0)
    model = HuggingFaceBert(config).to(DEVICE).train()
    padded, places = pad(*batch(), len(LENGTHS))
    return variance(lambda: model.model.bert(**padded).last_hidden_state.flatten(0, 1)[places])


def ours(config, kernels):
    torch.manual_seed(0)
    model = BertForPreTraining(config)
    prepare_model(model, DEVICE, Execution(kernels=kernels))
    inputs = batch()
    model.train()
    return variance(lambda: model.bert(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize(("of_hidden", "of_attention"), [(0.3, 0.0), (0.0, 0.3)])
def test_it_moves_hidden_states_as_much_as_theirs_does(of_hidden, of_attention):
    config = BertConfig(
        VOCABULARY,
        **SHAPE,
        max_position_embeddings=16,
        hidden_dropout_prob=of_hidden,
        attention_probs_dropout_prob=of_attention,
        initializer_range=0.15,  # of usual weights so small a model's attention is even, and nothing depends on it
    )
    expected = theirs(config)
    assert expected > 0.01
    for kernels in ("torch", "triton"):
        assert ours(config, kernels) == pytest.approx(expected, rel=0.09), kernels
