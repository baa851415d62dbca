"""The loader against a naive reader, one sample at a time, and against batches and buckets worked out by hand."""

import itertools
import threading
import weakref
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import data.loading.pretraining_dataset
from common.errors import UserError
from data.loading.flat_batch import PaddedSamples, bucketed_n_masked, bucketed_n_tokens, flatten, n_padding_sequences
from data.loading.pretraining_dataset import PretrainingDataset

S, P, VOCAB_SIZE = 16, 3, 1000
OUR_TYPES = {
    "input_ids": "int32",
    "input_mask": "int8",
    "segment_ids": "int8",
    "masked_lm_positions": "int32",
    "masked_lm_ids": "int32",
    "next_sentence_labels": "int8",
}


@dataclass(frozen=True)
class Sample:
    ids: tuple
    types: tuple
    masked: tuple  # (position in the sequence, label) pairs
    label: int


def make_rows(n_rows, rng, full=False):
    """Rows as they lie in a shard; the second token is unlike any other row's, to tell them apart."""
    rows = {name: np.zeros((n_rows, P if "masked" in name else S), dtype) for name, dtype in OUR_TYPES.items()}
    rows["next_sentence_labels"] = rng.integers(0, 2, n_rows).astype("int8")
    for i in range(n_rows):
        length = S if full else rng.integers(3, S + 1)
        n_masked = P if full else rng.integers(0, min(P, length - 1) + 1)
        rows["input_ids"][i, :length] = rng.integers(1, VOCAB_SIZE, length)
        rows["input_mask"][i, :length] = 1
        rows["segment_ids"][i, length // 2 : length] = 1
        rows["masked_lm_positions"][i, :n_masked] = 1 + np.sort(rng.choice(length - 1, n_masked, replace=False))
        rows["masked_lm_ids"][i, :n_masked] = rng.integers(1, VOCAB_SIZE, n_masked)
    return rows


def write_shard(path, rows, **types):
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file.create_dataset(name, data=values.astype(types.get(name, values.dtype)), compression="gzip")


def make_folder(folder, rows_per_file, seed=0):
    rng = np.random.default_rng(seed)
    n_before = 0
    for i, n_rows in enumerate(rows_per_file):
        rows = make_rows(n_rows, rng)
        rows["input_ids"][:, 1] = 1 + n_before + np.arange(n_rows)
        n_before += n_rows
        write_shard(folder / f"corpus_training_{i}.hdf5", rows)
    return folder


def read_naively(path):
    """NVIDIA's reading rules, a sample at a time."""
    samples = []
    with h5py.File(path) as file:
        for i in range(len(file["input_ids"])):
            ids, mask, types, positions, labels, label = (file[name][i].tolist() for name in OUR_TYPES)
            length = sum(mask)
            n_masked = positions.index(0) if 0 in positions else len(positions)
            masked = tuple(zip(positions[:n_masked], labels[:n_masked], strict=True))
            samples.append(Sample(tuple(ids[:length]), tuple(types[:length]), masked, label))
    return samples


def unpack(batch):
    """The samples of a flat batch, found by cu_seqlens; checks its padding on the way."""
    n_sequences = len(batch.next_sentence_labels)
    starts = batch.cu_seqlens.tolist()
    masked = list(zip(batch.masked_lm_positions.tolist(), batch.masked_lm_labels.tolist(), strict=True))
    assert masked[batch.work.n_masked :] == [(0, -100)] * (len(masked) - batch.work.n_masked)
    for start, end in itertools.pairwise(starts):
        assert end - start <= batch.max_seqlen
        assert batch.position_ids[start:end].tolist() == list(range(end - start))
    assert batch.work.sum_lengths == starts[n_sequences]
    assert starts[-1] == len(batch.input_ids)
    assert not batch.input_ids[batch.work.sum_lengths :].any()
    assert not batch.token_type_ids[batch.work.sum_lengths :].any()
    samples = []
    for i, (start, end) in enumerate(itertools.pairwise(starts[: n_sequences + 1])):
        own = tuple((place - start, label) for place, label in masked[: batch.work.n_masked] if start <= place < end)
        ids, types = batch.input_ids[start:end].tolist(), batch.token_type_ids[start:end].tolist()
        samples.append(Sample(tuple(ids), tuple(types), own, batch.next_sentence_labels[i].item()))
    assert batch.work.sum_squared_lengths == sum(len(sample.ids) ** 2 for sample in samples)
    assert batch.work.n_masked == sum(len(sample.masked) for sample in samples)
    return samples


def take(dataset, n_batches, start_sample=0):
    with dataset.iterate(start_sample) as batches:
        return list(itertools.islice(batches, n_batches))


def samples_of(batches):
    return [sample for batch in batches for sample in unpack(batch)]


def make_dataset(folder, batch=4, seed=1, **options):
    return PretrainingDataset(folder, batch, S, P, seed, **{"num_workers": 0, **options})


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sample_stream")]


# The flat batch


@pytest.mark.parametrize(
    ("batch_size", "padding_sequences", "step"), [(1, 1, 128), (8, 1, 128), (64, 2, 256), (100, 3, 384), (256, 8, 1024)]
)
def test_token_buckets_worked_by_hand(batch_size, padding_sequences, step):
    assert n_padding_sequences(batch_size) == padding_sequences
    full = batch_size * 128
    assert bucketed_n_tokens(1, batch_size, 128) == step
    assert bucketed_n_tokens(step, batch_size, 128) == step
    assert bucketed_n_tokens(full, batch_size, 128) == full  # 100 * 128 is no multiple of 384
    if batch_size > 1:
        assert bucketed_n_tokens(step + 1, batch_size, 128) == 2 * step


def test_masked_buckets_worked_by_hand():
    # 32 * 20 / 8 = 80 at a time.
    assert [bucketed_n_masked(n, 32, 20) for n in (0, 1, 80, 81, 561, 640)] == [80, 80, 80, 160, 640, 640]
    # 1 * 20 / 8 = 2 at a time; 1 * 3 / 8 = 0 is taken as 1.
    assert [bucketed_n_masked(n, 1, 20) for n in (0, 3, 19, 20)] == [2, 4, 20, 20]
    assert [bucketed_n_masked(n, 1, 3) for n in (0, 2, 3)] == [1, 2, 3]
    # 3 * 7 / 8 = 2 at a time, but never more than 21.
    assert bucketed_n_masked(21, 3, 7) == 21


@given(batch_size=st.integers(1, 300), length=st.sampled_from([1, 128, 512]), share=st.floats(0, 1))
def test_padding_sequences_hold_what_a_bucket_adds(batch_size, length, share):
    n_tokens = max(batch_size, round(share * batch_size * length))
    total = bucketed_n_tokens(n_tokens, batch_size, length)
    assert n_tokens <= total <= n_tokens + n_padding_sequences(batch_size) * length
    assert len({bucketed_n_tokens(n, batch_size, length) for n in range(1, batch_size * length + 1, 97)}) < 64


def test_flat_batch_worked_by_hand():
    samples = PaddedSamples(
        input_ids=np.array([[2, 7, 3, 0], [2, 8, 9, 3]], np.int32),
        segment_ids=np.array([[0, 0, 1, 0], [0, 1, 1, 1]], np.int8),
        lengths=np.array([3, 4], np.int32),
        masked_lm_positions=np.array([[1, 0], [1, 2]], np.int32),
        masked_lm_ids=np.array([[70, 0], [80, 90]], np.int32),
        n_masked=np.array([1, 2], np.int32),
        next_sentence_labels=np.array([1, 0], np.int8),
    )
    batch = flatten(samples)
    assert batch.input_ids.tolist() == [2, 7, 3, 2, 8, 9, 3, 0]
    assert batch.token_type_ids.tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert batch.cu_seqlens.tolist() == [0, 3, 7, 8]
    assert batch.masked_lm_positions.tolist() == [1, 4, 5]
    assert batch.masked_lm_labels.tolist() == [70, 80, 90]
    assert batch.next_sentence_labels.tolist() == [1, 0]
    assert (batch.work.sum_lengths, batch.work.sum_squared_lengths, batch.work.n_masked, batch.max_seqlen) == (
        7,
        25,
        3,
        4,
    )
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert {value.dtype for name, value in tensors.items() if name != "cu_seqlens"} == {torch.int64}
    assert batch.cu_seqlens.dtype == torch.int32


def test_padding_is_cut_into_sequences_of_at_most_s_tokens():
    # 64 sequences of 4 at most: D = 2, 8 tokens at a time. 64 * 3 - 3 = 189 tokens -> 192, in sequences of 3 and 0.
    lengths = np.array([3] * 63 + [0], np.int32)
    lengths[:3] -= 1
    lengths[-1] = 3
    zeros = np.zeros((64, 4), np.int32)
    batch = flatten(PaddedSamples(zeros, zeros, lengths, zeros, zeros, lengths * 0, lengths))
    assert batch.cu_seqlens[-3:].tolist() == [189, 192, 192]
    # 64 * 3 - 7 = 185 tokens -> 192, in sequences of 4 and 3.
    lengths[3:7] -= 1
    batch = flatten(PaddedSamples(zeros, zeros, lengths, zeros, zeros, lengths * 0, lengths))
    assert batch.cu_seqlens[-3:].tolist() == [185, 189, 192]
    assert batch.position_ids[185:].tolist() == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("batch_size", [1, 16, 40, 70])
def test_full_sequences_carry_no_padding(tmp_path, batch_size):
    write_shard(tmp_path / "full.hdf5", make_rows(batch_size, np.random.default_rng(0), full=True))
    (batch,) = take(make_dataset(tmp_path, batch_size), 1)
    assert batch.cu_seqlens.tolist() == [*range(0, batch_size * S + 1, S)] + [batch_size * S] * max(1, batch_size // 32)
    assert len(batch.input_ids) == batch.work.sum_lengths == batch_size * S
    assert len(batch.masked_lm_labels) == batch.work.n_masked == batch_size * P


def test_to_copies_every_tensor(tmp_path):
    (batch,) = take(make_dataset(make_folder(tmp_path, [8])), 1)
    moved = batch.to("meta")
    assert moved.input_ids.is_meta
    assert moved.cu_seqlens.is_meta
    assert moved.work.sum_lengths == batch.work.sum_lengths


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu(tmp_path):
    dataset = make_dataset(make_folder(tmp_path, [8]), num_workers=1)
    (batch,) = take(dataset, 1)
    assert batch.input_ids.is_pinned()
    there_and_back = batch.to("cuda").to("cpu")
    torch.cuda.synchronize()  # neither copy waits
    assert unpack(there_and_back) == unpack(batch)


# The stream


@settings(max_examples=30, deadline=None)
@given(
    rows_per_file=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    batch=st.integers(1, 7),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 100),
    workers=st.sampled_from([0, 1]),
)
def test_ranks_read_every_sample_once_per_epoch(
    tmp_path_factory, rows_per_file, batch, world_size, seed, start, workers
):
    n_samples = sum(rows_per_file)
    folder = make_folder(tmp_path_factory.mktemp("shards"), rows_per_file)
    if n_samples < batch * world_size:
        with pytest.raises(UserError, match=f"hold {n_samples} samples.* takes {batch * world_size}"):
            make_dataset(folder, batch, world_size=world_size)
        return
    expected = [s for i in range(len(rows_per_file)) for s in read_naively(folder / f"corpus_training_{i}.hdf5")]
    alone = make_dataset(folder, 1, seed, num_workers=workers)
    stream = samples_of(take(alone, 3 * n_samples))
    for epoch in range(3):
        assert sorted(stream[epoch * n_samples : (epoch + 1) * n_samples], key=repr) == sorted(expected, key=repr)

    start %= 2 * n_samples
    n_batches = n_samples // (batch * world_size)
    ranks = [
        take(make_dataset(folder, batch, seed, rank=rank, world_size=world_size, num_workers=workers), n_batches, start)
        for rank in range(world_size)
    ]
    together = [sample for micro_batches in zip(*ranks, strict=True) for sample in samples_of(micro_batches)]
    assert together == stream[start : start + n_batches * batch * world_size]
    for rank, batches in enumerate(ranks):
        for place, micro_batch in enumerate(batches):
            assert micro_batch.first_sample == start + (place * world_size + rank) * batch
            assert samples_of([micro_batch])[0] == stream[micro_batch.first_sample]


@settings(max_examples=20, deadline=None)
@given(
    rows_per_file=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(lambda rows: sum(rows) >= 12),
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_runs_on_changing_numbers_of_ranks_read_one_stream(tmp_path_factory, rows_per_file, runs, seed):
    """Each run is (ranks, micro-batch, micro-batches of each rank), and goes on where the one before it ended."""
    folder = make_folder(tmp_path_factory.mktemp("shards"), rows_per_file)
    position, read = 0, []
    for world_size, batch, n_batches in runs:
        ranks = [
            take(
                make_dataset(folder, batch, seed, rank=rank, world_size=world_size, num_workers=0), n_batches, position
            )
            for rank in range(world_size)
        ]
        read += [sample for micro_batches in zip(*ranks, strict=True) for sample in samples_of(micro_batches)]
        position += world_size * batch * n_batches
    assert read == samples_of(take(make_dataset(folder, 1, seed, num_workers=0), position))


def test_order_depends_on_seed_and_epoch_and_mixes_files_and_rows(tmp_path):
    folder = make_folder(tmp_path, [40, 40, 40])

    def order(seed, epoch):
        stream = samples_of(take(make_dataset(folder, 40, seed), 3, epoch * 120))
        return [sample.ids[1] - 1 for sample in stream]

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(3)]
    assert order(0, 0) == orders[0]
    assert len(set(map(tuple, orders))) == 12
    first_files = {numbers[0] // 40 for numbers in orders}
    assert first_files == {0, 1, 2}
    for numbers in orders:
        assert len({number // 40 for number in numbers[:40]}) == 1  # a file is read through before the next
        assert numbers[:40] != sorted(numbers[:40])


def test_files_not_of_this_rank_or_before_the_start_are_not_read(tmp_path, monkeypatch):
    read = []
    original = data.loading.pretraining_dataset.read_shard
    monkeypatch.setattr(data.loading.pretraining_dataset, "read_shard", lambda *a: read.append(a[0]) or original(*a))
    dataset = make_dataset(make_folder(tmp_path, [8] * 5), 8, rank=1, world_size=2)
    take(dataset, 1, start_sample=16)
    assert len(read) == 1


def test_epoch_of_a_position(tmp_path):
    dataset = make_dataset(make_folder(tmp_path, [3, 4]))
    assert dataset.n_samples == 7
    assert [dataset.epoch(position) for position in (0, 6, 7, 14)] == [0, 0, 1, 2]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_is_one_pass_in_file_order_with_a_short_last_batch(tmp_path, workers, world_size):
    folder = make_folder(tmp_path, [3, 0, 5, 2])
    expected = [s for i in range(4) for s in read_naively(folder / f"corpus_training_{i}.hdf5")]
    ranks = []
    for rank in range(world_size):
        dataset = make_dataset(folder, 4, rank=rank, world_size=world_size, num_workers=workers)
        with dataset.evaluation_batches() as batches:
            ranks.append([unpack(batch) for batch in batches])
    assert [len(samples) for samples in ranks[0]] == ([4, 4, 2] if world_size == 1 else [4, 2])
    interleaved = itertools.chain(*itertools.zip_longest(*ranks, fillvalue=[]))
    assert list(itertools.chain(*interleaved)) == expected


def test_training_and_test_shards_of_one_folder_are_kept_apart(tmp_path):
    rng = np.random.default_rng(0)
    for name, n_rows in (("wiki_training_0", 5), ("wiki_training_1", 6), ("wiki_test_0", 3), (".wiki_training_2", 9)):
        write_shard(tmp_path / f"{name}.hdf5", make_rows(n_rows, rng))
    assert make_dataset(tmp_path).n_samples == 11
    assert make_dataset(tmp_path, split="test").n_samples == 3
    (tmp_path / "wiki_test_0.hdf5").unlink()
    with pytest.raises(UserError, match="'test' in its name"):
        make_dataset(tmp_path, split="test")


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int16"])
def test_other_integer_types_read_alike(tmp_path, dtype):
    rows = make_rows(9, np.random.default_rng(0))
    write_shard(tmp_path / "ours.hdf5", rows)
    write_shard(tmp_path / "nvidia.hdf5", rows, **dict.fromkeys(OUR_TYPES, dtype))
    ours, theirs = (take(make_dataset([tmp_path / f"{name}.hdf5"]), 4) for name in ("ours", "nvidia"))
    assert samples_of(ours) == samples_of(theirs)


# Threads


def test_threads_end_with_the_context_and_with_the_data(tmp_path):
    dataset = make_dataset(make_folder(tmp_path, [9, 9, 9]), num_workers=1)
    with dataset.iterate() as batches:
        next(batches)
        assert len(loader_threads()) == 2
    assert not loader_threads()
    with pytest.raises(ZeroDivisionError), dataset.iterate() as batches:
        len(next(batches).next_sentence_labels) / 0
    assert not loader_threads()
    with dataset.iterate():
        pass
    with dataset.evaluation_batches() as batches:
        list(batches)
        assert not loader_threads()
    for _ in take(make_dataset(dataset.files), 2):
        assert not loader_threads()


def test_at_most_two_files_are_in_memory(tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []
    original = data.loading.pretraining_dataset.read_shard

    class Counted(PaddedSamples):
        __hash__ = object.__hash__

    def counting_read(*arguments):
        most.append(len(alive) + 1)
        shard = Counted(**vars(original(*arguments)))
        alive.add(shard)
        return shard

    monkeypatch.setattr(data.loading.pretraining_dataset, "read_shard", counting_read)
    folder = make_folder(tmp_path, [8] * 6)
    for workers, expected in ((0, 1), (1, 2)):
        most.clear()
        take(make_dataset(folder, 4, num_workers=workers), 15)
        assert max(most) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_file_reaches_the_consumer_at_its_place(tmp_path, workers):
    make_folder(tmp_path, [8, 8])
    with h5py.File(tmp_path / "corpus_training_1.hdf5", "r+") as file:
        file["input_ids"][3, 0] = VOCAB_SIZE
    dataset = make_dataset(tmp_path, 4, num_workers=workers, vocab_size=VOCAB_SIZE)
    with dataset.evaluation_batches() as batches:
        assert [len(unpack(next(batches))) for _ in range(2)] == [4, 4]
        with pytest.raises(UserError, match=r"corpus_training_1\.hdf5 holds 1000 in input_ids, which takes 0 to 999"):
            next(batches)
    assert not loader_threads()


# Bad input


def test_everything_wrong_is_reported_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        PretrainingDataset(tmp_path / "nowhere", 0, S, P, -1, rank=2, world_size=2, num_workers=-1)
    sentences = str(error.value).splitlines()
    assert len(sentences) == 5
    for part in (
        "holds 0 sequences",
        "seed -1",
        "num_workers -1",
        "Rank 2",
        f"no .hdf5 file in {tmp_path / 'nowhere'}",
    ):
        assert sum(part in sentence for sentence in sentences) == 1


def test_folder_without_shards(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=rf"no \.hdf5 file in {tmp_path}; make them with data/bertPrep"):
        make_dataset(tmp_path)
    with pytest.raises(UserError, match=r"list of \.hdf5 files is empty"):
        make_dataset([])


def test_shards_of_another_shape_name_both_and_the_remedy(tmp_path):
    folder = make_folder(tmp_path, [9, 9, 9])
    with pytest.raises(UserError) as error:
        PretrainingDataset(folder, 4, 128, 20)
    length, predictions = str(error.value).splitlines()
    assert length == (
        f"{folder / 'corpus_training_0.hdf5'} (and 2 others) holds sequences of 16 tokens, not of the "
        "--max_seq_length 128 asked for; ask for what it holds, give another folder or make it again."
    )
    assert "3 predictions, not of the --max_predictions_per_seq 20" in predictions


def replace(file, name, values):
    del file[name]
    if values is not None:
        file[name] = values


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: replace(f, "input_mask", None), "has no dataset input_mask of integers in 2 dimensions"),
        (lambda f: replace(f, "segment_ids", np.zeros((9, S))), "has no dataset segment_ids of integers"),
        (lambda f: replace(f, "input_ids", np.zeros(9, int)), "has no dataset input_ids of integers in 2 dimensions"),
        (lambda f: replace(f, "next_sentence_labels", np.zeros(8, int)), "different numbers of rows"),
        (lambda f: replace(f, "input_mask", np.ones((9, S + 1), int)), "sequences of 16 and 17 tokens, not of"),
    ],
)
def test_datasets_of_the_wrong_kind(tmp_path, change, sentence):
    folder = make_folder(tmp_path, [9, 9])
    with h5py.File(folder / "corpus_training_1.hdf5", "r+") as file:
        change(file)
    with pytest.raises(UserError, match=rf"^\S*corpus_training_1\.hdf5 .*{sentence}.*; .*make it again"):
        make_dataset(folder)


def test_what_is_no_hdf5(tmp_path):
    folder = make_folder(tmp_path, [9])
    (folder / "corpus_training_1.hdf5").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"corpus_training_1\.hdf5 cannot be read as HDF5"):
        make_dataset(folder)


@pytest.mark.parametrize(
    ("name", "place", "value", "sentence"),
    [
        ("input_ids", (4, 2), -5, "holds -5 in input_ids"),
        ("masked_lm_ids", (4, 0), VOCAB_SIZE, "holds 1000 in masked_lm_ids"),
        ("segment_ids", (4, 0), 2, "holds 2 in segment_ids"),
        ("next_sentence_labels", 4, 3, "holds 3 in next_sentence_labels"),
        ("input_mask", (4, 0), 0, "Row 4 of input_mask"),
        ("input_mask", (4, slice(None)), 0, "Row 4 of input_mask"),
        ("input_mask", (4, 1), 2, "Row 4 of input_mask"),
        ("masked_lm_positions", (4, 0), 0, "Row 4 of masked_lm_positions"),
        ("masked_lm_positions", (4, 0), -1, "Row 4 of masked_lm_positions"),
        ("masked_lm_positions", (4, 0), S, "Row 4 of masked_lm_positions"),
    ],
)
def test_impossible_contents_are_found_when_the_file_is_read(tmp_path, name, place, value, sentence):
    path = tmp_path / "shard.hdf5"
    write_shard(path, make_rows(9, np.random.default_rng(0), full=True))
    with h5py.File(path, "r+") as file:
        file[name][place] = value
    dataset = make_dataset([path], vocab_size=VOCAB_SIZE)
    with pytest.raises(UserError, match=sentence) as error:
        take(dataset, 1)
    assert str(path) in str(error.value)


def test_damaged_file_is_named(tmp_path):
    folder = make_folder(tmp_path, [64])
    dataset = make_dataset(folder)
    path = folder / "corpus_training_0.hdf5"
    with h5py.File(path) as file:
        offset = file["input_ids"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"corpus_training_0\.hdf5 cannot be read"):
        take(dataset, 1)
