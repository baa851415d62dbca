"""The stated floating-point operations beside those that PyTorch counts while the model runs."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.work import Work
from data.loading.labelled_pairs import LabelledDataset, synthetic_sequences
from modeling import BertForPreTraining, BertForQuestionAnswering, BertForThreeClasses
from models.config import BertConfig
from models.flops import bert_flops, classification_flops, encoder_flops, encoder_matmuls, question_answering_flops
from tasks.pretraining.synthetic import synthetic_batch
from tasks.squad.dataset import SquadDataset, synthetic_features

SHAPES = [
    BertConfig(1000, 64, 2, 2, 256),
    BertConfig(3000, 128, 3, 4, 512),
    BertConfig(997, 96, 1, 3, 200),
]
LARGE = BertConfig(30522, 1024, 24, 16, 4096)


@pytest.mark.parametrize(
    ("length", "masked", "gigaflops"),
    [(128, 20, 234.6), (512, 80, 996.1)],
    ids=["phase_1", "phase_2"],
)
def test_flops_of_bert_large_per_sequence(length, masked, gigaflops):
    assert LARGE.encoder_parameters == pytest.approx(301.99e6, rel=1e-4)
    assert bert_flops(LARGE, Work(1, length, length**2, masked)) / 1e9 == pytest.approx(gigaflops, abs=0.05)


def test_flops_of_a_squad_sequence_are_almost_those_of_the_encoder():
    work = Work(1, 384, 384**2)
    assert encoder_flops(LARGE, work) / 1e9 == pytest.approx(739.3, abs=0.05)
    assert question_answering_flops(LARGE, work) - encoder_flops(LARGE, work) == 6 * 2 * 1024 * 384


def test_flops_by_hand():
    # H 2, 3 layers, intermediate 4, V 5: E is 3 * (4*4 + 2*2*4), 96. Two sequences of 3 and 4 tokens, 2 masked:
    # 6*96*7 + 12*2*3*25 + 6*(4+10)*2 + 6*4*2, without 3 tokens that nobody reads in the last layer's 4+2*2*4.
    assert bert_flops(BertConfig(5, 2, 3, 1, 4), Work(2, 7, 25, 2)) == 4032 + 1800 + 168 + 48 - 6 * 3 * 20


@pytest.mark.parametrize("n_layers", [1, 24])
@pytest.mark.parametrize("n_read", [None, 164])
def test_the_encoders_matmuls_are_its_part_of_the_model_flops(n_read, n_layers):
    config = dataclasses.replace(LARGE, num_hidden_layers=n_layers)
    matmuls = encoder_matmuls(config, 1, 1000, n_read)
    assert all(matmul.count > 0 for matmul in matmuls)
    assert sum(matmul.count for matmul in matmuls) == 4 * 3 * n_layers
    assert sum(matmul.flops * matmul.count for matmul in matmuls) == encoder_flops(config, Work(8, 1000), n_read)


def test_the_last_layers_matmuls_by_hand():
    matmuls = encoder_matmuls(BertConfig(5, 2, 3, 1, 4), 1, 7, 2)
    forward = [matmul for matmul in matmuls if matmul.name.endswith(", forward")]
    assert {(matmul.m, matmul.n, matmul.k, matmul.count) for matmul in forward} == {
        (7, 6, 2, 3),
        *((7, 2, 2, 2), (7, 4, 2, 2), (7, 2, 4, 2)),
        *((2, 2, 2, 1), (2, 4, 2, 1), (2, 2, 4, 1)),
    }


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

    stated = bert_flops(config, batch.work)
    if mean is not None:
        # PyTorch also counts what is computed for the tokens and positions that fill the bucket.
        lengths = batch.cu_seqlens.diff().tolist()
        filled = (
            batch.work.n_sequences,
            len(batch.input_ids),
            sum(n * n for n in lengths),
            len(batch.masked_lm_labels),
        )
        stated_of_filled = bert_flops(config, Work(*filled))
        assert stated < stated_of_filled
        stated = stated_of_filled
    assert stated == pytest.approx(count(step), rel=0.01)


@pytest.mark.parametrize("config", SHAPES, ids=["small", "wide", "odd"])
def test_fine_tuning(config):
    dataset = SquadDataset(synthetic_features(16, 64, config.vocab_size), 8, 64)
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

    stated = question_answering_flops(config, batch.work)
    assert stated == pytest.approx(count(step), rel=0.01)


@pytest.mark.parametrize("config", SHAPES, ids=["small", "wide", "odd"])
def test_classification(config):
    sequences = synthetic_sequences(16, 64, config.vocab_size, 2, 3, None)
    with LabelledDataset(sequences, 8, 64).iterate() as batches:
        batch = next(batches)
    model = BertForThreeClasses(config)
    model.bert.encoder.attention_backend = "reference"
    counted = count(lambda: model(*batch.encoder_inputs, batch.labels).backward())
    assert classification_flops(config, batch.work, 3) == pytest.approx(counted, rel=0.01)
    per_sequence = (classification_flops(config, batch.work, 3) - encoder_flops(config, batch.work, 8)) / 8
    assert per_sequence == 6 * config.hidden_size * (config.hidden_size + 3)
