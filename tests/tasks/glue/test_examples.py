"""GLUE's files: every official layout against Python's own reader, their quirks, and what is wrong with others."""

import csv

import numpy as np
import pytest
from glue_runs import LAYOUTS, write_glue
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from tasks.glue.benchmarks import BENCHMARKS
from tasks.glue.examples import read_glue

USES = {"train": "train", "dev": "score", "test": "predict", "diagnostic": "predict"}


def use_of(file):
    return USES[file.removesuffix(".tsv").split("_")[0]]


@pytest.mark.parametrize("task", LAYOUTS)
def test_every_official_layout(tmp_path, task):
    folder, written = write_glue(tmp_path, task)
    benchmark = BENCHMARKS[task]
    assert folder.name == benchmark.folder
    named = ["train.tsv", *(file for _, file in (*benchmark.dev, *benchmark.test_files))]
    assert sorted(written) == sorted(named if task != "ax" else named[1:])
    for file, rows in written.items():
        examples = read_glue(folder / file, benchmark, use_of(file))
        n_texts = len(benchmark.texts)
        assert [tuple(texts) for texts in zip(*examples.texts, strict=True)] == [row[:n_texts] for row in rows]
        labels = [row[n_texts:] for row in rows]
        if use_of(file) == "predict":
            assert set(labels) == {()}
            assert examples.labels.tolist() == [0] * len(rows)
        elif benchmark.labels:
            assert examples.labels.dtype == np.int64
            assert [(benchmark.labels[label],) for label in examples.labels] == labels
        else:
            assert examples.labels.dtype == np.float32
            assert examples.labels.tolist() == [float(label) for (label,) in labels]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS, st.integers(0, 1)), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_rows_are_those_of_a_reader_without_quotes(tmp_path_factory, rows, has_mark, has_end):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    lines = ["index\tsentence1\tsentence2\tlabel", *(f"{i}\t{a}\t{b}\t{c}" for i, (a, b, c) in enumerate(rows))]
    text = "\n".join(lines) + "\n" * has_end
    path.write_bytes(b"\xef\xbb\xbf" * has_mark + text.encode())
    examples = read_glue(path, BENCHMARKS["wnli"])
    with path.open(encoding="utf-8-sig", newline="") as file:
        expected = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n"))[1:]
    assert list(zip(*examples.texts, strict=True)) == [(row[1].strip(), row[2].strip()) for row in expected]
    assert examples.labels.tolist() == [int(row[3]) for row in expected]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_quotes_blanks_and_line_separators_are_text(tmp_path):
    path = write(tmp_path / "dev.tsv", "sentence\tlabel", 'he said " so \t1', 'a "\u2028b\x85 c \t0')
    assert read_glue(path, BENCHMARKS["sst-2"]).texts == (('he said " so', 'a "\u2028b\x85 c'),)


def test_rows_that_their_makers_left_in(tmp_path):
    said = []
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    path = write(
        tmp_path / "train.tsv", header, "0\t1\t2\ta\tb\t1", "1\t3\t4\tbroken", "here\td\t0", "2\t5\t6\te\tf\t0"
    )
    assert read_glue(path, BENCHMARKS["qqp"], "train", said.append).texts == (("a", "e"), ("b", "f"))
    assert said == [f"{path}: rows left out, which have too few columns: 2."]
    with pytest.raises(UserError, match="line 3 is not of 6 columns but of 4, the first of 2 wrong lines"):
        read_glue(path, BENCHMARKS["qqp"], "predict")  # the server counts its rows
    header = "index\tsentence1\tsentence2\tgold_label"
    path = write(tmp_path / "dev.tsv", header, "0\ta\tb\t-", "1\tc\td\tneutral")
    assert read_glue(path, BENCHMARKS["mnli"], "score", said.append).labels.tolist() == [2]
    assert "pairs left out, which annotators did not agree on: 1." in said[1]


@pytest.mark.parametrize(
    ("task", "content", "words"),
    [
        ("rte", "", "is empty"),
        ("rte", "\n\n", "is empty"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n", "holds no row"),
        ("rte", "0\ta\tb\tentailment\n", r"has no column sentence1 in its first line, '0\\ta\\tb\\tentailment'"),
        ("rte", "index,sentence1,sentence2,label\n0,a,b,entailment\n", "has no column sentence1 in its first line"),
        ("rte", "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n", "has no column sentence1"),
        ("rte", "index\tsentence1\tsentence2\n0\ta\tb\n", "has no column label"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", "line 2 has the label '1', which is no entailment"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t-\n", "line 2 has the label '-'"),
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n\n0\tc\n",
            "line 3 is not of 4 columns but of 1, the first of 2",
        ),
        ("cola", "gj04\t1\t\tIt is.\nx\t1\tIt was.\n", "line 2 is not of 4 columns but of 3"),
        ("cola", "source\tlabel\tmark\tsentence\n", "line 1 has the label 'label', which is no 0 or 1"),
        ("cola", "gj04\tyes\t\tIt is.\n", "line 1 has the label 'yes', which is no 0 or 1"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\t5.1\n", "line 2 has the score '5.1', which is no number from 0"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2 has the score 'nan'"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\t\n", "line 2 has the score ''"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, task, content, words):
    path = tmp_path / "dev file.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        read_glue(path, BENCHMARKS[task])
    (sentence,) = caught.value.sentences
    assert str(path) in sentence
    assert sentence.endswith(f"python3 data/bertPrep.py --action download --dataset {task}.")
    assert "\n" not in sentence


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.tsv").write_bytes("index\tsentence1\tsentence2\tlabel\n0\tä\tb\t1\n".encode("latin-1"))
    for name, words in (
        ("latin.tsv", r"is not UTF-8 text \(byte 34, line 2\)"),
        ("no.tsv", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            read_glue(tmp_path / name, BENCHMARKS["wnli"])
