"""create_datasets_from_start.sh, as its user starts it: the sample corpus end to end, and the real dump where it is."""

import gzip
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from corpora import SAMPLE, read_as_nvidia, tree
from http_servers import serve
from paths import AS_USERS, ROOT

from common.errors import UserError
from data.artifacts.manifest import Manifest
from data.create_datasets import HDF5_FLAGS, SHARDING_FLAGS, Datasets, words_of
from data.loading.pretraining_dataset import PretrainingDataset
from data.train_vocab import count_words, train_wordpiece_vocab
from tokenization import BertTokenizer

SCRIPT = ROOT / "data" / "create_datasets_from_start.sh"
HDF5 = "hdf5_lower_case_1_seq_len_{}_max_pred_{}_masked_lm_prob_0.15_random_seed_12345_dupe_factor_5"
PHASES = ((128, 20), (512, 80))


def run(cwd, *arguments, **variables):
    names = ("CORPUS", "WIKI_SOURCE", "BOOKS_SOURCE", "TEXT_SOURCE", "VOCAB_FILE", "STAGES", "BERT_PREP_WORKING_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {
        "EXTRA_DOWNLOADS": "",
        "PYTHON": sys.executable,
        "N_PROCESSES": "2",
        "PYTHONPATH": str(AS_USERS),
        **{k: str(v) for k, v in variables.items()},
    }
    return subprocess.run(
        ["bash", SCRIPT, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def check_phases(working_dir, corpus, vocab_size, n_training_shards, n_test_shards):
    """Checks every shard of both phases; returns the sequences' mean length per phase."""
    mean_lengths = []
    for length, predictions in PHASES:
        folder = working_dir / HDF5.format(length, predictions) / corpus
        counts = {"training": n_training_shards, "test": n_test_shards}
        names = [f"{corpus}_{split}_{i}.hdf5" for split, count in counts.items() for i in range(count)]
        assert sorted(tree(folder)) == sorted([*names, "manifest.json"])
        lengths, randoms, n_masked, n_words = [], [], 0, 0
        for name in names:
            ids, mask, segments, positions, masked_ids, next_sentence = read_as_nvidia(folder / name)
            rows = np.arange(len(ids))
            row_lengths = mask.sum(axis=1)
            first_sep = row_lengths - segments.sum(axis=1) - 1
            assert (mask == (np.arange(length) < row_lengths[:, None])).all()
            assert (segments == mask * (np.arange(length) > first_sep[:, None])).all()
            assert (ids * (1 - mask) == 0).all()
            assert 0 <= ids.min() <= max(ids.max(), masked_ids.max()) < vocab_size
            cls, sep = ids[0, 0], ids[0, row_lengths[0] - 1]
            assert (ids[:, 0] == cls).all()
            assert (ids[rows, first_sep] == sep).all()
            assert (ids[rows, row_lengths - 1] == sep).all()
            expected = np.clip([round(n * 0.15) for n in row_lengths.tolist()], 1, predictions)
            real = positions > 0
            assert ((real.sum(axis=1) == expected) | (expected > row_lengths - 3)).all()
            assert (real == (np.arange(predictions) < real.sum(axis=1)[:, None])).all()
            assert ((np.diff(positions, axis=1) > 0) | ~real[:, 1:]).all()
            assert (positions < (row_lengths - 1)[:, None]).all()
            assert not (real & (positions == first_sep[:, None])).any()
            lengths.append(row_lengths)
            randoms.append(next_sentence)
            n_masked += real.sum()
            n_words += (row_lengths - 3).sum()
        lengths, randoms = np.concatenate(lengths), np.concatenate(randoms)
        assert 0.4 < randoms.mean() < 0.7  # half, and all where a single sentence was left
        assert 0.14 < n_masked / n_words < 0.17
        assert lengths.max() == length
        mean_lengths.append(lengths.mean())
        dataset = PretrainingDataset(folder, 8, length, predictions, vocab_size=vocab_size, num_workers=0)
        with dataset.iterate() as batches:
            assert next(batches).max_seqlen == length
    return mean_lengths


def documents_per_split(working_dir, corpus):
    (folder,) = working_dir.glob(f"sharded_*/{corpus}")
    documents = {"training": set(), "test": set()}
    for file in folder.glob("*.txt"):
        split = "test" if "_test_" in file.name else "training"
        documents[split] |= set(file.read_text(encoding="utf-8").split("\n\n")) - {""}
    return documents


@pytest.fixture(scope="module")
def sample_vocab(tmp_path_factory):
    tokens = train_wordpiece_vocab(count_words(sorted((SAMPLE / "books").glob("*.txt")), True), 2000)
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


def variables(**given):
    """What the script's Python gets of variables that are empty, but for these."""
    empty = ("EXTRA_DOWNLOADS", "PRETRAINED_MODELS", "SCHEDULER", "VOCAB_FILE", "SOURCE", "BOOKS_SOURCE")
    names = (*empty, "N_PROCESSES", *SHARDING_FLAGS, *HDF5_FLAGS)
    return dict.fromkeys(names, "") | {"WHOLE_WORD_MASKING": "0", "DO_LOWER_CASE": "1"} | given


@pytest.mark.parametrize(("stages", "is_asked"), [("verify", False), ("create_hdf5_files verify", True)])
def test_rows_made_earlier_are_verified_however_they_were_made(stages, is_asked):
    call = Datasets(variables(CORPUS="bookscorpus", STAGES=stages), []).call("verify", "bookscorpus")
    assert [flag in call for flag in ("--do_lower_case", "--dupe_factor", "--max_seq_length")] == [is_asked] * 3


@pytest.mark.parametrize(
    ("source", "sentences"),
    [
        ("", ["TEXT_SOURCE is empty"]),
        ("a no=b", [f"--source {each} has no documents: there is nothing of this name" for each in "ab"]),
    ],
)
def test_a_source_of_text_is_looked_for_before_the_first_stage(tmp_path, monkeypatch, source, sentences):
    monkeypatch.chdir(tmp_path)
    asked = variables(CORPUS="text", STAGES="download", TEXT_SOURCE=source)
    with pytest.raises(UserError) as raised:
        Datasets(asked, []).check()
    found = [each for each in raised.value.sentences if "SOURCE" in each or "--source" in each]
    assert [each.partition(";")[0] for each in found] == sentences


def test_several_sources_of_text_are_words_of_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my texts").mkdir()
    assert words_of("my texts", "text") == ["my texts"]
    assert words_of("a 'my texts' b=c.jsonl", "text") == ["a", "my texts", "b=c.jsonl"]
    assert words_of("my father's texts", "text") == ["my father's texts"]
    assert words_of("his books", "bookscorpus") == ["his books"]


@pytest.mark.slow
def test_text_of_two_kinds_to_verified_shards_of_both_phases(tmp_path, sample_vocab):
    """One command, from Parquet and JSON lines with other columns than usual."""
    texts = [" ".join(path.read_text("utf-8").split()) for path in sorted((SAMPLE / "books").glob("*.txt"))]
    documents = [text[start : start + 4000] for text in texts for start in range(0, len(text), 4000)]
    table = pyarrow.table({"title": [""] * len(documents), "body": documents})
    (tmp_path / "my wiki").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "my wiki" / "train.parquet", row_group_size=3)
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(json.dumps({"body": texts[0][:4001]}).encode()))
    made = {"VOCAB_FILE": sample_vocab, "BERT_PREP_WORKING_DIR": "work", "N_TRAINING_SHARDS": 2, "N_TEST_SHARDS": 1}
    sources = "'my wiki' other=c4.json.gz"
    flags = ("--text_column", "body", "--min_words", "0")
    finished = run(tmp_path, *flags, TEXT_SOURCE=sources, **made)
    assert finished.returncode == 0, finished.stderr
    assert "== verify: text" in finished.stdout
    assert f"{len(documents) + 1} documents with prose" in finished.stdout
    check_phases(tmp_path / "work", "text", BertTokenizer(sample_vocab).vocab_size, 2, 1)


