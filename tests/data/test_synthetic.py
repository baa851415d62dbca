"""Synthetic batches do the work that they state."""

import pytest
import torch

from data.synthetic import synthetic_batch


def test_full_batch_has_no_padding():
    batch = synthetic_batch(8, 128, 20, 1000)
    assert batch.input_ids.shape == (8 * 128,)
    assert (batch.n_tokens, batch.sum_squared_lengths, batch.n_masked) == (8 * 128, 8 * 128**2, 8 * 20)
    assert (batch.masked_lm_labels != -100).all()
    assert len(batch.masked_lm_positions.unique()) == 8 * 20


@pytest.mark.parametrize("mean", [40, 64, 100])
def test_lengths_lie_around_the_stated_mean(mean):
    batch = synthetic_batch(2000, 128, 20, 1000, mean_length=mean)
    lengths = batch.cu_seqlens[:2001].diff()
    # Uniform with a half-width of at most 59: the standard deviation of the mean of 2,000 is below 0.8.
    assert batch.n_tokens / 2000 == pytest.approx(mean, abs=3)
    assert lengths.min() >= 5
    assert lengths.max() <= 128
    assert lengths.max() > mean + 10


def test_masked_positions_lie_in_their_sequence_and_spare_its_first_token():
    batch = synthetic_batch(50, 64, 10, 1000, mean_length=30)
    starts, ends = batch.cu_seqlens[:50], batch.cu_seqlens[1:51]
    positions = batch.masked_lm_positions[batch.masked_lm_labels != -100]
    sequence = torch.searchsorted(ends, positions, right=True)
    assert (positions > starts[sequence]).all()
    assert (positions < ends[sequence]).all()
    assert len(positions.unique()) == len(positions) == batch.n_masked
