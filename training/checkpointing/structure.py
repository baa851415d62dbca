"""Whether what a checkpoint holds is what a run can resume: all of it, before any of it is used.

A file can be whole and yet lack the optimizer's moments, with which training would go on in silence and learn worse,
or hold another step than its name says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.checkpoint_files import NAME
from common.errors import Problem, UserError
from common.json_files import mismatch
from common.words import counted
from optimization import parameter_groups
from training.checkpointing.checkpoint import REMEDY
from training.task import Stage

MOMENTS = ("exp_avg", "exp_avg_sq")  # of every optimizer here
WEIGHTS_REMAIN = "use an earlier one, or start anew from its weights with --init_checkpoint"


def check_parts(contents: dict[str, Any], path: Path) -> None:
    """Raises UserError where a part of a loaded checkpoint is not of its form."""
    number, nothing = (int, float), type(None)
    scale = {"scale": number, "steps_since_change": int, "skipped_in_a_row": int, "skipped": int}
    form = {
        "step": int,
        "model": {str: Tensor},
        "optimizer": {"state": {int: dict.fromkeys(MOMENTS, Tensor)}, "param_groups": [{"params": [int], "step": int}]},
        "schedule": {"finished_steps": int},
        "training_step": {"loss_sums": (Tensor, nothing), "n_steps": int, "loss_scale": (scale, nothing)},
        "data_position": {"samples_seen": int, "seed": int, "n_samples": int},
        "configuration": {"model": {str: object}, "arguments": {"optimizer": str}},
    }
    wrong = mismatch(contents, form)
    if not wrong:
        steps = [contents["step"], *(group["step"] for group in contents["optimizer"]["param_groups"])]
        counts = [*steps, contents["data_position"]["samples_seen"], n_averaged := contents["training_step"]["n_steps"]]
        outside = [count for count in counts if not 0 <= count < 2**53]
        wrong = "a number of steps or samples is out of range" if outside else None
        if (contents["training_step"]["loss_sums"] is None) != (n_averaged == 0):
            wrong = "training_step.loss_sums and training_step.n_steps contradict each other"
    if wrong:
        raise UserError(f"{path} is no checkpoint to resume from: {wrong}", WEIGHTS_REMAIN)


def unfit(contents: dict[str, Any], path: Path, model: nn.Module, stage: Stage, trains: bool) -> Iterator[Problem]:
    """Why a checkpoint of the right form is not one of this model, stage and name.

    Args:
        model: of the run's configuration, on any device.
        trains: optimizer and schedule are used as well as the weights.
    """
    step = contents["step"]
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != step:
        yield Problem(f"{path} holds step {step}, and its name says another", f"call it ckpt_{step}.pt again")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in contents["model"].items()}
    if wrong := sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name)):
        shapes = f"{found.get(wrong[0], 'missing')} where {expected.get(wrong[0], 'nothing')} is expected"
        what = f"{path} does not hold this model's weights: {wrong[0]} is {shapes}, {len(wrong)} differ in all"
        yield Problem(what, REMEDY)
    if not trains:
        return
    state, finished = contents["optimizer"]["state"], contents["schedule"]["finished_steps"]
    shapes = {index: {tuple(moments[name].shape) for name in MOMENTS} for index, moments in state.items()}
    saved, fresh = contents["optimizer"]["param_groups"], parameter_groups(model, 0.0)
    found = [[shapes.get(index) for index in group["params"]] for group in saved]
    if found != [[{tuple(p.shape)} for p in group["params"]] for group in fresh]:
        yield Problem(f"{path} does not hold the optimizer's moments of all of this model's weights", WEIGHTS_REMAIN)
    if step != stage.first_step + finished and not (stage.continues and step == stage.first_step):
        flag = f"check {stage.flag}" if stage.flag else "resume it as the stage that it is of"
        found, expected = counted(finished, "step"), step - stage.first_step
        yield Problem(f"{path} was written {found} into its stage, not {expected}", flag)
