"""Every way in which a folder of LDDL shards is not what it should be is one sentence, most of them before any work."""

import io
import itertools
import os
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lddl_shards import make_row, npy, write_folder, write_rows, write_vocabulary

from common.errors import Problems, UserError
from data.loading.pretraining_dataset import PretrainingDataset

S, P = 32, 5
ROW = {
    "A": "w1 [MASK]",
    "B": "w3 w4 ##s5",
    "is_random_next": False,
    "num_tokens": 8,
    "masked_lm_positions": npy([2, 5]),
    "masked_lm_labels": "w2 w4",
}


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")


def problems_of(folder, vocab_file, shape=(S, P)):
    with pytest.raises(UserError) as error:
        PretrainingDataset(folder, 1, *shape, vocab_file=vocab_file, num_workers=0)
    return error.value.sentences


def save(vector):
    file = io.BytesIO()
    np.save(file, vector, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"A": "w1 Berlin"}, "holds the token 'Berlin' in A, which the vocabulary {vocab} has not; give --vocab_file"),
        ({"A": "w1 Berlin"}, "(a cased one: its tokens have capitals)"),
        ({"B": "w3  ##s5"}, "holds the token '' in B"),
        ({"B": "w3 w4 x"}, "holds the token 'x' in B, which the vocabulary {vocab} has not; give --vocab_file the"),
        ({"masked_lm_labels": "w2 x"}, "holds the token 'x' in masked_lm_labels"),
        ({"num_tokens": 9}, "has 8 tokens, and its num_tokens is 9"),
        ({"A": "w1 " * 27 + "w1"}, "has 34 tokens, more than --max_seq_length 32"),
        ({"masked_lm_labels": "w2"}, "has 2 masked_lm_positions and 1 masked_lm_labels"),
        ({"masked_lm_positions": npy([])}, "has 0 masked_lm_positions and 2"),
        ({"masked_lm_positions": npy([5, 2])}, "has masked_lm_positions that do not ascend"),
        ({"masked_lm_positions": npy([5, 5])}, "has masked_lm_positions that do not ascend"),
        ({"masked_lm_positions": npy([0, 5])}, "masks a position outside of its segments' tokens"),
        ({"masked_lm_positions": npy([2, 3])}, "masks a position outside"),
        ({"masked_lm_positions": npy([2, 7])}, "masks a position outside"),
        ({"masked_lm_positions": npy([2, 60000])}, "masks a position outside"),
        ({"masked_lm_positions": b""}, "has masked_lm_positions that are no .npy bytes"),
        ({"masked_lm_positions": b"\x93NUMPY"}, "has masked_lm_positions that are no .npy bytes"),
        ({"masked_lm_positions": npy([2, 5])[:-1]}, "has masked_lm_positions that are no .npy bytes"),
        ({"masked_lm_positions": npy([2, 5])[:-2]}, "has masked_lm_positions that are no .npy bytes"),
        ({"masked_lm_positions": npy([2, 5]).replace(b"(2,)", b"(2x)")}, "that are no .npy bytes"),
        ({"masked_lm_positions": save(np.array([{}], dtype=object))}, "that are no .npy bytes"),
        ({"masked_lm_positions": save(np.array([2.0, 5.0]))}, "has masked_lm_positions that are no vector of integers"),
        ({"masked_lm_positions": save(np.array([[2, 5]]))}, "has masked_lm_positions that are no vector of integers"),
        ({"A": None}, "has no A"),
        ({"is_random_next": None}, "has no is_random_next"),
        ({"masked_lm_positions": None}, "has no masked_lm_positions"),
        ({"masked_lm_labels": " ".join(["w1"] * 6), "masked_lm_positions": npy(range(6))}, "has 6 masked positions, "),
    ],
)
def test_a_damaged_row_is_named_before_any_work(tmp_path, vocab_file, change, sentence):
    write_rows(tmp_path / "shard-0.parquet", [ROW, ROW, {**ROW, **change}, ROW])
    (found,) = problems_of(tmp_path, vocab_file)
    assert found.startswith(f"Row 2 of {tmp_path / 'shard-0.parquet'} ")
    assert sentence.format(vocab=vocab_file) in found


def test_the_row_of_the_example_is_sound_and_odd_vectors_of_integers_are_read(tmp_path, vocab_file):
    for vector in (npy([2, 5]), save(np.array([2, 5])), save(np.array([2, 5], dtype=">u2"))):
        write_rows(tmp_path / "shard-0.parquet", [ROW, {**ROW, "masked_lm_positions": vector}])
        dataset = PretrainingDataset(tmp_path, 2, S, P, vocab_file=vocab_file, num_workers=0)
        with dataset.iterate() as batches:
            assert next(batches).masked_lm_positions[:4].tolist() == [2, 5, 10, 13]


