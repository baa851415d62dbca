"""Training and evaluating on LDDL's shards, as who has them does it."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed_runs import run_forked
from lddl_shards import (
    SPECIAL,
    WORDS,
    read_naively,
    vocabulary_of,
    write_folder,
    write_hdf5,
    write_rows,
    write_vocabulary,
)
from pretraining_runs import command, curve, losses, write_config

from common.errors import UserError
from run_pretraining import main

S, P = 32, 5


@pytest.fixture
def folder(tmp_path):
    """The same rows as LDDL's shards in `data` and as HDF5 in `hdf5`, others in `test`; a vocabulary."""
    vocabulary = vocabulary_of(write_vocabulary(tmp_path / "vocab.txt"))
    write_config(tmp_path / "config.json", vocab_size=len(SPECIAL) + len(WORDS))
    write_folder(tmp_path / "test", (9,), S, seed=1)
    (tmp_path / "hdf5").mkdir()
    for path, rows in write_folder(tmp_path / "data", (30, 25), S).items():
        write_hdf5(tmp_path / "hdf5" / f"{path.stem}.hdf5", [read_naively(row, vocabulary) for row in rows], S, P)
    return tmp_path


def run(folder, out="out", **changes):
    flags = {"vocab_file": folder / "vocab.txt", "max_seq_length": S, "max_predictions_per_seq": P, **changes}
    main(command(folder, output_dir=folder / out, **flags))
    return losses(folder / out)


def test_losses_are_those_of_the_same_rows_in_hdf5(folder):
    lddl = run(folder, eval_dir=folder / "test")
    np.testing.assert_allclose(lddl, run(folder, "of_hdf5", input_dir=folder / "hdf5"), rtol=1e-6)
    assert np.isfinite(curve(folder / "out")[1, 8]["eval_mlm_loss"])


def test_a_run_in_two_pieces_logs_what_one_logs(folder):
    write_folder(folder / "data", (25, 25), S, bin_size=8)
    for path in folder.glob("data/*.parquet"):
        path.unlink()
    whole = run(folder)
    run(folder, "pieces", steps_this_run=3)
    assert run(folder, "pieces", resume_from_checkpoint=True) == whole


def test_what_is_wrong_is_said_before_any_work(folder):
    with pytest.raises(UserError) as error:
        run(folder, vocab_file=None, max_predictions_per_seq=4, max_seq_length=16)
    assert any("give --vocab_file the one that they were made with" in each for each in error.value.sentences)
    assert any("give --max_seq_length 32" in each for each in error.value.sentences)
    with pytest.raises(
        UserError, match=r"has 5 masked positions, more than --max_predictions_per_seq 4; give .*_seq 5"
    ):
        run(folder, max_predictions_per_seq=4, check_only=True)
    assert not (folder / "out").exists()


def test_rows_without_masks_are_masked_as_they_are_read(folder):
    for name, seed in (("data", 0), ("test", 1)):
        write_folder(folder / f"unmasked_{name}", (40,), S, masked=False, seed=seed)
    dirs = {"input_dir": folder / "unmasked_data", "eval_dir": folder / "unmasked_test"}
    whole = run(folder, **dirs, masking="dynamic")
    assert np.isfinite(whole).all()
    run(folder, "pieces", **dirs, masking="dynamic", steps_this_run=3)
    assert run(folder, "pieces", **dirs, masking="dynamic", resume_from_checkpoint=True) == whole
    scores = [curve(folder / out)[1, 8]["eval_mlm_loss"] for out in ("out", "pieces")]
    assert scores[0] == scores[1]
    with pytest.raises(UserError) as error:
        run(folder, "static", **dirs)
    what = f"The LDDL shards in {folder / 'unmasked_data'} hold rows without masks, and --masking is static"
    assert error.value.sentences == [f"{what}; add --masking dynamic."]


def test_held_out_rows_without_masks_have_the_same_masks_whatever_trains(folder):
    write_folder(folder / "unmasked", (40,), S, masked=False, seed=1)
    flags = {"eval_dir": folder / "unmasked", "learning_rate": 1e-12, "max_steps": 1}
    for out, changes in (("static", {}), ("dynamic", {"masking": "dynamic", "masking_rule": "whole_words"})):
        run(folder, out, **flags, **changes)
    scores = [curve(folder / out)[1, 1]["eval_mlm_loss"] for out in ("static", "dynamic")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_bad_row_that_one_of_two_ranks_reads_ends_both_and_is_named(folder):
    rows = pq.read_table(folder / "data" / "shard-1.parquet").to_pylist()
    rows[3]["A"] = "w1 Berlin"
    write_rows(folder / "data" / "shard-1.parquet", rows)
    flags = {"vocab_file": folder / "vocab.txt", "max_seq_length": S, "max_predictions_per_seq": P, "max_steps": 30}
    outcomes = run_forked(command(folder, **flags, num_train_epochs=None), 2)
    assert all(outcome.status not in (0, None) for outcome in outcomes)
    sentence = f"Row 3 of {folder / 'data' / 'shard-1.parquet'} holds the token 'Berlin' in A"
    assert sum(sentence in outcome.output for outcome in outcomes) == 1, outcomes
    assert sum("its own output says which" in outcome.output for outcome in outcomes) == 1, outcomes
