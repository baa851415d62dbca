"""The vocabulary trainer: its file is a BERT vocabulary, the same in every run, and made of the text's own pieces."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT

from common.errors import UserError
from data.train_vocab import count_words, main, train_wordpiece_vocab
from tokenization import BertTokenizer

TEXT = "The cat sat; the CAT sat on the mat.\nCafé, cafés and the cats' mats: 中国 [MASK]\n" * 3


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.txt").write_text("zebra zebra zebra\n", encoding="utf-8")
    return folder


def test_counts_words_as_bert_splits_them(corpus):
    counts = count_words([corpus / "a.txt"], do_lower_case=True)
    assert (counts["the"], counts["cat"], counts["cafe"], counts["中"], counts[";"]) == (12, 6, 3, 3, 3)
    assert "[MASK]" not in counts
    assert "Café" in count_words([corpus / "a.txt"], do_lower_case=False)


def test_merges_the_most_frequent_pairs_first():
    # a+##b occurs 5 times, then ab+##c 3 times; b+##c occurs once, too seldom.
    vocab = train_wordpiece_vocab(Counter({"ab": 2, "abc": 3, "bc": 1}), vocab_size=100)
    assert vocab == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "##c", "ab", "abc"]


def test_file_is_the_same_in_every_process_and_tokenizes_its_text(corpus, tmp_path):
    written = []
    for seed in ("1", "2"):
        path = tmp_path / f"new folder {seed}" / "vocab.txt"
        command = [sys.executable, ROOT / "data" / "train_vocab.py", "--input_files", corpus, "--vocab_file", path]
        run = subprocess.run(
            [*map(str, command), "--vocab_size", "60"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.splitlines()[-1].endswith(f"written to {path}")
        written.append(path.read_bytes())
    assert written[0] == written[1]
    tokenizer = BertTokenizer(path)
    assert tokenizer.vocab_size <= 60
    assert "[UNK]" not in tokenizer.tokenize(TEXT)
    assert tokenizer.tokenize("the zebra") == ["the", "zebra"]


def test_rare_characters_are_left_out(monkeypatch):
    monkeypatch.setattr("data.train_vocab.MAX_CHARACTERS", 2)
    vocab = train_wordpiece_vocab(Counter({"ab": 5, "xa": 4}), vocab_size=100)
    assert vocab[5:] == ["a", "b", "##b", "ab"]


@pytest.mark.parametrize(
    ("files", "size", "sentence"),
    [
        (["nothing here"], "100", "No such file or directory: 'nothing here'"),
        (["corpus", "empty"], "100", "There is no .txt file in empty"),
        (["empty.txt"], "100", "no word in"),
        (["binary.txt"], "100", "not UTF-8"),
        (["corpus"], "10", r"--vocab_size 10 is less than the \d+ special tokens"),
    ],
)
def test_bad_input_is_named_and_leaves_the_old_vocabulary(corpus, tmp_path, monkeypatch, files, size, sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("empty").mkdir()
    Path("binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    Path("vocab.txt").write_text("old")
    with pytest.raises((UserError, FileNotFoundError), match=sentence):
        main(["--input_files", *files, "--vocab_file", "vocab.txt", "--vocab_size", size])
    assert Path("vocab.txt").read_text() == "old"


def test_a_lone_surrogate_is_no_character(tmp_path):
    (tmp_path / "a.txt").write_bytes("ca\ud800t \udfff dog".encode("utf-8", "surrogatepass"))
    assert count_words([tmp_path / "a.txt"], do_lower_case=True) == {"cat": 1, "dog": 1}
