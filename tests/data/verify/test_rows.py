"""The checks of single rows, against an oracle that reads a row token by token; and the search for repetitions."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_shards import CLS, MASK, SEP, VOCAB, P, S, make_row, make_rows, save

from common.workers import workers
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import MASKING_RULES
from data.verify import shards
from data.verify.report import FAILED, WARNING, Offence, Report
from data.verify.rows import Expected, check_shard
from data.verify.shards import repeated_between


def is_right(row):
    """The published form of a row, checked token by token."""
    n = int(row["input_mask"].sum(dtype=int))
    ids, segments, positions, labels = (
        list(map(int, row[name])) for name in ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids")
    )
    if list(row["input_mask"]) != [1] * n + [0] * (S - n) or n < 5:
        return False
    used = positions.index(0) if 0 in positions else P
    if any(positions[used:]) or any(labels[used:]) or used != min(P, max(1, round(n * 0.15)), n - 3):
        return False
    if positions[:used] != sorted(set(positions[:used])) or not all(0 < p < n for p in positions[:used]):
        return False
    if not all(0 <= i < VOCAB for i in ids + labels):
        return False
    for place, label in zip(positions[:used], labels[:used], strict=True):
        ids[place] = label
    seps = [i for i, token in enumerate(ids) if token == SEP]
    if len(seps) != 2 or seps[1] != n - 1 or set(seps) & set(positions[:used]):
        return False
    if ids[0] != CLS or ids.count(CLS) != 1 or MASK in ids or not 2 <= seps[0] <= n - 3 or any(ids[n:]):
        return False
    wanted = [0] * (seps[0] + 1) + [1] * (n - seps[0] - 1) + [0] * (S - n)
    return segments == wanted and row["next_sentence_labels"] in (0, 1)


VALUES = st.one_of(st.sampled_from([-1, 0, 1, 2, 3, 4, 5, S - 1, S, VOCAB - 1, VOCAB, 127]), st.integers(-128, 127))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(make_row(random.Random(0)))), st.integers(0, 11), st.integers(0, S - 1), VALUES
        ),
        max_size=3,
    )
)
def test_any_changed_numbers_as_an_oracle_sees_them(tmp_path_factory, changes):
    arrays = make_rows(12)
    for name, row, column, value in changes:
        array = arrays[name].reshape(12, -1)
        array[row, column % array.shape[1]] = min(value, np.iinfo(array.dtype).max)
    path = tmp_path_factory.mktemp("oracle", numbered=True) / "training.hdf5"
    save(path, arrays, chunks=None)
    findings = check_shard(path, Expected(SpecialIds(CLS, SEP, MASK, VOCAB), S, P, 0.15, MASKING_RULES["tokens"]))
    path.unlink()
    wrong = [row for row in range(12) if not is_right({name: array[row] for name, array in arrays.items()})]
    assert sum(offence.n_rows for offence in findings.offences.values()) == len(wrong)
    assert {offence.row for offence in findings.offences.values()} <= set(wrong)
    assert int(findings.counts["lengths"].sum()) == 12 - len(wrong)


@given(st.lists(st.lists(st.integers(0, 30), max_size=20, unique=True), min_size=1, max_size=6))
def test_repetitions_as_a_plain_count_has_them(files):
    pairs = repeated_between([np.array(sorted(hashes), dtype=np.uint64) for hashes in files])
    values = {value for hashes in files for value in hashes}
    n_links = sum(max(0, sum(value in hashes for hashes in files) - 1) for value in values)
    assert sum(n for _, _, n in pairs) == n_links
    assert all(a < b and set(files[a]) & set(files[b]) for a, b, _ in pairs)


def test_repetitions_are_found_in_bounded_memory(tmp_path, monkeypatch):
    """Of each of two files, the smallest hashes of some of the documents are compared."""
    monkeypatch.setattr(shards, "MAX_COMPARED", 600)
    for name, first in (("training_0", 0), ("training_1", 500)):
        documents = (f"Document {number}.\n\n" for number in range(first, first + 1000))
        (tmp_path / f"{name}.txt").write_text("".join(documents), encoding="utf-8")
    with workers(1) as pool:
        report = shards.verify(tmp_path, pool)
    (check,) = (check for check in report.checks if check.name == "documents repeated")
    assert (check.status, check.first_file) == (WARNING, "training_1.txt")
    assert 100 < check.n_rows < 200
    assert report.notes[-1] == "Of each file, at most 300 documents were compared with other files'."


def test_a_failure_takes_the_place_of_a_warning(tmp_path):
    report = Report(tmp_path, ["a"])
    report.offend("a", "x", Offence("odd", status=WARNING))
    report.offend("a", "y", Offence("wrong", n_rows=2, row=5))
    report.offend("a", "z", Offence("odd", status=WARNING))
    (check,) = report.checks
    assert (check.status, check.first_file, check.first_row, check.n_files) == (FAILED, "y", 5, 3)
