"""Synthetic windows hold what their fields say."""

import pytest

from tasks.squad.dataset import SquadDataset, synthetic_features


@pytest.mark.parametrize("mean", [None, 5, 20, 31.5])
def test_windows_hold_their_answers(mean):
    features = synthetic_features(500, 32, 100, mean_length=mean, seed=1)
    lengths = features.lengths
    assert len(features) == 500
    assert features.offsets[-1] == len(features.input_ids) == lengths.sum()
    if mean is None:
        assert (lengths == 32).all()
    assert (features.question_lengths <= features.start_positions).all()
    assert (features.start_positions <= features.end_positions).all()
    assert (features.end_positions < lengths).all()
    assert features.input_ids.max() < 100


def test_squad_batches_are_made_of_them():
    dataset = SquadDataset(synthetic_features(64, 32, 100), 4, 32)
    with dataset.iterate() as batches:
        batch = next(batches)
    assert (batch.work.n_sequences, batch.work.sum_lengths, batch.work.sum_squared_lengths) == (4, 128, 4 * 32**2)
