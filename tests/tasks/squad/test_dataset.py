"""Batches of windows against a naive loop, every window once per epoch on any number of ranks, and exact resuming."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.loading.flat_batch import bucketed_n_tokens, n_padding_sequences
from tasks.squad.dataset import SquadBatch, SquadDataset
from tasks.squad.features import SquadFeatures

S = 24


def make_features(n_windows, seed=0):
    """Windows of 5..S tokens whose ids are all different."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, S + 1, n_windows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = offsets[-1]
    start_positions = rng.integers(0, lengths)
    return SquadFeatures(
        input_ids=np.arange(1, total + 1, dtype=np.int32),
        char_starts=np.zeros(total, np.int32),
        char_ends=np.ones(total, np.int32),
        is_max_context=np.ones(total, np.bool_),
        offsets=offsets,
        question_lengths=rng.integers(2, lengths - 1).astype(np.int32),
        example_index=np.arange(n_windows, dtype=np.int32),
        start_positions=start_positions.astype(np.int64),
        end_positions=rng.integers(start_positions, lengths).astype(np.int64),
    )


def assert_is_batch_of(batch, features, windows, micro_batch_size):
    """The batch is made of these windows, token by token."""
    ids, types, positions, cu_seqlens, squares = [], [], [], [0], 0
    for window in windows:
        start, end = features.offsets[window], features.offsets[window + 1]
        for position in range(end - start):
            ids.append(features.input_ids[start + position])
            types.append(0 if position < features.question_lengths[window] else 1)
            positions.append(position)
        cu_seqlens.append(len(ids))
        squares += (end - start) ** 2
    n_tokens = len(ids)
    total = bucketed_n_tokens(n_tokens, micro_batch_size, S)
    for _ in range(n_padding_sequences(micro_batch_size)):
        length = min(S, total - len(ids))
        ids += [0] * length
        types += [0] * length
        positions += range(length)
        cu_seqlens.append(len(ids))
    assert len(ids) == total
    assert batch.input_ids.tolist() == ids
    assert batch.token_type_ids.tolist() == types
    assert batch.position_ids.tolist() == positions
    assert batch.cu_seqlens.tolist() == cu_seqlens
    assert batch.max_seqlen == S
    assert batch.start_positions.tolist() == [features.start_positions[window] for window in windows]
    assert batch.end_positions.tolist() == [features.end_positions[window] for window in windows]
    assert batch.feature_indices.tolist() == windows
    assert (batch.work.sum_lengths, batch.work.sum_squared_lengths) == (n_tokens, squares)


def first_batches(dataset, n, start_sample=0):
    with dataset.iterate(start_sample) as batches:
        return list(itertools.islice(batches, n))


def evaluation_batches(dataset):
    with dataset.evaluation_batches() as batches:
        return list(batches)


def windows_of(batches):
    return [window for batch in batches for window in batch.feature_indices.tolist()]


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(st.integers(shape[0] * shape[1], 60), st.just(shape[0]), st.just(shape[1]))
)


