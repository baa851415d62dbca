"""The loader's benchmark runs, on shards of its own and on given ones; its reference reads what the loader reads."""

import re

import pytest
import torch

from benchmark.loader import PerSampleDataset, main, write_shards
from common.errors import UserError
from data.loading.pretraining_dataset import PretrainingDataset

SIZES = [
    *("--batch_size", "8", "--max_seq_length", "32", "--max_predictions_per_seq", "5"),
    *("--seconds", "0.02", "--repeats", "1"),
]


def test_prints_both_rates(capsys):
    main([*SIZES, "--files", "2", "--rows", "64"])
    output = capsys.readouterr().out
    reference, ours = (float(number.replace(",", "")) for number in re.findall(r"([\d,]+) sequences/s", output))
    ratio = float(re.search(r"([\d.]+) times as many", output)[1])
    assert ratio == pytest.approx(ours / reference, rel=0.1)


def test_reads_given_shards_and_names_what_does_not_fit(tmp_path, capsys):
    write_shards(tmp_path, 1, 20, 32, 5)
    main([*SIZES, "--input_dir", str(tmp_path), "--num_workers", "0"])
    assert "sequences/s" in capsys.readouterr().out
    with pytest.raises(UserError, match="--max_seq_length 128 asked for"):
        main(["--input_dir", str(tmp_path)])
    with pytest.raises(UserError, match="--rows is 0; it must be 1 or more"):
        main(["--rows", "0"])


def test_both_loaders_give_the_same_tokens_and_labels(tmp_path):
    write_shards(tmp_path, 1, 20, 32, 5)
    samples = PerSampleDataset(tmp_path / "random_training_0.hdf5")
    ids, types, mask, labels, next_sentence = (torch.stack(values) for values in zip(*samples, strict=True))
    with PretrainingDataset(tmp_path, 20, 32, 5, num_workers=0).evaluation_batches() as batches:
        (batch,) = batches
    is_real = mask.bool()
    assert torch.equal(batch.input_ids[: batch.n_tokens], ids[is_real])
    assert torch.equal(batch.token_type_ids[: batch.n_tokens], types[is_real])
    assert torch.equal(batch.next_sentence_labels, next_sentence)
    dense = torch.full_like(batch.input_ids, -1)
    dense[batch.masked_lm_positions[: batch.work.n_masked]] = batch.masked_lm_labels[: batch.work.n_masked]
    assert torch.equal(dense[: batch.n_tokens], labels[is_real])
