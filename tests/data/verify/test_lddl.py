"""Verification of LDDL's shards: sound ones pass, and each fault is found in its file, at its row."""

import json

import pytest
from lddl_shards import npy, write_folder, write_rows, write_vocabulary

from common.errors import UserError
from common.workers import workers
from data.verify import lddl
from data.verify.report import FAILED, OK, WARNING
from data.verify.shards import verify

S = 64
ONE_MASK = {"masked_lm_positions": npy([5]), "masked_lm_labels": "w5"}  # where two tokens should be masked


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")


def run(folder, vocab_file, n_processes=1):
    with workers(n_processes) as pool:
        return verify(folder, pool, vocab_file=vocab_file)


def found(report):
    """Of each check that is not passed: status, first file, first row and the words."""
    checks = [check for check in report.checks if check.status != OK]
    return {check.name: (check.status, check.first_file, check.first_row, check.what) for check in checks}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("bin_size", [None, 16])
def test_sound_shards_pass(tmp_path, vocab_file, masked, bin_size):
    written = write_folder(tmp_path, (400, 300), S, masked=masked, bin_size=bin_size)
    (tmp_path / ".num_samples.json").write_text(json.dumps({path.name: len(rows) for path, rows in written.items()}))
    report = run(tmp_path, vocab_file, n_processes=2)
    assert found(report) == {}
    assert [check.name for check in report.checks] == ["readable", *lddl.CHECKS]
    numbers, rows = report.statistics["all"], [row for rows in written.values() for row in rows]
    assert numbers["rows"] == 700
    assert numbers["mean length"] == pytest.approx(sum(row["num_tokens"] for row in rows) / 700)
    assert numbers["share of random next sentences"] == pytest.approx(sum(row["is_random_next"] for row in rows) / 700)
    assert (numbers["share masked"] > 0) is masked


def change_row(changes):
    return lambda rows: [*rows[:30], {**rows[30], **changes}, *rows[31:]]


@pytest.mark.parametrize(
    ("change", "check", "status", "row", "what"),
    [
        (change_row({"A": "w1 Berlin"}), lddl.TEXT, FAILED, 30, "it holds the token 'Berlin' in A"),
        (change_row({"A": "w1", "B": "w2", "num_tokens": 6}), lddl.TEXT, FAILED, 30, "and its num_tokens is 6"),
        (change_row({"num_tokens": 60000}), lddl.COLUMNS, FAILED, None, "(the longest have 60000)"),
        (change_row({"masked_lm_positions": b""}), lddl.TEXT, FAILED, 30, "masked_lm_positions that are no .npy"),
        (
            change_row({"A": "w1 w2 w3 w4 [MASK]", "B": "w6 w7", "num_tokens": 10, **ONE_MASK}),
            "masked_lm_positions",
            FAILED,
            30,
            "masked_lm_positions holds not 0.15 of the row's length",
        ),
        (lambda rows: rows[:-1] + rows[20:21], "rows repeated", FAILED, None, "1 of its rows are there before"),
        (
            lambda rows: [{**row, "is_random_next": True} for row in rows],
            "next-sentence balance",
            FAILED,
            None,
            "100.0% of 400 next sentences are random",
        ),
        (
            lambda rows: [
                {**row, "A": " ".join("[MASK]" if word == "w1" else word for word in row["A"].split())} for row in rows
            ],
            "further special tokens",
            FAILED,
            None,
            "input_ids has a further",
        ),
        (
            lambda rows: [{**row, "B": " ".join(["[UNK]"] * len(row["B"].split()))} for row in rows],
            "unknown tokens",
            WARNING,
            None,
            "are [UNK], more than 2%",
        ),
        (lambda rows: rows[:-1], lddl.COUNTS, WARNING, None, "it has 399 rows, and .num_samples.json says 400"),
    ],
)
def test_a_fault_is_told_with_its_file_and_row(tmp_path, vocab_file, change, check, status, row, what):
    written = write_folder(tmp_path, (400, 400), S)
    path = tmp_path / "shard-1.parquet"
    (tmp_path / ".num_samples.json").write_text(json.dumps({each.name: 400 for each in written}))
    write_rows(path, change(written[path]))
    there = found(run(tmp_path, vocab_file))[check]
    assert there[:2] == (status, path.name)
    assert row in (None, there[2])
    assert what in there[3]


def test_masks_that_all_became_mask_fail(tmp_path, vocab_file):
    written = write_folder(tmp_path, (400,), S)
    ((path, rows),) = written.items()
    for row in rows:
        tokens = row["A"].split()
        row |= {"A": " ".join(["[MASK]"] * len(tokens)), "masked_lm_labels": " ".join(["w1"] * len(tokens))}
        row |= {"masked_lm_positions": npy(range(1, len(tokens) + 1))}
    write_rows(path, rows)
    assert "masked_lm_positions" in found(run(tmp_path, vocab_file))


def test_files_that_are_damaged_or_of_another_kind_are_told_apart(tmp_path, vocab_file):
    written = write_folder(tmp_path, (50, 50, 50, 50), S)
    paths = sorted(written)
    paths[1].write_bytes(paths[1].read_bytes()[:-9])
    write_rows(paths[2], written[paths[2]], types={"masked_lm_positions": None, "masked_lm_labels": None})
    write_rows(paths[3], [])
    report = run(tmp_path, vocab_file)
    by_name = {check.name: check for check in report.checks}
    assert (by_name[lddl.COLUMNS].n_files, by_name[lddl.COLUMNS].first_file) == (3, paths[1].name)
    assert "it cannot be read as Parquet" in by_name[lddl.COLUMNS].what
    assert str(report.failure()).endswith("make it again with LDDL, or get a whole copy.")
    for path in paths[1:]:
        path.unlink()
    write_rows(paths[1], [], types={"masked_lm_positions": "binary", "masked_lm_labels": "string"})
    assert found(run(tmp_path, vocab_file))[lddl.COUNTS] == (WARNING, paths[1].name, None, "it has no rows")


def test_lost_files_are_a_note(tmp_path, vocab_file):
    write_folder(tmp_path, (50,), S)
    (tmp_path / ".num_samples.json").write_text('{"shard-0.parquet": 50, "shard-1.parquet": 50}', encoding="utf-8")
    assert ".num_samples.json names 1 lost file, shard-1.parquet first." in run(tmp_path, vocab_file).notes
    (tmp_path / ".num_samples.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="is no list of row counts: it holds no JSON object; move it away"):
        run(tmp_path, vocab_file)


def test_names_and_the_vocabulary_come_first(tmp_path, vocab_file):
    write_folder(tmp_path, (50,), S)
    with pytest.raises(UserError, match="give --vocab_file the one that they were made with"):
        run(tmp_path, None)
    (tmp_path / "shard-0.parquet").rename(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="has not the name of an LDDL shard"):
        run(tmp_path, vocab_file)
