"""create_pretraining_data.py as a command: its flags, what it refuses, and that it does what bertPrep.py does."""

import json
import os
import re
import subprocess
import sys

import h5py
import pytest
from corpora import tree, write_text_shard, write_vocab
from paths import ROOT

from common.errors import UserError
from data import bertPrep, create_pretraining_data
from tokenization import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt")


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
    names = ["bookscorpus_test_0.hdf5", "bookscorpus_training_0.hdf5", "manifest.json"]
    assert sorted(tree(by_bertprep)) == names


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


def test_two_lengths(tmp_path, vocab):
    shard = write_text_shard(tmp_path / "shard.txt")
    files = ["--input_file", shard, "--vocab_file", vocab, "--compression", "lzf", "--whole_word_masking"]
    lengths = ["--max_seq_length", 64, 32, "--max_predictions_per_seq", 9, 5]
    outputs = [tmp_path / "long.hdf5", tmp_path / "short.hdf5"]
    finished = run_script("create_pretraining_data.py", *files, *lengths, "--output_file", *outputs)
    assert finished.returncode == 0, finished.stderr
    for output, width, n_predictions in zip(outputs, (64, 32), (9, 5), strict=True):
        with h5py.File(output) as file:
            assert file["input_ids"].shape[1] == width
            assert file["masked_lm_ids"].shape[1] == n_predictions
            assert file["input_ids"].compression == "lzf"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max_seq_length", 64, 32, "--output_file", "a"], "must name 2 different files"),
        (["--max_seq_length", 64, 32, "--output_file", "a", "a"], "must name 2 different files"),
        (
            ["--max_seq_length", 64, 64, "--output_file", "a", "b"],
            "--max_predictions_per_seq 10 10: the same is asked for twice",
        ),
        (
            ["--max_predictions_per_seq", 1, 2, "--output_file", "a"],
            "--max_predictions_per_seq 1 2 must be one for each of the 1 --max_seq_length",
        ),
    ],
)
def test_lengths_that_do_not_fit(tmp_path, vocab, arguments, sentence):
    shard = write_text_shard(tmp_path / "shard.txt")
    arguments = [tmp_path / argument if argument in ("a", "b") else argument for argument in arguments]
    finished = run_script("create_pretraining_data.py", "--input_file", shard, "--vocab_file", vocab, *arguments)
    assert finished.returncode == 2
    assert sentence in finished.stderr
    assert list(tree(tmp_path)) == ["shard.txt"]


UNCASED = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
CASED = [*UNCASED, *(token.upper() for token in UNCASED[5:31])]
ACCENTS = [*UNCASED, "für", "schöne", "über", "größe"]


@pytest.mark.parametrize(
    ("tokens", "said", "beside", "lower_cases"),
    [
        (UNCASED, None, None, True),
        (UNCASED, False, None, "uncased one"),
        (UNCASED, None, {"do_lower_case": False}, False),
        (CASED, None, None, False),
        (CASED, True, None, "cased one"),
        (CASED, None, {"do_lower_case": True}, "cased one"),
        (CASED, None, {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        (ACCENTS, None, None, "strip_accents"),
        (ACCENTS, True, None, "strip_accents"),
        (ACCENTS, False, None, False),
        (ACCENTS, None, {"do_lower_case": True, "strip_accents": False}, True),
    ],
)
def test_both_scripts_check_the_casing(tmp_path, monkeypatch, capsys, tokens, said, beside, lower_cases):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    if beside:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    (tmp_path / "shard.txt").write_text("a river\nthe bridge\n\nan old town\na king\n")
    flag = {None: [], True: ["--do_lower_case"], False: ["--no-do_lower_case"]}[said]
    call = ["--input_file", tmp_path / "shard.txt", "--output_file", tmp_path / "shard.hdf5", "--max_seq_length", 16]
    monkeypatch.setattr("sys.argv", ["x", "--vocab_file", str(vocab), *map(str, call), *flag])
    stage = ["--action", "create_hdf5_files", "--dataset", "bookscorpus", "--vocab_file", str(vocab)]
    stage += [] if said is None else ["--do_lower_case", str(int(said))]
    if isinstance(lower_cases, bool):
        create_pretraining_data.main()
        decided = "lower-cases text" if lower_cases else "keeps capitals"
        assert f"{vocab}: {decided}, " in capsys.readouterr().out
        folders = bertPrep.read_settings(stage).output_dirs()
        assert all(folder.parent.name.startswith(f"hdf5_lower_case_{int(lower_cases)}_") for folder in folders)
        return
    for entry in (create_pretraining_data.main, lambda: bertPrep.main(stage)):
        with pytest.raises(UserError, match=lower_cases) as raised:
            entry()
        if "cased" in lower_cases:
            flags = "--(no-)?do_lower_case" if entry is create_pretraining_data.main else r"DO_LOWER_CASE=[01]"
            assert re.search(f"give .*{flags}", str(raised.value))
    assert not (tmp_path / "shard.hdf5").exists()
