"""Telling training shards from test shards by their names, and opening only what lies whole in a file of its own."""

import os
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
from shards import write_shard

from common.errors import Problems, UserError
from data.loading.prepared import check_shards
from data.loading.pretraining_dataset import read_shard
from data.loading.shard_files import naming_problem, open_shard, shard_files, splits_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("wikicorpus_en_training_0.hdf5", "training"),
        ("wikicorpus_en_test_0.hdf5", "test"),
        ("enwiki-latest_training_0.hdf5", "training"),
        ("enwiki-latest_test_0.hdf5", "test"),
        ("enwiki-latest-pages_0.hdf5", "all"),
        ("Train00.hdf5", "training"),
        ("contest.restraint-pretraining_testing.hdf5", "all"),
        ("contest_2.TEST.hdf5", "test"),
        ("training_test_0.hdf5", "all"),
    ],
)
def test_a_split_is_a_word_of_the_name(name, split):
    assert splits_of([Path(name)]) == {Path(name): split}


def test_a_corpus_may_be_called_like_a_split():
    files = [Path(f"test_corpus_{name}.hdf5") for name in ("training_0", "training_1", "test_0")]
    assert list(splits_of(files).values()) == ["training", "training", "test"]
    assert naming_problem(files) is None
    both = [Path("wiki_training_0.hdf5"), Path("wiki_test_0.hdf5"), Path("wiki_training_test_0.hdf5")]
    assert "wiki_training_test_0.hdf5 has neither" in str(naming_problem(both))
    parts = [Path("wikitraining_0.hdf5"), Path("wikitest_0.hdf5")]
    assert "'train' and 'test' in their names as parts of longer words" in str(naming_problem(parts))


def test_hidden_files_are_none_and_the_case_of_the_ending_does_not_matter(tmp_path):
    for name in ("b.HDF5", "a.hdf5", "._a.hdf5", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in shard_files(tmp_path)] == ["a.hdf5", "b.HDF5"]


def test_names_that_leave_the_split_open_are_named(tmp_path):
    paths = [tmp_path / f"{name}.hdf5" for name in ("a_training", "a_test", "a_extra", "training_test")]
    assert naming_problem(paths[:2]) is None
    assert naming_problem(paths[2:3]) is None
    problem = str(naming_problem(paths))
    assert "a_extra.hdf5 has neither the word 'training' nor 'test' in its name, or both" in problem
    assert "(2 such files); rename or move it" in problem


def external_link(file, values, folder):
    file["input_ids"] = h5py.ExternalLink(str(folder / "other.hdf5"), "/input_ids")


def soft_link(file, values, folder):
    file["input_ids"] = h5py.SoftLink("/segment_ids")


def broken_link(file, values, folder):
    file["input_ids"] = h5py.SoftLink("/none")


def virtual(file, values, folder):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.hdf5"), "input_ids", values.shape)
    file.create_virtual_dataset("input_ids", layout)


def external_storage(file, values, folder):
    where = [(str(folder / "raw"), 0, values.nbytes)]
    file.create_dataset("input_ids", data=values, external=where)


def references(file, values, folder):
    file["input_ids"] = np.full(values.shape, file["segment_ids"].ref, dtype=h5py.ref_dtype)


def group(file, values, folder):
    file.create_group("input_ids")


def floats(file, values, folder):
    file["input_ids"] = values.astype(np.float32)


def flat(file, values, folder):
    file["input_ids"] = values.ravel()


def never_written(file, values, folder):
    file.create_dataset("input_ids", values.shape, values.dtype)


def half_written(file, values, folder):
    made = file.create_dataset("input_ids", values.shape, values.dtype, chunks=(4, values.shape[1]), compression="gzip")
    made[:4] = values[:4]


