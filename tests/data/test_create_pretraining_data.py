"""Text shards to HDF5: what counts as a document, the files' exact format, and that they load elsewhere."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from corpora import WORDS, read_as_nvidia, tree, write_text_shard, write_vocab

from data.create_pretraining_data import create_shard, read_documents
from data.instances import InstanceOptions
from data.pretraining_dataset import PretrainingDataset
from errors import UserError
from tokenization import BertTokenizer

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = InstanceOptions(64, 10, 0.15, 0.1, 3)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return write_text_shard(tmp_path_factory.mktemp("shard") / "shard.txt")


def documents_of(path, vocab):
    """Texts as lists of documents, sentences and tokens."""
    tokenizer = BertTokenizer(vocab)
    documents = read_documents([path], tokenizer)
    offsets = documents.sentence_offsets
    sentences = [
        tokenizer.convert_ids_to_tokens(documents.ids[start:end].tolist()) for start, end in itertools.pairwise(offsets)
    ]
    bounds = documents.document_offsets
    return [sentences[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize(
    "text",
    [
        "Bala bane\nbari\n\nbaso\n\n",
        "Bala bane\nbari\n\nbaso",  # no empty line at the end
        "\n\n\nBala bane\nbari\n\n\n\nbaso\n\n\n",  # more empty lines than needed
        "Bala bane\r\nbari\r\n\r\nbaso\r\n",
        "  Bala bane \nbari\n \t\nbaso\n",  # a line of white space ends a document too
        "Bala bane\n\x7f\nbari\n\n\x7f\u200b\n\nbaso\n\x00",  # sentences and documents without a token
    ],
)
def test_sentences_and_documents(tmp_path, vocab, text):
    (tmp_path / "shard.txt").write_bytes(text.encode())
    assert documents_of(tmp_path / "shard.txt", vocab) == [[["bala", "bane"], ["bari"]], [["baso"]]]


def test_several_files_are_one_shard(tmp_path, vocab):
    for name in "ab":
        (tmp_path / name).write_text(f"{WORDS[ord(name)]}\n", encoding="utf-8")
    documents = read_documents([tmp_path / "a", tmp_path / "b"], BertTokenizer(vocab))
    assert documents.document_offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("text", "n_documents"), [("", 0), ("\x7f\n\n\x7f\n", 0), ("bala\nbane\n", 1)])
def test_too_few_documents(tmp_path, vocab, text, n_documents):
    (tmp_path / "shard.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"shard.txt holds {n_documents} documents.*make fewer shards"):
        create_shard([tmp_path / "shard.txt"], tmp_path / "out.hdf5", vocab, True, OPTIONS, 1)
    assert list(tree(tmp_path)) == ["shard.txt"]


def test_format(tmp_path, vocab, shard):
    output = tmp_path / "new" / "shard.hdf5"
    n_rows = create_shard([shard], output, vocab, True, OPTIONS, 1)
    with h5py.File(output) as file:
        found = {name: (dataset.dtype.str, dataset.shape, dataset.compression) for name, dataset in file.items()}
    assert found == {
        "input_ids": ("<i4", (n_rows, 64), "gzip"),
        "input_mask": ("|i1", (n_rows, 64), "gzip"),
        "segment_ids": ("|i1", (n_rows, 64), "gzip"),
        "masked_lm_positions": ("<i4", (n_rows, 10), "gzip"),
        "masked_lm_ids": ("<i4", (n_rows, 10), "gzip"),
        "next_sentence_labels": ("|i1", (n_rows,), "gzip"),
    }


def test_files_follow_from_text_seed_and_name(tmp_path, vocab, shard):
    def content(folder, name, seed):
        create_shard([shard], tmp_path / folder / name, vocab, True, OPTIONS, seed)
        return (tmp_path / folder / name).read_bytes()

    first = content("a", "x_training_0.hdf5", 1)
    time.sleep(1.1)  # HDF5 can note the second of writing
    assert content("b", "x_training_0.hdf5", 1) == first
    assert content("b", "x_training_1.hdf5", 1) != first
    assert content("c", "x_training_0.hdf5", 2) != first


def test_failure_keeps_the_earlier_file(tmp_path, vocab, shard, monkeypatch):
    output = tmp_path / "shard.hdf5"
    create_shard([shard], output, vocab, True, OPTIONS, 1)
    before = tree(tmp_path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("data.instances.mask", fail)
    with pytest.raises(OSError, match="disk full"):
        create_shard([shard], output, vocab, True, OPTIONS, 2)
    assert tree(tmp_path) == before


def test_reads_as_nvidias_reader_does(tmp_path, vocab, shard):
    """As their PyTorch dataset: int64 arrays, labels of -1 but where a position stands, cut at the first zero."""
    output = tmp_path / "shard.hdf5"
    n_rows = create_shard([shard], output, vocab, True, OPTIONS, 1)
    input_ids, input_mask, segment_ids, positions, masked_ids, next_sentence = read_as_nvidia(output)
    tokenizer = BertTokenizer(vocab)
    sentences = " ".join(" ".join(line.split()) for line in shard.read_text(encoding="utf-8").split("\n") if line)
    text = tokenizer.tokenize(sentences)
    pairs_of_text = set(itertools.pairwise(text))
    for row in range(n_rows):
        n_masked = np.flatnonzero(positions[row] == 0)[0] if (positions[row] == 0).any() else 10
        labels = np.full(64, -1)
        labels[positions[row, :n_masked]] = masked_ids[row, :n_masked]
        tokens = tokenizer.convert_ids_to_tokens(np.where(labels == -1, input_ids[row], labels)[input_mask[row] == 1])
        second = int(np.flatnonzero(segment_ids[row])[0])
        assert (tokens[0], tokens[second - 1], tokens[-1]) == ("[CLS]", "[SEP]", "[SEP]")
        for segment in (tokens[1 : second - 1], tokens[second:-1]):
            assert set(itertools.pairwise(segment)) <= pairs_of_text
    assert set(next_sentence) == {0, 1}


def test_loads_for_training(tmp_path, vocab, shard):
    n_rows = create_shard([shard], tmp_path / "x_training_0.hdf5", vocab, True, OPTIONS, 1)
    dataset = PretrainingDataset(tmp_path, 4, 64, 10, vocab_size=BertTokenizer(vocab).vocab_size, num_workers=0)
    assert dataset.n_samples == n_rows
    _, mask, _, positions, _, _ = read_as_nvidia(tmp_path / "x_training_0.hdf5")
    with dataset.evaluation_batches() as batches:
        totals = np.sum([[batch.n_tokens, batch.n_masked] for batch in batches], axis=0)
    assert totals.tolist() == [mask.sum(), (positions > 0).sum()]


def run_script(script, *arguments, **variables):
    return subprocess.run(
        [sys.executable, ROOT / "data" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **variables},
    )


def test_alone_it_writes_what_bertprep_writes(tmp_path, vocab):
    texts = tmp_path / "sharded_training_shards_1_test_shards_1_fraction_0.5" / "bookscorpus"
    texts.mkdir(parents=True)
    for index, name in enumerate(("bookscorpus_training_0", "bookscorpus_test_0")):
        write_text_shard(texts / f"{name}.txt", seed=index)
    common = ["--vocab_file", vocab, "--max_seq_length", 32, "--max_predictions_per_seq", 6, "--dupe_factor", 2]
    common += ["--masked_lm_prob", 0.2, "--random_seed", 7, "--short_seq_prob", 0.3]
    shards = ["--n_training_shards", 1, "--n_test_shards", 1, "--fraction_test_set", 0.5, "--n_processes", 1]
    action = ["--action", "create_hdf5_files", "--dataset", "bookscorpus"]
    finished = run_script("bertPrep.py", *action, *shards, *common, BERT_PREP_WORKING_DIR=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    name = "hdf5_lower_case_1_seq_len_32_max_pred_6_masked_lm_prob_0.2_random_seed_7_dupe_factor_2"
    by_bertprep = tmp_path / name / "bookscorpus"
    alone = tmp_path / "alone" / "bookscorpus_training_0.hdf5"
    arguments = ["--input_file", texts / "bookscorpus_training_0.txt", "--output_file", alone, *common]
    finished = run_script("create_pretraining_data.py", *arguments)
    assert finished.returncode == 0, finished.stderr
    assert str(alone) in finished.stdout
    assert alone.read_bytes() == (by_bertprep / alone.name).read_bytes()
    assert sorted(tree(by_bertprep)) == ["bookscorpus_test_0.hdf5", "bookscorpus_training_0.hdf5"]


def test_all_wrong_flags_at_once(tmp_path):
    wrong = ["--max_seq_length", 4, "--masked_lm_prob", 1.5, "--short_seq_prob", -1, "--dupe_factor", 0]
    files = [
        "--input_file",
        tmp_path / "no.txt",
        "--output_file",
        tmp_path / "out.hdf5",
        "--vocab_file",
        tmp_path / "no",
    ]
    finished = run_script("create_pretraining_data.py", *files, *wrong, "--random_seed", -1)
    assert finished.returncode == 2
    lines = finished.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    names = ["--max_seq_length 4", "--masked_lm_prob 1.5", "--short_seq_prob -1.0", "--dupe_factor 0"]
    for name in (*names, "--random_seed -1", "no.txt", "vocabulary"):
        assert sum(name in line for line in lines) == 1, (name, lines)
    assert len(lines) == 7
    assert not tree(tmp_path)


def test_a_text_that_is_not_utf8(tmp_path, vocab):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n\nbala\n")
    files = ["--input_file", tmp_path / "latin.txt", "--output_file", tmp_path / "out.hdf5", "--vocab_file", vocab]
    finished = run_script("create_pretraining_data.py", *files)
    assert finished.returncode == 2
    assert "latin.txt cannot be read" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(tree(tmp_path)) == ["latin.txt"]
