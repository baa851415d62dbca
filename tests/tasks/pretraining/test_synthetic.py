"""Synthetic batches do the work that they state."""

import itertools

import pytest
import torch

from tasks.pretraining.synthetic import SyntheticPretraining, synthetic_batch


def test_full_batch_has_no_padding():
    batch = synthetic_batch(8, 128, 20, 1000)
    assert batch.input_ids.shape == (8 * 128,)
    assert (batch.work.sum_lengths, batch.work.sum_squared_lengths, batch.work.n_masked) == (
        8 * 128,
        8 * 128**2,
        8 * 20,
    )
    assert (batch.masked_lm_labels != -100).all()
    assert len(batch.masked_lm_positions.unique()) == 8 * 20


@pytest.mark.parametrize(("mean", "shortest", "longest"), [(40, 5, 75), (64, 5, 123), (100, 72, 128), (66.5, 5, 128)])
def test_lengths_are_spread_evenly_around_the_stated_mean(mean, shortest, longest):
    batch = synthetic_batch(2000, 128, 20, 1000, mean_length=mean)
    lengths = batch.cu_seqlens[:2001].diff()
    assert batch.work.sum_lengths / 2000 == pytest.approx(mean, abs=0.01)
    assert (lengths.min(), lengths.max()) == (shortest, longest)
    # Of a uniform distribution: a quarter lies below its first quartile, and its spread is its width over sqrt(12).
    assert (lengths < (3 * shortest + longest) / 4).float().mean() == pytest.approx(0.25, abs=0.02)
    assert lengths.float().std() == pytest.approx((longest - shortest) / 12**0.5, rel=0.02)
    assert not torch.equal(lengths, lengths.sort().values)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_mean_is_that_stated_at_any_batch_size_and_batches_still_differ(batch_size):
    dataset = SyntheticPretraining("254", batch_size, 512, 80, 1000, rank=1, world_size=2)
    with dataset.iterate() as batches:
        tokens = [next(batches).work.sum_lengths for _ in range(20)]  # a window of 20 steps
    assert sum(tokens) == 20 * batch_size * 254
    assert len(set(tokens)) > 5


def test_masked_positions_lie_in_their_sequence_and_spare_its_first_token():
    batch = synthetic_batch(50, 64, 10, 1000, mean_length=30)
    starts, ends = batch.cu_seqlens[:50], batch.cu_seqlens[1:51]
    positions = batch.masked_lm_positions[batch.masked_lm_labels != -100]
    sequence = torch.searchsorted(ends, positions, right=True)
    assert (positions > starts[sequence]).all()
    assert (positions < ends[sequence]).all()
    assert len(positions.unique()) == len(positions) == batch.work.n_masked


def test_each_rank_has_its_share_of_an_endless_stream():
    def batches_of(rank, start=0):
        dataset = SyntheticPretraining("full", 3, 16, 2, 100, seed=4, rank=rank, world_size=2)
        with dataset.iterate(start) as batches:
            return dataset, list(itertools.islice(batches, 20))

    dataset, first = batches_of(0)
    _, second = batches_of(1)
    assert [batch.first_sample for batch in first] == list(range(0, 120, 6))
    assert [batch.first_sample for batch in second] == list(range(3, 123, 6))
    assert not torch.equal(first[0].input_ids, second[0].input_ids)
    assert not torch.equal(first[0].input_ids, first[1].input_ids)
    _, resumed = batches_of(0, start=30)
    assert torch.equal(resumed[0].input_ids, first[5].input_ids)
    assert resumed[0].first_sample == 30
    assert (dataset.epoch(0), dataset.epoch(dataset.n_samples)) == (0, 1)