def bomb(file, values, folder):
    wide = (2**20, 512)  # 2 GB of zeros in 2 MB
    chunk = np.zeros((2**15, 512), np.int32)
    made = file.create_dataset("input_ids", wide, np.int32, chunks=chunk.shape, compression="gzip", compression_opts=1)
    packed = None
    for start in range(0, wide[0], len(chunk)):
        if packed is None:
            made[start : start + len(chunk)] = chunk
            _, packed = made.id.read_direct_chunk((start, 0))
        else:
            made.id.write_direct_chunk((start, 0), packed)


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (external_link, "holds a link in place of the dataset input_ids"),
        (soft_link, "holds a link in place of the dataset input_ids"),
        (broken_link, "holds a link in place of the dataset input_ids"),
        (virtual, "keeps input_ids in other files"),
        (external_storage, "keeps input_ids in other files"),
        (references, "has no dataset input_ids of integers in 2 dimensions"),
        (group, "has no dataset input_ids of integers in 2 dimensions"),
        (floats, "has no dataset input_ids of integers in 2 dimensions"),
        (flat, "has no dataset input_ids of integers in 2 dimensions"),
        (never_written, "declares 8 rows of input_ids and does not hold them all"),
        (half_written, "declares 8 rows of input_ids and does not hold them all"),
        (bomb, "declares more rows than a file of its size holds"),
    ],
)
def test_what_is_no_shard_is_refused_by_name_wherever_it_is_read(tmp_path, put, what):
    path = tmp_path / "x_training_0.hdf5"
    write_shard(path, 8)
    write_shard(tmp_path / "other.hdf5", 8)
    with h5py.File(path, "r+") as file:
        values = file["input_ids"][:]
        del file["input_ids"]
        put(file, values, tmp_path)
    problems = Problems()
    assert check_shards([path], 16, range(3, 4), problems).tolist() == [0]
    assert [problem.problem.startswith(f"{path} {what}") for problem in problems.found] == [True]
    with pytest.raises(UserError, match=what):
        read_shard(path)


def test_a_filter_that_takes_a_plugin_is_refused(tmp_path, monkeypatch):
    write_shard(tmp_path / "x.hdf5", 8)
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        values = file["input_ids"][:]
        del file["input_ids"]
        # 32015 is Zstandard's, which h5py does not have; optional, so that it can be written without.
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_chunk(values.shape)
        options.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(values.shape)
        made = h5py.h5d.create(file.id, b"input_ids", h5py.h5t.NATIVE_INT32, space, options)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    with pytest.raises(UserError, match=r"has input_ids packed by the filter 32015, which takes a plugin of HDF5"):
        read_shard(tmp_path / "x.hdf5")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a pipe, a socket or a device"),
        (make_socket, "it is a pipe, a socket or a device"),
        (lambda path: os.symlink("/dev/zero", path), "it is a pipe, a socket or a device"),
        (os.mkdir, "cannot be read as HDF5"),
        (lambda path: os.symlink("nowhere", path), "No such file or directory"),
    ],
    ids=["pipe", "socket", "device", "folder", "broken link"],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, reason):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make(tmp_path / "a_training_0.hdf5")
    with pytest.raises(UserError, match=reason), open_shard(tmp_path / "a_training_0.hdf5"):
        pass


def test_shards_in_other_storage_are_read(tmp_path):
    write_shard(tmp_path / "plain.hdf5", 8)
    rows = read_shard(tmp_path / "plain.hdf5").input_ids
    storages = [{"compression": "lzf"}, {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (3, 2)}]
    for storage in storages:
        with h5py.File(tmp_path / "plain.hdf5") as plain, h5py.File(tmp_path / "packed.hdf5", "w") as packed:
            for name, values in plain.items():
                how = storage if values.ndim == 2 else {}
                packed.create_dataset(name, data=values[:], maxshape=(None, *values.shape[1:]), **how)
        np.testing.assert_array_equal(read_shard(tmp_path / "packed.hdf5").input_ids, rows)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_changed_bytes_are_a_sentence_or_change_no_structure(tmp_path, compression):
    write_shard(tmp_path / "plain.hdf5", 8)
    with h5py.File(tmp_path / "plain.hdf5") as plain, h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in plain.items():
            file.create_dataset(name, data=values[:], compression=compression)
    content = (tmp_path / "x.hdf5").read_bytes()
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        changed = bytearray(content[: None if seed % 10 else rng.integers(len(content))])
        for place in rng.integers(len(changed), size=rng.integers(1, 6)):
            changed[place] = rng.integers(256)
        (tmp_path / "changed.hdf5").write_bytes(changed)
        try:
            read_shard(tmp_path / "changed.hdf5", vocab_size=40)
        except UserError:
            refused += 1
    assert refused > 6