@pytest.mark.slow
def test_sample_corpus_end_to_end(tmp_path, sample_vocab):
    """From another folder, with blanks in every path and relative ones."""
    here = tmp_path / "some where"
    here.mkdir()
    (here / "my books").symlink_to(SAMPLE / "books")
    (here / "dump.xml.bz2").symlink_to(SAMPLE / "wikicorpus_sample.xml.bz2")
    (here / "vocab.txt").symlink_to(sample_vocab)
    finished = run(
        here,
        *("--n_training_shards", "2"),  # flags reach every stage, and the last one counts
        WIKI_SOURCE="dump.xml.bz2",
        BOOKS_SOURCE="my books",
        VOCAB_FILE="vocab.txt",
        N_TRAINING_SHARDS=3,
        N_TEST_SHARDS=1,
        BERT_PREP_WORKING_DIR="data sets",
    )
    assert finished.returncode == 0, finished.stderr
    corpus, working_dir = "books_wiki_en_corpus", here / "data sets"
    assert finished.stdout.splitlines()[-2:] == [f"data sets/{HDF5.format(*phase)}/{corpus}" for phase in PHASES]
    assert "60 documents with prose" in finished.stdout
    assert "books: 3 files" in finished.stdout
    check_phases(working_dir, corpus, BertTokenizer(sample_vocab).vocab_size, 2, 1)
    documents = documents_per_split(working_dir, corpus)
    assert len(documents["training"]) + len(documents["test"]) == 63
    assert not documents["training"] & documents["test"]


