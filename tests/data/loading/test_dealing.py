"""Samples dealt among the micro-batches of a step: against a plain draft, and as streams of one or several ranks."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lddl_shards import write_folder, write_vocabulary

from data.loading.dealing import MOST, deal, n_dealt
from data.loading.labelled_pairs import LabelledDataset, synthetic_sequences
from data.loading.pretraining_dataset import PretrainingDataset


def draft(lengths, n_batches, batch_size):
    """As teams are chosen: the longest goes to the first, and each round is in the other direction."""
    chosen, size = [None] * (len(lengths) // (n_batches * batch_size) * n_batches * batch_size), n_batches * batch_size
    for first in range(0, len(chosen), size):
        order = sorted(range(first, first + size), key=lambda sample: (-lengths[sample], sample))
        for turn, sample in enumerate(order):
            there, back = turn % n_batches, n_batches - 1 - turn % n_batches
            chosen[sample] = first // batch_size + (back if turn // n_batches % 2 else there)
    return chosen


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_it_is_a_draft(lengths, n_batches, batch_size):
    dealt = deal(np.array(lengths, dtype=np.int64), n_batches, batch_size).tolist()
    assert dealt == draft(lengths, n_batches, batch_size)
    assert set(collections.Counter(dealt).values()) <= {batch_size}


@given(st.integers(1, 10**6))
def test_a_step_holds_whole_deals(batches_per_step):
    assert batches_per_step % n_dealt(batches_per_step) == 0
    assert n_dealt(batches_per_step) <= MOST


@pytest.mark.parametrize(("n_ranks", "accumulation", "batch_size"), [(8, 1, 64), (8, 4, 64), (2, 1, 256), (64, 1, 128)])
@pytest.mark.parametrize("shortest", [5, 100])
def test_the_slowest_rank_has_at_most_a_hundredth_more_tokens_than_the_mean(
    n_ranks, accumulation, batch_size, shortest
):
    """Lengths as prepared shards have them, a tenth of them short; without dealing the same bound does not hold."""
    rng, n_batches = np.random.default_rng(0), n_ranks * accumulation * 20
    lengths = rng.integers(shortest, 129, size=n_batches * batch_size)
    is_short = rng.random(lengths.shape) < 0.1
    lengths[is_short] = rng.integers(5, 129, size=is_short.sum())

    def excess(batches):
        tokens = np.bincount(batches, weights=lengths).reshape(-1, n_ranks)
        return (tokens.max(axis=1) / tokens.mean(axis=1) - 1).max()

    assert excess(deal(lengths, n_dealt(n_ranks * accumulation), batch_size)) < 0.01
    assert excess(np.arange(len(lengths)) // batch_size) > 0.01


N, B = 60, 2


@pytest.fixture(scope="module")
def open_stream(tmp_path_factory):
    """By its name, what makes a stream of N samples for a rank."""
    folder = tmp_path_factory.mktemp("dealt")
    vocabulary = write_vocabulary(folder / "vocab.txt")
    write_folder(folder / "lddl", (25, 14, 21), 32)
    sequences = synthetic_sequences(N, 64, 500, 2, 2, 20.0)
    return {
        "lddl": lambda **ranks: PretrainingDataset(folder / "lddl", B, 32, 5, vocab_file=vocabulary, **ranks),
        "memory": lambda **ranks: LabelledDataset(sequences, B, 64, **ranks),
    }


def tokens_of(batch):
    """The ids of each of its sequences."""
    ends = batch.cu_seqlens[: batch.work.n_sequences + 1].tolist()
    return [tuple(batch.input_ids[start:end].tolist()) for start, end in itertools.pairwise(ends)]


def take(stream, n_batches, start, per_step):
    with stream.iterate(start, per_step) as batches:
        return [(batch.first_sample, tokens_of(batch)) for batch in itertools.islice(batches, n_batches)]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["lddl", "memory"]),
    n_ranks=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    stops=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_ranks_and_resumed_runs_read_what_one_process_reads(open_stream, name, n_ranks, accumulation, stops, seed):
    n_steps, per_step = 6, n_ranks * accumulation
    whole = take(open_stream[name](seed=seed), n_steps * per_step, 0, per_step)
    by_rank = []
    for rank in range(n_ranks):
        stream = open_stream[name](seed=seed, rank=rank, world_size=n_ranks)
        before = take(stream, stops * accumulation, 0, per_step)
        after = take(stream, (n_steps - stops) * accumulation, stops * per_step * B, per_step)
        by_rank.append(before + after)
    assert list(itertools.chain(*zip(*by_rank, strict=True))) == whole

    undealt = take(open_stream[name](seed=seed), n_steps * per_step, 0, 1)
    assert [first for first, _ in whole] == [first for first, _ in undealt]
    for first in range(0, len(whole), per_step):  # a step trains on the same samples
        step, expected = (
            [ids for _, batch in batches[first : first + per_step] for ids in batch] for batches in (whole, undealt)
        )
        assert sorted(step) == sorted(expected)
        lengths = [len(ids) for ids in expected]
        dealt = draft(lengths, n_dealt(per_step), B)
        for number, (_, batch) in enumerate(whole[first : first + per_step]):
            assert batch == [ids for ids, chosen in zip(expected, dealt, strict=True) if chosen == number]
