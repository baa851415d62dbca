"""Which checkpoint a run resumes from, given its settings and what its folder holds.

Stages of one training write into one folder, each counting on from the last step of the stage before it, as the phases
of NVIDIA's scripts do. So the same command line serves the first start and every restart: it finds its own stage's
newest checkpoint, or the last of the stage before. A damaged one is reported and the one before it used, since a run
of days must not wait for somebody to delete a file.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from torch import nn

from common.checkpoint_files import find_checkpoints
from common.errors import Problems, UserError
from training.checkpointing.checkpoint import load_checkpoint
from training.checkpointing.structure import check_parts, unfit
from training.config.settings import Settings
from training.task import Stage


def find_start(
    settings: Settings, stage: Stage, total_steps: float, model: nn.Module | None = None
) -> dict[str, Any] | None:
    """The checkpoint to resume from, loaded; None for a fresh start.

    Args:
        settings: `model`, where it is known, is the configuration that the checkpoint must have been made with.
        total_steps: of this stage; `math.inf` where they are not known.
        model: what it must fit, on any device, where it is known.

    Raises:
        UserError: no flag says what to do with the folder's checkpoints, or none of them is whole and fits.
    """
    output_dir, flags = settings.output.output_dir, settings.checkpoints
    found = dict(find_checkpoints(output_dir))
    # Torchrun, when it starts this process again after a failure, does not tell it to resume.
    is_restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not (flags.resume_from_checkpoint or is_restart):
        if found and settings.trains and not settings.output.skip_checkpoint:
            raise UserError(
                f"{output_dir} holds checkpoints already, up to {found[max(found)].name}",
                "add --resume_from_checkpoint to resume from it, or choose another --output_dir",
            )
        return None
    asked = -1 if is_restart else flags.resume_step
    steps = _steps_to_try(settings, stage, sorted(found, reverse=True), total_steps, asked)
    for step in steps:
        if step not in found:
            flag = f", --resume_step and {stage.flag}" if stage.flag else " and --resume_step"
            raise UserError(
                f"{output_dir} has no ckpt_{step}.pt to resume from (it has {sorted(found) or 'none'})",
                f"check --output_dir{flag}",
            )
        try:
            contents = load_checkpoint(found[step])
            check_parts(contents, found[step])
        except UserError as error:
            if step == steps[-1]:
                raise
            print(f"warning: {error} Trying the one before it.")
            continue
        _check_fit(contents, found[step], settings, stage, model)
        return contents
    return None


def _steps_to_try(settings: Settings, stage: Stage, steps: list[int], total_steps: float, asked: int) -> list[int]:
    """Those of the folder's `steps`, newest first, to resume from, the best first; none for a fresh start."""
    output_dir, has_weights = settings.output.output_dir, settings.checkpoints.init_checkpoint
    first = stage.first_step
    last = first + total_steps if settings.trains else math.inf
    of_this_stage = [step for step in steps if first < step <= last]
    if stage.checkpoint_required and not of_this_stage:
        raise UserError(stage.checkpoint_required)
    if asked != -1:
        if not first <= asked <= last:
            raise UserError(f"--resume_step {asked} lies outside this phase, which goes from {first} to {last}.")
        newer = [step for step in of_this_stage if step > asked]
        if newer and settings.trains and not settings.output.skip_checkpoint:
            more = f" and {len(newer) - 1} more" if len(newer) > 1 else ""
            raise UserError(
                f"{output_dir} holds ckpt_{newer[0]}.pt{more} after --resume_step {asked}, and a restart would take "
                "the newest",
                "move those away, or resume from the newest",
            )
        return [asked]
    if of_this_stage:
        return of_this_stage + [first] * (stage.continues and first in steps)
    if stage.continues and (first in steps or not has_weights):
        return [first]
    if steps:
        raise UserError(
            f"{output_dir} holds checkpoints from step {steps[-1]} on, and this phase ends at {last}",
            "raise --max_steps or --num_train_epochs, or choose another --output_dir",
        )
    if not settings.trains and not has_weights:
        raise UserError(f"{output_dir} holds no checkpoint to evaluate", "check --output_dir")
    return []


def _check_fit(contents: dict[str, Any], path: Path, settings: Settings, stage: Stage, model: nn.Module | None) -> None:
    problems = Problems()
    made_with, config = contents["configuration"], dataclasses.asdict(settings.model) if settings.model else {}
    pairs = {key: (made_with["model"].get(key), value) for key, value in config.items()}
    differing = ", ".join(
        f"{key} {there} there and {here} here" for key, (there, here) in pairs.items() if there != here
    )
    remedy = "give the configuration it was made with"
    problems.check(not differing, f"{path} is of another model ({differing})", remedy)
    saved, wanted = made_with["arguments"]["optimizer"], settings.optimization.optimizer
    problems.check(
        saved == wanted or not settings.trains,
        f"{path} holds the state of --optimizer {saved}, not of {wanted}",
        f"go on with {saved}, or start anew from its weights with --init_checkpoint",
    )
    if model is not None and not problems.found:
        problems.extend(unfit(contents, path, model, stage, settings.trains))
    problems.raise_if_any()