@given(shape=SHAPES, seed=st.integers(0, 5))
@settings(deadline=None)
def test_every_window_once_per_epoch_over_all_ranks(shape, seed):
    n_windows, micro_batch_size, world_size = shape
    features = make_features(n_windows)
    step = micro_batch_size * world_size
    n_batches = -(-3 * n_windows // step)
    stream = np.full(n_batches * step, -1)
    for rank in range(world_size):
        dataset = SquadDataset(features, micro_batch_size, S, seed, rank, world_size)
        for number, batch in enumerate(first_batches(dataset, n_batches)):
            assert batch.first_sample == number * step + rank * micro_batch_size
            windows = batch.feature_indices.tolist()
            assert_is_batch_of(batch, features, windows, micro_batch_size)
            stream[batch.first_sample : batch.first_sample + micro_batch_size] = windows
    for epoch in range(3):
        assert sorted(stream[epoch * n_windows : (epoch + 1) * n_windows]) == list(range(n_windows))


@given(shape=SHAPES, start_batch=st.integers(0, 100))
@settings(deadline=None)
def test_a_position_is_all_there_is_to_resume_from(shape, start_batch):
    n_windows, micro_batch_size, world_size = shape
    dataset = SquadDataset(make_features(n_windows), micro_batch_size, S, 3, world_size - 1, world_size)
    whole = first_batches(dataset, start_batch + 3)
    resumed = first_batches(dataset, 3, start_batch * micro_batch_size * world_size)
    for expected, batch in zip(whole[start_batch:], resumed, strict=True):
        for field in dataclasses.fields(SquadBatch):
            first, second = getattr(expected, field.name), getattr(batch, field.name)
            assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def test_ranks_share_the_stream_that_one_process_reads():
    features = make_features(50)
    alone = windows_of(first_batches(SquadDataset(features, 4, S, 1), 40))
    ranks = [first_batches(SquadDataset(features, 2, S, 1, rank, 2), 40) for rank in range(2)]
    assert windows_of(batch for pair in zip(*ranks, strict=True) for batch in pair) == alone


def test_epochs_and_seeds_differ():
    features = make_features(40)
    dataset = SquadDataset(features, 4, S, seed=1)
    first = windows_of(first_batches(dataset, 20))
    assert first[:40] != first[40:]
    assert windows_of(first_batches(SquadDataset(features, 4, S, seed=2), 20)) != first
    assert dataset.n_samples == 40
    assert [dataset.epoch(position) for position in (0, 39, 40, 400)] == [0, 0, 1, 10]


@given(n_windows=st.integers(1, 60), micro_batch_size=st.integers(1, 9), world_size=st.integers(1, 4))
@settings(deadline=None)
def test_evaluation_is_one_pass_the_longest_first(n_windows, micro_batch_size, world_size):
    features = make_features(n_windows)
    datasets = [SquadDataset(features, micro_batch_size, S, 0, rank, world_size) for rank in range(world_size)]
    batches = [batch for dataset in datasets for batch in evaluation_batches(dataset)]
    assert sorted(windows_of(batches)) == list(range(n_windows))
    batches.sort(key=lambda batch: batch.first_sample)
    lengths = features.lengths[windows_of(batches)]
    assert (np.diff(lengths) <= 0).all()
    assert all(len(batch.feature_indices) == micro_batch_size for batch in batches[:-1])
    for batch in batches:
        assert_is_batch_of(batch, features, batch.feature_indices.tolist(), micro_batch_size)
    n_batches = [len(evaluation_batches(dataset)) for dataset in datasets]
    assert max(n_batches) - min(n_batches) <= 1


def test_sorting_leaves_few_shapes():
    features = make_features(4000, seed=5)
    sorted_shapes = [len(batch.input_ids) for batch in evaluation_batches(SquadDataset(features, 32, S))]
    assert sorted_shapes == sorted(sorted_shapes, reverse=True)
    changes = sum(a != b for a, b in itertools.pairwise(sorted_shapes))
    assert changes < 32


def test_a_large_micro_batch_has_more_padding_sequences():
    features = make_features(200)
    (batch,) = first_batches(SquadDataset(features, 96, S), 1)
    assert len(batch.cu_seqlens) == 96 + 3 + 1
    assert_is_batch_of(batch, features, batch.feature_indices.tolist(), 96)


def test_types():
    (batch,) = first_batches(SquadDataset(make_features(9), 4, S), 1)
    types = {name: getattr(batch, name).dtype for name in ("input_ids", "token_type_ids", "position_ids")}
    types |= {name: getattr(batch, name).dtype for name in ("start_positions", "end_positions", "feature_indices")}
    assert set(types.values()) == {torch.int64}
    assert batch.cu_seqlens.dtype == torch.int32
    assert type(batch.work.sum_lengths) is type(batch.work.sum_squared_lengths) is type(batch.first_sample) is int


def test_batches_move():
    (batch,) = first_batches(SquadDataset(make_features(9), 4, S), 1)
    moved = batch.to("meta")
    assert {getattr(moved, field.name).device.type for field in dataclasses.fields(batch) if "ids" in field.name} == {
        "meta"
    }
    assert (moved.work.sum_lengths, moved.max_seqlen) == (batch.work.sum_lengths, S)


@pytest.mark.gpu
def test_batches_are_pinned_where_there_is_a_gpu():
    (batch,) = first_batches(SquadDataset(make_features(9), 4, S), 1)
    assert batch.input_ids.is_pinned()
    assert batch.to("cuda").feature_indices.is_cuda


def test_all_that_is_wrong_with_the_arguments():
    with pytest.raises(UserError) as error:
        SquadDataset(make_features(50), 0, S, seed=-1, rank=2, world_size=2)
    assert len(error.value.sentences) == 3
