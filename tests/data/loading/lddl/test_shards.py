"""LDDL's shards through the loader, against a naive reading of their rows, and against the same rows as HDF5."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lddl_shards import (
    npy,
    read_naively,
    vocabulary_of,
    without_masks,
    write_folder,
    write_hdf5,
    write_rows,
    write_vocabulary,
)

import data.loading.lddl.rows
from data.loading.lddl.files import RowGroup
from data.loading.lddl.shards import spread
from data.loading.masking import DynamicMasking
from data.loading.pretraining_dataset import PretrainingDataset
from data.masked_lm.instances import SpecialIds
from tokenization import load_vocab

S, P = 32, 5


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")


def open_folder(folder, vocab_file, batch=4, seed=1, shape=(S, P), **options):
    return PretrainingDataset(folder, batch, *shape, seed, vocab_file=vocab_file, **{"num_workers": 0, **options})


def take(dataset, n_batches, start=0):
    with dataset.iterate(start) as batches:
        return list(itertools.islice(batches, n_batches))


def samples_of(batches):
    """The samples of flat batches in the form of `read_naively`."""
    samples = []
    for batch in batches:
        masked = list(zip(batch.masked_lm_positions.tolist(), batch.masked_lm_labels.tolist(), strict=True))
        starts = batch.cu_seqlens.tolist()
        for i, label in enumerate(batch.next_sentence_labels.tolist()):
            first, last = starts[i], starts[i + 1]
            own = tuple((place - first, token) for place, token in masked if token != -100 and first <= place < last)
            ids, types = batch.input_ids[first:last].tolist(), batch.token_type_ids[first:last].tolist()
            samples.append((tuple(ids), tuple(types), own, label))
    return samples


def naive_samples(written, vocab_file):
    vocabulary = vocabulary_of(vocab_file)
    return [read_naively(row, vocabulary) for rows in written.values() for row in rows]


@settings(max_examples=15)
@given(
    rows_per_file=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    bin_size=st.sampled_from([None, 8, 16]),
    batch=st.integers(1, 7),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 60),
    workers=st.sampled_from([0, 1]),
)
def test_ranks_read_every_row_once_an_epoch_from_any_position(
    tmp_path_factory, vocab_file, rows_per_file, bin_size, batch, world_size, seed, start, workers
):
    folder = tmp_path_factory.mktemp("shards")
    expected = naive_samples(write_folder(folder, rows_per_file, S, bin_size=bin_size, seed=seed), vocab_file)
    n_samples = len(expected)
    batch = min(batch, max(1, n_samples // world_size))
    world_size = min(world_size, n_samples)
    n_batches = -(-(start + 2 * n_samples) // (batch * world_size))
    options = {"batch": batch, "seed": seed, "world_size": world_size, "num_workers": workers}
    by_rank = [take(open_folder(folder, vocab_file, rank=r, **options), n_batches) for r in range(world_size)]
    stream = [sample for step in zip(*by_rank, strict=True) for sample in samples_of(step)]
    for epoch in range(2):
        assert sorted(stream[epoch * n_samples : (epoch + 1) * n_samples]) == sorted(expected)
    there = stream[start : start + 10]
    assert samples_of(take(open_folder(folder, vocab_file, batch=1, seed=seed), len(there), start)) == there


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("row_group_size", [None, 1, 6])
def test_blocks_and_row_groups_change_nothing_but_the_order(tmp_path, vocab_file, monkeypatch, block, row_group_size):
    monkeypatch.setattr(data.loading.lddl.rows, "ROWS_PER_BLOCK", block)
    written = write_folder(tmp_path, (20, 9), S)
    for path, rows in written.items():
        write_rows(path, rows, row_group_size=row_group_size)
    expected = naive_samples(written, vocab_file)
    with open_folder(tmp_path, vocab_file).evaluation_batches() as batches:
        assert samples_of(batches) == expected
    assert sorted(samples_of(take(open_folder(tmp_path, vocab_file, batch=1), 29))) == sorted(expected)


def test_batches_are_those_of_the_same_rows_in_hdf5(tmp_path, vocab_file):
    vocabulary = vocabulary_of(vocab_file)
    written = write_folder(tmp_path / "lddl", (20, 31, 8), S)
    (tmp_path / "hdf5").mkdir()
    for path, rows in written.items():
        write_hdf5(tmp_path / "hdf5" / f"{path.stem}.hdf5", [read_naively(row, vocabulary) for row in rows], S, P)
    lddl = take(open_folder(tmp_path / "lddl", vocab_file), 40)
    hdf5 = take(PretrainingDataset(tmp_path / "hdf5", 4, S, P, 1, num_workers=0), 40)
    for one, other in zip(lddl, hdf5, strict=True):
        assert one.work == other.work
        for name in ("input_ids", "token_type_ids", "cu_seqlens", "masked_lm_positions", "masked_lm_labels"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def open_masked(folder, vocab_file, **options):
    masking = DynamicMasking("tokens", 0.15, P, SpecialIds.of(load_vocab(vocab_file)), seed=5)
    return open_folder(folder, vocab_file, masking=masking, n_predictions=range(S + 1), **options)


@pytest.fixture
def three_folders(tmp_path, vocab_file):
    """The same rows with masks and without them, and in HDF5; the folders, and the rows by file as without masks."""
    vocabulary = vocabulary_of(vocab_file)
    written = write_folder(tmp_path / "masked", (20, 31, 8), S)
    without = {path: [without_masks(row) for row in rows] for path, rows in written.items()}
    folders = tmp_path / "masked", tmp_path / "unmasked", tmp_path / "hdf5"
    for folder in folders[1:]:
        folder.mkdir()
    for path, rows in written.items():
        write_rows(folders[1] / path.name, without[path])
        write_hdf5(folders[2] / f"{path.stem}.hdf5", [read_naively(row, vocabulary) for row in rows], S, P)
    return folders, without


def original(sample):
    """A sample whose masked tokens are put back."""
    ids, segments, masked, label = sample
    there = dict(masked)
    return tuple(there.get(position, token) for position, token in enumerate(ids)), segments, (), label


def test_new_masks_are_the_same_whether_the_shards_had_some_or_are_hdf5(three_folders, vocab_file):
    folders, without = three_folders
    streams = [samples_of(take(open_masked(folder, vocab_file), 20)) for folder in folders]
    assert streams[0] == streams[1] == streams[2]
    assert sorted(map(original, streams[0][:59])) == sorted(naive_samples(without, vocab_file))
    for ids, _, masked, _ in streams[0]:
        assert len(masked) == min(P, max(1, round(0.15 * len(ids))))


@pytest.mark.parametrize("which", [0, 1])
def test_new_masks_follow_from_the_position_alone(three_folders, vocab_file, which):
    folder = three_folders[0][which]
    whole = samples_of(take(open_masked(folder, vocab_file, batch=1), 120))
    ranks = [take(open_masked(folder, vocab_file, batch=3, rank=r, world_size=2, num_workers=r), 20) for r in (0, 1)]
    assert [sample for step in zip(*ranks, strict=True) for sample in samples_of(step)] == whole
    assert samples_of(take(open_masked(folder, vocab_file, batch=5), 4, start=61)) == whole[61:81]


def test_new_masks_are_spread_as_published(tmp_path, vocab_file):
    write_folder(tmp_path, (4000,), S, masked=False)
    mask, counts, n_all = vocabulary_of(vocab_file)["[MASK]"], np.zeros(3), 0
    for ids, _, masked, _ in samples_of(take(open_masked(tmp_path, vocab_file, batch=100), 40)):
        now = [(ids[position], token) for position, token in masked]
        counts += [sum(token == mask for token, _ in now), sum(token == was for token, was in now), len(now)]
        n_all += len(ids)
    assert counts[:2] / counts[2] == pytest.approx([0.8 + 0.1 / 85, 0.1 + 0.1 / 85], abs=0.015)  # 4 standard errors
    assert counts[2] / n_all == pytest.approx(0.15, abs=0.01)


def test_rows_of_all_bins_mix(tmp_path, vocab_file):
    write_folder(tmp_path, (40, 40, 40), S, bin_size=8)
    batches = take(open_folder(tmp_path, vocab_file, batch=12), 10)
    bins = [{(len(ids) - 1) // 8 for ids, *_ in samples_of([batch])} for batch in batches]
    assert all(len(found) > 1 for found in bins)
    assert set().union(*bins) == {0, 1, 2, 3}


def test_bins_of_unequal_numbers_of_shards_are_spread_evenly():
    bins = [[RowGroup(file, 0, 0, 1) for file in range(first, last)] for first, last in ((0, 6), (6, 8), (8, 9))]
    parts = [[group.file for group in part] for part in spread(bins)]
    assert parts == [[0, 6, 8], [1], [2], [3, 7], [4], [5]]
    assert spread([]) == []


def test_a_rank_looks_up_its_own_rows_alone(tmp_path, vocab_file, monkeypatch):
    write_folder(tmp_path, (40,), S)
    looked_up = []
    original = data.loading.lddl.shards.read_rows

    def counting(file, group, reading, rows):
        looked_up.append(len(rows))
        return original(file, group, reading, rows)

    monkeypatch.setattr(data.loading.lddl.shards, "read_rows", counting)
    take(open_folder(tmp_path, vocab_file, rank=1, world_size=2), 5)
    assert looked_up == [20]


def test_shards_of_one_row_empty_shards_and_equal_ones_lose_nothing(tmp_path, vocab_file):
    written = write_folder(tmp_path, (1, 7, 7, 7), S)
    write_rows(tmp_path / "shard-9.parquet", [], types={"masked_lm_positions": "binary", "masked_lm_labels": "string"})
    stream = samples_of(take(open_folder(tmp_path, vocab_file, batch=2), 11))
    assert sorted(stream) == sorted(naive_samples(written, vocab_file))


def test_a_large_vocabulary_has_ids_of_more_than_two_bytes(tmp_path):
    words = [f"x{i}" for i in range(70000)]
    vocab_file = write_vocabulary(tmp_path / "large.txt", words)
    row = {"A": "x69999", "B": "x1 [MASK]", "is_random_next": True, "num_tokens": 6}
    row |= {"masked_lm_positions": npy([4]), "masked_lm_labels": "x65999"}
    write_rows(tmp_path / "shard-0.parquet", [row])
    (sample,) = samples_of(take(open_folder(tmp_path, vocab_file, batch=1), 1))
    assert sample == ((2, 70004, 3, 6, 4, 3), (0, 0, 0, 1, 1, 1), ((4, 66004),), 1)


def test_no_thread_stays(tmp_path, vocab_file):
    write_folder(tmp_path, (9, 9), S)
    take(open_folder(tmp_path, vocab_file, num_workers=1), 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sample_stream")]
