"""Verification of text shards: sound ones pass, and each kind of damage is caught by the check that is named for it."""

import random
from collections import Counter

import pytest
from corpora import random_sentences

from common.workers import workers
from data.artifacts.manifest import FileRecord, Manifest
from data.verify import text
from data.verify.report import FAILED, OK, WARNING
from data.verify.shards import BY_MANIFEST, verify

NAMES = ("corpus_training_0", "corpus_training_1", "corpus_training_2", "corpus_test_0", "corpus_test_1")


def documents_of(index):
    """Shards of 40 sentences each, in documents of 10, 12 and 18."""
    rng = random.Random(index)
    return [random_sentences(n, rng) for n in (10, 12, 18)]


def save(folder, name, documents):
    text = "".join("\n".join(sentences) + "\n\n" for sentences in documents)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(NAMES):
        save(tmp_path, name, documents_of(index))
    return tmp_path


def write_manifest(folder):
    outputs = {path.name: FileRecord.of(path) for path in sorted(folder.glob("*.txt"))}
    Manifest("sharding", "corpus", {}, {}, outputs).write(folder / "manifest.json")


def run(folder, n_processes=1):
    with workers(n_processes) as pool:
        return verify(folder, pool)


def found(report):
    return {
        check.name: (check.status, check.first_file) for check in report.checks if check.status in (FAILED, WARNING)
    }


@pytest.mark.parametrize("n_processes", [1, 2])
def test_sound_shards_pass_every_check(folder, n_processes):
    write_manifest(folder)
    report = run(folder, n_processes)
    assert {check.name: check.status for check in report.checks} == dict.fromkeys(
        (*BY_MANIFEST, "readable", *text.CHECKS), OK
    )
    assert report.statistics == {
        "training": {"files": 3, "documents": 9, "sentences": 120, "documents of one sentence": 0},
        "test": {"files": 2, "documents": 6, "sentences": 80, "documents of one sentence": 0},
    }
    assert report.failure() is None


def test_without_a_manifest(folder):
    assert [check.name for check in run(folder).checks] == ["readable", *text.CHECKS]


def test_a_document_in_both_sets_names_both_files(folder):
    save(folder, "corpus_test_1", [*documents_of(4)[:2], documents_of(1)[2]])
    write_manifest(folder)
    report = run(folder)
    assert found(report) == {"training apart from test": (FAILED, "corpus_training_1.txt")}
    assert "corpus_training_1.txt" in str(report.failure())
    assert "corpus_test_1.txt" in str(report.failure())


def test_white_space_makes_no_other_document(folder):
    document = documents_of(1)[2]
    save(folder, "corpus_test_1", [*documents_of(4)[:2], [f" {sentence}\r" for sentence in document]])
    assert found(run(folder)) == {"training apart from test": (FAILED, "corpus_training_1.txt")}


def test_documents_that_repeat_within_a_set_are_a_warning(folder):
    save(folder, "corpus_training_1", [documents_of(0)[0], documents_of(1)[1], documents_of(1)[2]])
    save(folder, "corpus_test_1", [documents_of(4)[1], documents_of(4)[1]])
    report = run(folder)
    assert found(report) == {"documents repeated": (WARNING, "corpus_test_1.txt")}
    (check,) = (check for check in report.checks if check.name == "documents repeated")
    assert (check.n_files, check.n_rows) == (2, 2)
    assert report.failure() is None


@pytest.mark.parametrize(("n_shared", "status"), [(2, WARNING), (3, FAILED)])
def test_a_thousandth_of_the_test_set_may_be_stubs_of_the_training_set(tmp_path, n_shared, status):
    save(tmp_path, "c_training_0", [["a stub", str(number)] for number in range(n_shared)] + [["an article"]])
    save(tmp_path, "c_test_0", [["a stub", str(number)] for number in range(2000)])
    assert found(run(tmp_path)) == {"training apart from test": (status, "c_training_0.txt")}


@pytest.mark.parametrize(
    ("single", "longer", "files", "is_told"),
    [(40, 0, 1, True), (6, 0, 1, False), (6, 0, 8, True), (200, 10, 1, True), (50, 50, 2, False), (60, 40, 1, False)],
)
def test_documents_of_one_sentence_beyond_chance(tmp_path, single, longer, files, is_told):
    for file in range(files):
        documents = [[f"Book {number} of {file} has no end."] for number in range(single)]
        documents += [[f"Book {number} of {file} has one.", "It is here."] for number in range(longer)]
        save(tmp_path, f"c_training_{file}", documents)
    report = run(tmp_path)
    assert report.statistics["training"]["documents of one sentence"] == files * single
    name = "documents of one sentence"
    assert found(report) == ({name: (WARNING, "c_training_0.txt")} if is_told else {})
    if is_told:
        line = next(line for line in report.text().splitlines() if line.startswith(WARNING))
        assert f"{single / (single + longer):.0%} have one sentence" in line
        assert ("with the others of its set" in line) == (files > 1)


def test_every_document_of_both_sets_is_found_among_many(tmp_path):
    rng = random.Random(0)
    shards = {f"c_{split}_{i}": [] for split in ("training", "test") for i in range(6)}
    for number in range(600):
        for name in rng.sample(sorted(shards), rng.choice([1, 1, 1, 2, 3])):
            shards[name].append([f"sentence {number} of one document"])
    for name, documents in shards.items():
        save(tmp_path, name, documents)
    splits = {}
    for name, documents in shards.items():
        for (sentence,) in documents:
            splits.setdefault(sentence, []).append("test" in name)
    counts = Counter(len(set(kinds)) for kinds in splits.values())
    (check,) = (check for check in run(tmp_path).checks if check.name == "training apart from test")
    assert check.n_rows == counts[2] > 50


def test_a_document_at_the_end_without_an_empty_line_counts(folder):
    (folder / "corpus_training_2.txt").write_text("\n\nA b.\nC d.\n\n \n\nE f.", encoding="utf-8")
    report = run(folder)
    assert found(report) == {}
    assert report.statistics["training"]["documents"] == 8
    assert report.statistics["training"]["sentences"] == 83


def test_other_bytes_than_the_manifests(folder):
    write_manifest(folder)
    path = folder / "corpus_test_0.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a", "e", 1), encoding="utf-8")
    assert found(run(folder)) == {"size and hash": (FAILED, path.name)}
    path.write_text(text.replace("a", "aa", 1), encoding="utf-8")
    assert found(run(folder)) == {"size and hash": (FAILED, path.name)}


def test_a_lost_file_and_a_stranger(folder):
    write_manifest(folder)
    (folder / "corpus_training_1.txt").rename(folder / "corpus_training_9.txt")
    assert found(run(folder)) == {"files": (FAILED, "corpus_training_1.txt")}