def test_a_token_of_broken_bytes_is_shown_escaped(tmp_path, vocab_file):
    broken = pa.array([b"w1 \xff\xfe"]).view(pa.string())
    table = pa.table({name: broken if name == "A" else [ROW[name]] for name in ROW})
    table = table.set_column(3, "num_tokens", pa.array([8], pa.uint16()))
    pa.parquet.write_table(table, tmp_path / "shard-0.parquet")
    (found,) = problems_of(tmp_path, vocab_file)
    assert r"holds the token '\\xff\\xfe' in A" in found


def test_predictions_above_the_bound_say_which_bound_fits(tmp_path, vocab_file):
    row = make_row(random.Random(0), 512, shortest=512)
    write_rows(tmp_path / "shard-0.parquet", [row])
    (found,) = problems_of(tmp_path, vocab_file, (512, 76))
    assert "has 77 masked positions, more than --max_predictions_per_seq 76; give --max_predictions_per_seq 77" in found
    dataset = PretrainingDataset(tmp_path, 1, 512, 80, vocab_file=vocab_file, num_workers=0)
    with dataset.iterate() as batches:
        assert next(batches).work.n_masked == 77


@pytest.mark.parametrize("offset", [0, 7])
def test_rows_behind_the_first_are_checked_when_they_are_read(tmp_path, vocab_file, monkeypatch, offset):
    monkeypatch.setattr("data.loading.lddl.rows.ROWS_PER_BLOCK", 4)
    rows = [ROW] * (20 + offset) + [{**ROW, "num_tokens": 7}] + [ROW] * 3
    write_rows(tmp_path / "shard-0.parquet", rows, row_group_size=10)
    dataset = PretrainingDataset(tmp_path, 1, S, P, vocab_file=vocab_file)
    number = 20 + offset
    with pytest.raises(UserError, match=rf"^Row {number} of \S+shard-0.parquet has 8"), dataset.iterate() as batches:
        list(itertools.islice(batches, len(rows)))


@pytest.mark.parametrize(
    ("types", "sentence"),
    [
        ({"A": None}, "lacks A of an LDDL shard (it has B, is_random_next,"),
        ({"num_tokens": None}, "lacks num_tokens of"),
        ({"masked_lm_labels": None}, "lacks masked_lm_labels of"),
        ({"masked_lm_positions": None}, "lacks masked_lm_positions of"),
        ({"num_tokens": pa.string()}, "has a column num_tokens of the type string, not uint8"),
        ({"is_random_next": pa.int8()}, "has a column is_random_next of the type int8, not bool"),
        ({"A": pa.binary()}, "has a column A of the type binary, not string"),
    ],
)
def test_other_columns_are_named_for_all_files_at_once(tmp_path, vocab_file, types, sentence):
    cells = {**ROW, "num_tokens": "8"} if types.get("num_tokens") else ROW
    cells = {**cells, "is_random_next": 0} if types.get("is_random_next") else cells
    for i in range(3):
        write_rows(tmp_path / f"shard-{i}.parquet", [cells], types=types)
    (found,) = problems_of(tmp_path, vocab_file)
    assert found.startswith(f"{tmp_path / 'shard-0.parquet'} (and 2 others) {sentence}")


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_both_kinds_of_strings_are_read(tmp_path, vocab_file, kind):
    types = {"A": kind, "masked_lm_labels": kind, "masked_lm_positions": kind.replace("string", "binary")}
    write_rows(tmp_path / "shard-0.parquet", [ROW], types=types)
    assert PretrainingDataset(tmp_path, 1, S, P, vocab_file=vocab_file).n_samples == 1


def test_files_that_are_no_parquet(tmp_path, vocab_file):
    write_folder(tmp_path, (5,) * 6)
    whole = (tmp_path / "shard-0.parquet").read_bytes()
    (tmp_path / "shard-1.parquet").write_bytes(b"")
    (tmp_path / "shard-2.parquet").write_bytes(whole[:-20])
    (tmp_path / "shard-3.parquet").unlink()
    (tmp_path / "shard-3.parquet").mkdir()
    (tmp_path / "shard-4.parquet").unlink()
    os.mkfifo(tmp_path / "shard-4.parquet")
    (tmp_path / "shard-5.parquet").unlink()
    (tmp_path / "shard-5.parquet").symlink_to(tmp_path / "nowhere")
    found = problems_of(tmp_path, vocab_file)
    assert [sentence.partition(" cannot be read as Parquet (")[0] for sentence in found] == [
        str(tmp_path / f"shard-{i}.parquet") for i in range(1, 6)
    ]
    for sentence, reason in zip(
        found, ("size is 0 bytes", "magic bytes", "directory", "it is a pipe", "No such file"), strict=True
    ):
        assert reason in sentence


