"""The estimate of memory against measurements, and the micro-batch that follows from it."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from models.memory import HEADROOM, MemoryEstimate
from tasks.execution import count_parameters


@functools.cache
def estimate(name="large", bytes_per_element=2, **options):
    config = BertConfig.from_json_file(BERT_CONFIGS[name])
    return MemoryEstimate(config, count_parameters(BertForPreTraining, config), bytes_per_element, **options)


def test_parameters_of_bert_large_are_as_published():
    # 335.1 M of the encoder with its embeddings and pooler, and the heads.
    assert count_parameters(BertForPreTraining, BertConfig.from_json_file(BERT_CONFIGS["large"])) == pytest.approx(
        336.2e6, rel=1e-3
    )


@pytest.mark.parametrize(
    ("n_tokens", "bytes_per_element", "checkpoint_activations", "measured"),
    [
        (64 * 128, 2, False, 12.07e9),
        (256 * 128, 2, False, 33.37e9),
        (512 * 128, 2, False, 59.37e9),
        (1024 * 128, 2, False, 116.77e9),
        (256 * 512, 2, False, 113.27e9),
        (256 * 128, 2, True, 6.9 * 2**30),
        (128 * 128, 4, False, 33.34e9),
    ],
)
def test_it_agrees_with_what_one_h200_took(n_tokens, bytes_per_element, checkpoint_activations, measured):
    """Measured without accumulation, where at the peak there are no gradients yet: 4 bytes per parameter less."""
    made = estimate(bytes_per_element=bytes_per_element, checkpoint_activations=checkpoint_activations)
    n_bytes = made.n_bytes(n_tokens)
    assert n_bytes - 4 * made.n_parameters == pytest.approx(measured, rel=0.15 if checkpoint_activations else 0.08)
    assert n_bytes > 0.97 * measured


@pytest.mark.parametrize(
    ("gigabytes", "length", "options", "expected"),
    [
        (150.1, 128, {}, 1024),  # H200
        (150.1, 512, {}, 256),
        (85.0, 128, {}, 512),  # H100 and A100 with 80 GB
        (85.0, 512, {}, 128),
        (42.4, 128, {}, 256),  # A100 with 40 GB
        (34.1, 128, {"padded_attention": True}, 128),  # V100 with 32 GB
        (34.1, 512, {"padded_attention": True}, 32),
        (150.1, 128, {"bytes_per_element": 4}, 512),
        (150.1, 128, {"checkpoint_activations": True}, 8192),
        (85.0, 128, {"cuda_graphs": True}, 256),
    ],
)
def test_the_micro_batch_of_bert_large_on_known_cards(gigabytes, length, options, expected):
    assert estimate(**options).largest_micro_batch(int(gigabytes * 1e9), 8192, length) == expected


def test_the_last_layer_keeps_the_tokens_that_are_read_by_hand():
    """Two layers of H 4 and I 8 in 16 bits, per token: 5 x 4 x 2 up to attention's output, and behind it
    3 x 4 x 2 + 2 x 8 x 2 + 2 x 4; of a quarter of the tokens alone, with copies of attention's output, 4 x 2."""
    config = BertConfig(10, 4, 2, 1, 8)
    all_read, some_read = (MemoryEstimate(config, 0, 2, read_share=share) for share in (None, 0.25))
    assert all_read.n_bytes(400) - all_read.n_bytes(0) == 400 * 2 * (40 + 64)
    assert some_read.n_bytes(400) - some_read.n_bytes(0) == 400 * (2 * 40 + 64) + 100 * (64 + 8)


def test_of_checkpointed_layers_it_is_the_same_whatever_is_read():
    made = [estimate(checkpoint_activations=True, read_share=share).n_bytes(1000) for share in (None, 0.1)]
    assert made[0] == made[1]


def test_where_not_one_sequence_fits():
    assert estimate().largest_micro_batch(4 * 10**9, 32, 512) is None


@given(
    memory=st.integers(10**8, 2 * 10**11),
    batch_size=st.integers(1, 3000),
    length=st.sampled_from([128, 384, 512]),
    name=st.sampled_from(["tiny", "base", "large"]),
    bytes_per_element=st.sampled_from([2, 4]),
)
def test_it_divides_the_batch_stays_below_the_memory_and_grows_with_it(
    memory, batch_size, length, name, bytes_per_element
):
    made = estimate(name, bytes_per_element)
    found = made.largest_micro_batch(memory, batch_size, length)
    with_more = made.largest_micro_batch(2 * memory, batch_size, length)
    if found is None:
        assert made.n_bytes(length) * HEADROOM > memory
        return
    assert batch_size % found == 0
    assert made.n_bytes(found * length) < memory
    assert with_more >= found
    larger = [size for size in range(found + 1, batch_size + 1) if batch_size % size == 0]
    assert not larger or HEADROOM * made.n_bytes(larger[0] * length) > memory
