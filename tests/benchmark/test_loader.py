"""The loader's benchmark runs, on shards of its own and on given ones."""

import re

import pytest
from lddl_shards import write_folder, write_vocabulary

import benchmark.loader
from benchmark.loader import main, write_shards
from common.errors import UserError

SIZES = [
    *("--batch_size", "8", "--max_seq_length", "32", "--max_predictions_per_seq", "5"),
    *("--seconds", "0.02", "--repeats", "1"),
]


def test_prints_a_rate(capsys):
    main([*SIZES, "--files", "2", "--rows", "64"])
    assert float(re.search(r"([\d,]+) sequences/s", capsys.readouterr().out)[1].replace(",", "")) > 0


def test_compares_maskings(tmp_path, capsys):
    main([*SIZES, "--files", "1", "--rows", "64", "--masking", "static", "tokens", "whole_words"])
    static, tokens, whole_words = capsys.readouterr().out.splitlines()
    assert static.startswith("PretrainingDataset, static: ")
    for line, name in ((tokens, "tokens"), (whole_words, "whole_words")):
        assert re.fullmatch(rf"PretrainingDataset, {name}: [\d,]+ sequences/s, the best of 1, [\d.]+ of static", line)
    write_shards(tmp_path, 1, 20, 32, 5)
    with pytest.raises(UserError, match="give the --vocab_file"):
        main([*SIZES, "--input_dir", str(tmp_path), "--masking", "tokens"])


def test_a_rank_is_told_by_the_samples_of_all(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(benchmark.loader, "rate", lambda batches, size, _: given.append((next(batches), size)) or 9.0)
    main([*SIZES, "--files", "1", "--rows", "64", "--world_size", "4", "--batches_per_step", "4"])
    [(batch, size)] = given
    assert (batch.work.n_sequences, size) == (8, 4 * 8)
    assert capsys.readouterr().out == "PretrainingDataset, static: 9 sequences/s, the best of 1\n"


def test_says_what_dealing_spares_the_slowest_rank(capsys):
    main([*SIZES, "--files", "1", "--rows", "700", "--batches_per_step", "4", "--batch_size", "64"])
    found = re.match(r"the slowest of 4 ranks has ([\d.]+)% more .* dealt ([\d.]+)%", capsys.readouterr().out)
    assert float(found[1]) > 2 * float(found[2]) > 0


def test_reads_given_shards_and_names_what_does_not_fit(tmp_path, capsys):
    write_shards(tmp_path, 1, 20, 32, 5)
    main([*SIZES, "--input_dir", str(tmp_path), "--num_workers", "0"])
    assert "sequences/s" in capsys.readouterr().out
    with pytest.raises(UserError, match="--max_seq_length 128 asked for"):
        main(["--input_dir", str(tmp_path)])
    with pytest.raises(UserError, match="--rows is 0; it must be 1 or more"):
        main(["--rows", "0"])


def test_reads_lddls_shards(tmp_path, capsys):
    vocab_file = write_vocabulary(tmp_path / "vocab.txt")
    for name, masked, masking in (("masked", True, ["static", "tokens"]), ("unmasked", False, ["tokens"])):
        write_folder(tmp_path / name, (20,), 32, masked=masked)
        flags = ["--input_dir", str(tmp_path / name), "--vocab_file", str(vocab_file), "--masking", *masking]
        main([*SIZES, *flags, "--num_workers", "0"])
        assert capsys.readouterr().out.count("sequences/s") == len(masking)