@pytest.mark.slow
def test_all_problems_at_once(tmp_path):
    wrong = {"WIKI_SOURCE": "no dump", "VOCAB_FILE": "no vocab", "STAGES": "download shard create_hdf5_files"}
    finished = run(tmp_path, **wrong, WHOLE_WORD_MASKING="yes", EXTRA_DOWNLOADS="glues", N_TEST_SHARDS="many")
    assert finished.returncode == 2
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    words = ["BOOKS_SOURCE is empty", "no dump", "no vocab", "--action: invalid choice: 'shard'"]
    words += [f"--{name}: invalid choice" for name in ("masking", "dataset")]
    words.append("--n_test_shards: invalid int value: 'many'")
    assert len(lines) == len(words)
    for word in words:
        assert sum(word in line for line in lines) == 1, word
    finished = run(tmp_path, CORPUS="wiki", STAGES="sharding create_hdf5_files")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "--dataset: invalid choice: 'wiki'" in finished.stderr
    assert "VOCAB_FILE is empty" in finished.stderr
    weights = {"EXTRA_DOWNLOADS": "google_pretrained_weights", "PRETRAINED_MODELS": "bert_base_cased bert_base_uncased"}
    finished = run(tmp_path, **weights, CORPUS="wikicorpus_en")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "error: DO_LOWER_CASE is 1, and bert_base_cased, whose vocabulary is taken, needs 0; set DO_LOWER_CASE=0, or "
        "VOCAB_FILE to another vocabulary.\n"
    )
    assert not tree(tmp_path)


