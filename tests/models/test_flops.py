"""The stated floating-point operations beside those that PyTorch counts while the model runs."""

import functools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling import BertForPreTraining, BertForQuestionAnswering
from models.config import BertConfig
from tasks.pretraining.synthetic import synthetic_batch
from tasks.squad.dataset import SquadDataset
from tasks.squad.synthetic import synthetic_features
from tasks.squad.task import SquadRun
from training.metrics.throughput import bert_flops

SHAPES = [
    BertConfig(1000, 64, 2, 2, 256),
    BertConfig(3000, 128, 3, 4, 512),
    BertConfig(997, 96, 1, 3, 200),
]


def count(step):
    # Attention is counted from its shapes, for which the plain, multiplied-out kind is the clearest.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", SHAPES, ids=["small", "wide", "odd"])
@pytest.mark.parametrize(("length", "mean"), [(32, None), (128, None), (128, 90.0)], ids=["short", "full", "unpadded"])
def test_pretraining(config, length, mean):
    batch = synthetic_batch(8, length, 20, config.vocab_size, mean)
    model = BertForPreTraining(config)
    model.bert.encoder.attention_backend = "reference"

    def step():
        model(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.masked_lm_labels,
            batch.next_sentence_labels,
        ).loss.backward()

    flops = functools.partial(
        bert_flops, config.encoder_parameters, config.hidden_size, config.num_hidden_layers, config.vocab_size
    )
    stated = flops(batch.n_sequences, batch.n_tokens, batch.sum_squared_lengths, batch.n_masked)
    if mean is not None:
        # PyTorch also counts what is computed for the tokens and positions that fill the bucket.
        lengths = batch.cu_seqlens.diff().tolist()
        filled = (batch.n_sequences, len(batch.input_ids), sum(n * n for n in lengths), len(batch.masked_lm_labels))
        stated_of_filled = flops(*filled)
        assert stated < stated_of_filled
        stated = stated_of_filled
    assert stated == pytest.approx(count(step), rel=0.01)


@pytest.mark.parametrize("config", SHAPES, ids=["small", "wide", "odd"])
def test_fine_tuning(config):
    dataset = SquadDataset(synthetic_features(16, 64, config.vocab_size), 8, 64, pin_memory=False)
    with dataset.iterate() as batches:
        batch = next(batches)
    model = BertForQuestionAnswering(config)
    model.bert.encoder.attention_backend = "reference"

    def step():
        model(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.start_positions,
            batch.end_positions,
        ).loss.backward()

    run = SquadRun.__new__(SquadRun)  # its formula needs the shape alone
    run.setup = type("Setup", (), {"config": config})
    stated = run.flops(batch.n_sequences, batch.n_tokens, batch.sum_squared_lengths, 0)
    assert stated == pytest.approx(count(step), rel=0.01)