def test_a_footer_that_would_end_the_process_is_a_sentence(tmp_path, vocab_file):
    (path,) = write_folder(tmp_path, (20,), S)
    content = bytearray(path.read_bytes())
    # In Thrift's compact protocol a column's metadata begin with its type, here INT32, and hold its name.
    place = content.rindex(b"\x15\x02\x19", 0, content.index(b"num_tokens", content.index(b"num_tokens") + 1))
    content[place + 1] = 10  # DOUBLE
    path.write_bytes(content)
    (found,) = problems_of(tmp_path, vocab_file)
    assert "cannot be read as Parquet (" in found


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_whatever_is_damaged_reads_as_before_or_is_a_sentence(tmp_path_factory, vocab_file, seed):
    folder, rng = tmp_path_factory.mktemp("damaged"), random.Random(seed)
    (path,) = write_folder(folder, (20,), S)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 4])):
        place = rng.randrange(len(content))
        if rng.random() < 0.8:
            content[place] ^= 1 << rng.randrange(8)
        else:
            del content[place : place + rng.randrange(1, 40)]
    path.write_bytes(content)
    found = Problems()
    with found.collect():
        dataset = PretrainingDataset(folder, 5, S, P, vocab_file=vocab_file, num_workers=0)
        with dataset.iterate() as batches:
            assert sum(batch.work.n_sequences for batch in itertools.islice(batches, 4)) == 20
    assert all(str(path) in str(problem) for problem in found.found)


def test_a_folder_of_two_kinds_is_refused(tmp_path, vocab_file):
    rows = [ROW] * 3
    write_rows(tmp_path / "shard-0.parquet", rows)
    write_rows(tmp_path / "part.0.parquet", rows)
    assert "holds both part.* and shard-*" in problems_of(tmp_path, vocab_file)[0]
    (tmp_path / "part.0.parquet").unlink()
    write_rows(tmp_path / "shard-0.parquet_1", rows)
    assert "with a bin's number and others without" in problems_of(tmp_path, vocab_file)[0]
    (tmp_path / "shard-0.parquet_1").unlink()
    unmasked = {name: value for name, value in ROW.items() if "masked" not in name}
    write_rows(tmp_path / "shard-1.parquet", [unmasked])
    assert "shard-0.parquet holds masked rows and " in problems_of(tmp_path, vocab_file)[0]
    (tmp_path / "shard-1.parquet").unlink()
    (tmp_path / "wiki.hdf5").write_bytes(b"")
    assert "holds .hdf5 files and Parquet shards; move one kind away." in problems_of(tmp_path, vocab_file)[0]


def test_other_parquet_and_what_is_no_shard(tmp_path, vocab_file):
    write_folder(tmp_path, (5,))
    for name in ("_metadata", "_common_metadata", ".num_samples.json", ".hidden.parquet", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert PretrainingDataset(tmp_path, 1, S, P, vocab_file=vocab_file).n_samples == 5
    write_rows(tmp_path / "train-00000-of-00041.parquet", [ROW])
    (found,) = problems_of(tmp_path, vocab_file)
    assert "train-00000-of-00041.parquet has not the name of an LDDL shard" in found


def test_rows_longer_than_asked_for_are_told_from_the_footers_of_all_files(tmp_path, vocab_file):
    write_folder(tmp_path, (200, 200), S, bin_size=8)
    (found,) = problems_of(tmp_path, vocab_file, (16, P))
    assert found == (
        f"{tmp_path / 'shard-0.parquet_2'} (and 3 others) holds rows of more tokens than --max_seq_length 16 (the "
        "longest have 32); give --max_seq_length 32, or another folder."
    )


def test_the_vocabulary_is_asked_for_beside_all_else(tmp_path, vocab_file):
    write_folder(tmp_path, (5,))
    found = problems_of(tmp_path, None, (8, P))
    assert len(found) == 2
    assert "whose ids a vocabulary says; give --vocab_file" in found[1]
    (found,) = problems_of(tmp_path, tmp_path / "none.txt")
    assert f"no vocabulary file at {tmp_path / 'none.txt'}" in found
