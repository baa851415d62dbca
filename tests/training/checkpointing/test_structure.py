"""A checkpoint of which a part is missing or of another form is refused in a sentence, whichever part it is."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from pretraining_runs import SHAPE, command, make_inputs

from common.errors import UserError
from modeling import BertForPreTraining
from models.config import BertConfig
from optimization import WarmupSchedule, build_optimizer, parameter_groups
from run_pretraining import main
from training.checkpointing.checkpoint import FORMAT, load_checkpoint
from training.checkpointing.structure import check_parts, unfit
from training.step import TrainingStep
from training.task import Stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run of 3 steps, which logs the mean of every second."""
    folder = make_inputs(tmp_path_factory.mktemp("structure"))
    main(command(folder, max_steps=3, log_freq=2))
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    return load_checkpoint(folder / "out" / "ckpt_3.pt")


@pytest.fixture(scope="module")
def model():
    return BertForPreTraining(BertConfig(**SHAPE))


def problems_of(contents, model, name="ckpt_3.pt", stage=None, trains=True):
    """As sentences: those of the form, or else those of the fit."""
    try:
        check_parts(contents, Path(name))
    except UserError as error:
        return error.sentences
    return list(map(str, unfit(contents, Path(name), model, stage or Stage(), trains)))


def restore(contents, model):
    """What a run does with a checkpoint, and one step of its optimizer."""
    model.load_state_dict(contents["model"])
    optimizer = build_optimizer("lamb", parameter_groups(model, 0.01), 0.1)
    own = [{**group, "params": None} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(contents["optimizer"]))
    for group, told in zip(optimizer.param_groups, own, strict=True):  # as training/run.py does
        group.update({**told, "params": group["params"], "step": group["step"]})
    schedule = WarmupSchedule(optimizer, 10, 0.1, 0.1, "poly")
    schedule.load_state_dict(contents["schedule"])
    step = TrainingStep(lambda batch: None, optimizer, schedule, 1, torch.device("cpu"))
    step.load_state_dict(contents["training_step"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    if step.has_losses:
        step.mean_losses()


def places(value, path=()):
    """The path of every entry; of dicts with more than eight, of the first two and the last."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, entry in entries if len(entries) <= 8 or not path else [*entries[:2], entries[-1]]:
        yield (*path, key)
        yield from places(entry, (*path, key))


REMOVED = object()
CHANGES = (REMOVED, None, "x", -1, 10**30, 0.5, True, {}, [], torch.zeros(()), torch.zeros(3, 3))


def changed(contents, path, value):
    """A copy with the entry at the path replaced or removed; tensors are shared."""
    copied = copy.copy(contents)
    part = copied
    for key in path[:-1]:
        part[key] = copy.copy(part[key])
        part = part[key]
    if value is REMOVED:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return copied


def test_a_whole_one_passes(whole, model):
    assert problems_of(whole, model) == []
    restore(whole, model)


def test_whatever_is_changed_is_a_sentence_or_can_be_restored(whole, model):
    refused, kept = 0, 0
    for path in places(whole):
        for value in CHANGES:
            made = changed(whole, path, value)
            if found := problems_of(made, model):
                assert all("ckpt_3.pt" in sentence and ";" in sentence for sentence in found), found
                refused += 1
            else:
                restore(made, model)
                kept += 1
    assert refused > 400
    assert kept < refused


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("optimizer", "state"), {}, "ckpt_3.pt does not hold the optimizer's moments of all of this model's weights"),
        (("schedule",), {}, "ckpt_3.pt is no checkpoint to resume from: schedule.finished_steps is missing"),
        (("step",), 4, "ckpt_3.pt holds step 4, and its name says another; call it ckpt_4.pt again."),
        (("schedule", "finished_steps"), 2, "ckpt_3.pt was written 2 steps into its stage, not 3"),
        (("model", "cls.predictions.bias"), REMOVED, "cls.predictions.bias is missing where (40,) is expected"),
        (("model", "more"), torch.zeros(2), "more is (2,) where nothing is expected"),
        (("optimizer", "param_groups"), [], "does not hold the optimizer's moments"),
    ],
)
def test_what_is_said(whole, model, path, value, sentence):
    assert any(sentence in said for said in problems_of(changed(whole, path, value), model))


def test_moments_do_not_matter_where_nothing_is_trained(whole, model):
    assert problems_of(changed(whole, ("optimizer", "state"), {}), model, trains=False) == []


def test_the_stage_decides_what_a_step_is(whole, model):
    second = Stage(first_step=3, continues=True, flag="--phase1_end_step")
    assert problems_of(whole, model, stage=second) == []
    (sentence,) = problems_of(whole, model, stage=second._replace(first_step=2))
    assert sentence == "ckpt_3.pt was written 3 steps into its stage, not 1; check --phase1_end_step."


def test_the_one_before_is_resumed_where_a_part_is_missing(folder, whole, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    output = tmp_path / "run" / "out"
    torch.save({"format": FORMAT, **changed(whole, ("schedule",), {})}, output / "ckpt_4.pt")
    main(command(tmp_path / "run", max_steps=5, resume_from_checkpoint=True, skip_checkpoint=True))
    assert "ckpt_4.pt is no checkpoint to resume from: schedule.finished_steps is missing" in capsys.readouterr().out


def test_a_checkpoint_under_another_name_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "out" / "ckpt_3.pt").rename(tmp_path / "run" / "out" / "ckpt_4.pt")
    with pytest.raises(UserError, match=r"ckpt_4\.pt holds step 3, and its name says another; call it ckpt_3\.pt"):
        main(command(tmp_path / "run", max_steps=5, resume_from_checkpoint=True))