@pytest.mark.slow
def test_numbers_and_vocabulary_are_checked_before_the_first_stage(tmp_path, sample_vocab):
    """What only the last stages use, and what only bertPrep.py knows; the sources' problems come in the same list."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(sample_vocab.read_text(encoding="utf-8").replace("[MASK]\n", ""), encoding="utf-8")
    numbers = {"N_TRAINING_SHARDS": 0, "FRACTION_TEST_SET": 2, "DUPE_FACTOR": 0, "VOCAB_FILE": vocab}
    dump = SAMPLE / "wikicorpus_sample.xml.bz2"
    finished = run(tmp_path, WIKI_SOURCE=dump, BOOKS_SOURCE="no books", BERT_PREP_WORKING_DIR=tmp_path / "o", **numbers)
    assert (finished.returncode, finished.stdout) == (2, "")
    lines = finished.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for words in (
        "no books",
        "--n_training_shards 0",
        "--fraction_test_set 2",
        "--dupe_factor 0",
        "lacks [MASK]",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert len(lines) == 5

    assert not (tmp_path / "o").exists()


def test_help(tmp_path):
    finished = run(tmp_path, "--help", WIKI_SOURCE="x y")
    assert finished.returncode == 0
    assert "From nothing to the verified HDF5 shards" in finished.stdout
    assert "  WIKI_SOURCE=x y\n" in finished.stdout
    assert "set -euo" not in finished.stdout


@pytest.mark.slow
def test_a_failing_stage_is_the_last(tmp_path, sample_vocab):
    dump = (SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes()
    (tmp_path / "half.xml.bz2").write_bytes(dump[: len(dump) // 2])
    finished = run(
        tmp_path,
        CORPUS="wikicorpus_en",
        WIKI_SOURCE="half.xml.bz2",
        VOCAB_FILE=sample_vocab,
        BERT_PREP_WORKING_DIR=tmp_path / "out",
    )
    assert finished.returncode == 2
    assert "== text_formatting" in finished.stdout
    assert "== sharding" not in finished.stdout
    assert finished.stderr.splitlines()[-1].startswith("error: The dump")
    assert "is damaged or cut short" in finished.stderr
    downloaded = ["manifest.json", "wikicorpus_en.xml.bz2"]
    assert sorted(tree(tmp_path / "out")) == [f"download/wikicorpus_en/{name}" for name in downloaded]


def test_real_dump_to_both_phases(tmp_path, reference_data):
    vocab = reference_data / "bert-base-uncased-vocab.txt"
    finished = run(
        tmp_path,
        CORPUS="wikicorpus_en",
        WIKI_SOURCE=reference_data / "enwiki-sample-pages-articles.xml.bz2",
        VOCAB_FILE=vocab,
        N_TRAINING_SHARDS=8,
        N_TEST_SHARDS=2,
        BERT_PREP_WORKING_DIR=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    assert "106 articles extracted" in finished.stdout
    assert "103 documents with prose" in finished.stdout
    mean_lengths = check_phases(tmp_path, "wikicorpus_en", 30522, 8, 2)
    assert 105 < mean_lengths[0] < 125
    assert 350 < mean_lengths[1] < 460
    documents = documents_per_split(tmp_path, "wikicorpus_en")
    assert len(documents["training"]) + len(documents["test"]) == 103
    assert not documents["training"] & documents["test"]
    n_sentences = {split: sum(map(str.count, texts, ["\n"] * len(texts))) for split, texts in documents.items()}
    assert n_sentences["test"] / sum(n_sentences.values()) == pytest.approx(0.2, abs=0.03)
    formatted = (tmp_path / "formatted_one_article_per_line" / "wikicorpus_en_one_article_per_line.txt").read_text()
    for crumb in ("{{", "}}", "[[", "]]", "&amp;", "<ref", "\n\n"):
        assert crumb not in formatted


def sums_of(dump, date):
    return f"{hashlib.sha1(dump).hexdigest()}  enwiki-{date}-pages-articles.xml.bz2\n".encode()


def prepare_over_a_bad_line(folder, dump, vocab, break_after, **variables):
    """All of the script, with a dump from a server that breaks off again and again; returns what it printed."""
    sums = sums_of(dump, "20260101")
    files = {
        "enwiki/latest/enwiki-latest-sha1sums.txt": sums,
        "enwiki/20260101/enwiki-20260101-pages-articles.xml.bz2": dump,
    }
    with serve(files, break_after=break_after) as server:
        finished = run(
            folder,
            *("--wiki_mirror", server.url),
            CORPUS="wikicorpus_en",
            VOCAB_FILE=vocab,
            BERT_PREP_WORKING_DIR=folder / "work",
            **variables,
        )
        breaks = sum(request.path.endswith(".bz2") for request in server.requests)
    assert finished.returncode == 0, finished.stderr
    assert breaks >= len(dump) // break_after
    manifest = Manifest.read(folder / "work" / "download" / "wikicorpus_en" / "manifest.json")
    assert manifest.facts["date"] == "20260101"
    assert finished.stdout.count("FAILED") == 0
    assert "verified: " in finished.stdout
    return finished.stdout


@pytest.mark.slow
def test_the_sample_over_a_bad_line_and_started_again(tmp_path, sample_vocab):
    dump = (SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes()
    shards = {"N_TRAINING_SHARDS": 2, "N_TEST_SHARDS": 1}
    prepare_over_a_bad_line(tmp_path, dump, sample_vocab, len(dump) // 4, **shards)
    before = tree(tmp_path)
    again = run(tmp_path, CORPUS="wikicorpus_en", VOCAB_FILE=sample_vocab, BERT_PREP_WORKING_DIR="work", **shards)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("was finished before") == 5  # extraction, formatting, sharding, both lengths
    assert "downloaded before" in again.stdout
    assert tree(tmp_path) == before


def test_real_dump_over_a_bad_line(tmp_path, reference_data):
    dump = (reference_data / "enwiki-sample-pages-articles.xml.bz2").read_bytes()
    vocab = reference_data / "bert-base-uncased-vocab.txt"
    prepare_over_a_bad_line(tmp_path, dump, vocab, 300_000, N_TRAINING_SHARDS=8, N_TEST_SHARDS=2)
    check_phases(tmp_path / "work", "wikicorpus_en", 30522, 8, 2)
