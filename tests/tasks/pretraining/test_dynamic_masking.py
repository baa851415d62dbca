"""Runs of `--masking dynamic`: recorded, resumed to the bit, and not mixed up with masks of another kind."""

import numpy as np
import pytest
import torch
from pretraining_runs import LENGTH, PREDICTIONS, command, copied, curve, losses, make_inputs, summary
from shards import write_shards

from common.errors import UserError
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from run_pretraining import main
from training.metrics.logger import read_log

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"##{i}" if i % 3 == 0 else f"{i}" for i in range(5, 40))]
DYNAMIC = {"masking": "dynamic", "num_steps_per_checkpoint": 4, "eval_dir": None}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of 8 steps with new masks, whose shards' manifest says which token is [MASK]."""
    folder = make_inputs(tmp_path_factory.mktemp("dynamic"))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    main(dynamic(folder))
    return folder


def dynamic(folder, **changes):
    flags = {"vocab_file": folder / "vocab.txt", "eval_dir": folder / "test", "max_predictions_per_seq": 5}
    return command(folder, **{**DYNAMIC, "masked_lm_prob": 0.3, **flags, **changes})


def arguments_of(folder):
    return next(event["data"]["arguments"] for event in read_log(folder / "out" / "dllogger.json"))


def test_it_trains_and_says_how_it_masks(finished, capsys):
    assert arguments_of(finished)["masking"] == "dynamic"
    assert (arguments_of(finished)["masking_rule"], arguments_of(finished)["masked_lm_prob"]) == ("tokens", 0.3)
    last = summary(finished / "out")
    assert last["masked_tokens"] > 8 * 8 * PREDICTIONS
    assert last["eval_n_masked"] == 7 * PREDICTIONS  # as the held-out shards have it
    main(dynamic(finished, output_dir=finished / "other", max_steps=1, masking_rule="whole_words"))
    shown = capsys.readouterr().out
    assert "masked anew at each reading (--masking dynamic, --masking_rule whole_words, --masked_lm_prob 0.3" in shown


def test_a_stopped_run_goes_on_to_the_bit(finished, tmp_path):
    for steps in (1, 4, None):
        main(dynamic(finished, output_dir=tmp_path / "out", steps_this_run=steps, resume_from_checkpoint=True))
    assert losses(tmp_path / "out") == losses(finished / "out")
    ours, theirs = (torch.load(out / "ckpt_8.pt", weights_only=True) for out in (tmp_path / "out", finished / "out"))
    assert ours["data_position"] == theirs["data_position"]
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())


def test_epochs_differ_in_nothing_but_their_masks(tmp_path):
    """Without dropout and without learning, an epoch's loss is its masks'."""
    folder = make_inputs(tmp_path, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    shape = {"train_batch_size": 55, "gradient_accumulation_steps": 1, "max_steps": 4, "learning_rate": 1e-9}
    main(dynamic(folder, **shape))
    main(command(folder, **shape, output_dir=folder / "static"))
    changing, same = ([each["mlm_loss"] for each in curve(folder / out).values()] for out in ("out", "static"))
    np.testing.assert_allclose(same, same[0], rtol=1e-5)
    assert np.ptp(changing) > 1e-3


def refused(arguments):
    with pytest.raises(UserError) as raised:
        main(arguments)
    return raised.value.sentences


def test_another_masking_than_the_checkpoints_is_refused(finished, tmp_path):
    folder = copied(finished, tmp_path)
    resumed = {"resume_from_checkpoint": True, "max_steps": 12}
    then = "the checkpoint's sequences were masked anew at each reading"
    static = {"masking": None, "masked_lm_prob": None, "max_predictions_per_seq": PREDICTIONS}
    for changes, now in (
        (static, "read as they are"),
        ({"masked_lm_prob": 0.2}, "--masked_lm_prob 0.2"),
        ({"masking_rule": "whole_words"}, "--masking_rule whole_words"),
        ({"max_predictions_per_seq": 4}, "--max_predictions_per_seq 4"),
    ):
        (sentence,) = refused(dynamic(folder, **resumed, **changes))
        assert sentence.startswith(then)
        assert now in sentence.partition("and this run's are")[2]
        assert "go on with the --input_dir, --seed and --masking" in sentence
    main(dynamic(folder, **resumed))
    assert len(losses(folder / "out")) == 12


def test_checkpoints_from_before_there_was_a_choice_resume_without(tmp_path):
    folder = make_inputs(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    main(command(folder, max_steps=2))
    path = folder / "out" / "ckpt_2.pt"
    state = torch.load(path, weights_only=True)
    assert state["data_position"].pop("reading") == "read as they are"
    torch.save(state, path)
    resumed = {"resume_from_checkpoint": True, "max_steps": 3}
    (sentence,) = refused(dynamic(folder, **resumed))
    assert sentence.startswith("the checkpoint's sequences were read as they are, and this run's are masked anew")
    main(command(folder, **resumed))


def test_a_second_phase_may_mask_otherwise(tmp_path):
    folder = make_inputs(tmp_path)
    write_shards(folder / "data2", rows_per_file=(20,), seq_length=24)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    main(command(folder, max_steps=2))
    of_phase2 = {"phase2": True, "phase1_end_step": 2, "input_dir": folder / "data2", "max_seq_length": 24}
    main(dynamic(folder, **of_phase2, eval_dir=None, resume_from_checkpoint=True, max_steps=2))
    assert len(losses(folder / "out")) == 4


def test_what_must_be_known_is_asked_for_with_all_else_that_is_wrong(finished, tmp_path):
    found = refused(dynamic(finished, output_dir=tmp_path / "out", vocab_file=None, max_seq_length=LENGTH + 1))
    assert len(found) == 3  # of both folders, the length
    asks = "says which token is [MASK], which the masking rule tokens must know; give the --vocab_file"
    assert sum(asks in sentence for sentence in found) == 1
    assert sum(f"--max_seq_length {LENGTH + 1} asked for" in sentence for sentence in found) == 2
    (finished / "short.txt").write_text("\n".join([*WORDS[:3], "x", "[UNK]", "[MASK]", *WORDS[6:]]) + "\n")
    (found,) = refused(dynamic(finished, output_dir=tmp_path / "out", vocab_file=finished / "short.txt"))
    assert "are not the token 5, which should be [MASK]; give the --vocab_file" in found


def test_the_manifest_tells_which_token_is_mask(finished, tmp_path):
    folder = copied(finished, tmp_path)
    outputs = {path.name: FileRecord(path.stat().st_size, "") for path in (folder / "data").glob("*.hdf5")}
    vocabulary = {"sha256": "", "size": 40, "cls": 1, "sep": 2, "mask": 3}
    parameters = {"masked_lm_prob": 0.3, "vocabulary": vocabulary}
    Manifest("create_hdf5_files", "sample", parameters, {}, outputs).write(folder / "data" / FILE_NAME)
    main(dynamic(folder, output_dir=folder / "again", vocab_file=None, masked_lm_prob=None))
    assert losses(folder / "again") == losses(folder / "out")
