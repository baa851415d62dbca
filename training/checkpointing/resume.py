"""Which checkpoint a run resumes from, given its settings and what its folder holds.

Stages of one training write into one folder, each counting on from the last step of the stage before it, as the phases
of NVIDIA's scripts do. So the same command line serves the first start and every restart: it finds its own stage's
newest checkpoint, or the last of the stage before. A damaged one is reported and the one before it used, since a run
of days must not wait for somebody to delete a file.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.checkpoint_files import find_checkpoints
from common.errors import Problems, UserError
from training.checkpointing.checkpoint import load_checkpoint
from training.config.settings import Settings
from training.task import Stage


def restarted_by_torchrun() -> bool:
    """Whether torchrun started this process again after a failure, so that it resumes without being told to."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def find_start(
    settings: Settings, stage: Stage, total_steps: float, report: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """The checkpoint to resume from, loaded; None for a fresh start.

    Args:
        settings: `model`, where it is known, is the configuration that the checkpoint must have been made with.
        stage: that this run is.
        total_steps: of this stage; `math.inf` where they are not known.
        report: told of each damaged checkpoint that is passed over.

    Raises:
        UserError: the folder holds checkpoints and no flag says what to do with them, the one that is needed is missing
            or damaged, or it is of another model or, where training resumes, of another optimizer.
    """
    output_dir, flags = settings.output.output_dir, settings.checkpoints
    found = dict(find_checkpoints(output_dir))
    if not (flags.resume_from_checkpoint or restarted_by_torchrun()):
        if found and settings.trains and not settings.output.skip_checkpoint:
            raise UserError(
                f"{output_dir} holds checkpoints already, up to {found[max(found)].name}",
                "add --resume_from_checkpoint to go on from there, or choose another --output_dir",
            )
        return None
    steps = _steps_to_try(settings, stage, sorted(found), total_steps)
    if not steps:
        return None
    if steps[0] not in found:
        flag = f", --resume_step and {stage.flag}" if stage.flag else " and --resume_step"
        raise UserError(
            f"{output_dir} has no ckpt_{steps[0]}.pt to go on from (it has {sorted(found) or 'none'})",
            f"check --output_dir{flag}",
        )
    contents = _load_first_whole([found[step] for step in steps if step in found], report)
    _check_fit(contents, found[contents["step"]], settings)
    return contents


def _steps_to_try(settings: Settings, stage: Stage, steps: list[int], total_steps: float) -> list[int]:
    """Steps, counted over all stages, to resume from, the best first; none for a fresh start."""
    output_dir, flags = settings.output.output_dir, settings.checkpoints
    first = stage.first_step
    last = first + total_steps if settings.trains else math.inf
    of_this_stage = [step for step in reversed(steps) if first < step <= last]
    if stage.checkpoint_required and not of_this_stage:
        raise UserError(stage.checkpoint_required)
    if flags.resume_step != -1 and not restarted_by_torchrun():
        if not first <= flags.resume_step <= last:
            raise UserError(
                f"--resume_step {flags.resume_step} lies outside this phase, which goes from {first} to {last}."
            )
        newer = [step for step in of_this_stage if step > flags.resume_step]
        if newer and settings.trains and not settings.output.skip_checkpoint:
            raise UserError(
                f"{output_dir} holds ckpt_{newer[0]}.pt and {len(newer) - 1} more after --resume_step "
                f"{flags.resume_step}, and a restart would take the newest",
                "move those away, or go on from the newest",
            )
        return [flags.resume_step]
    if of_this_stage:
        return of_this_stage + [first] * (stage.continues and first in steps)
    if stage.continues and (first in steps or not flags.init_checkpoint):
        return [first]
    if steps:
        raise UserError(
            f"{output_dir} holds checkpoints from step {min(steps)} on, and this phase ends at {last}",
            "raise --max_steps or --num_train_epochs, or choose another --output_dir",
        )
    if not settings.trains and not flags.init_checkpoint:
        raise UserError(f"{output_dir} holds no checkpoint to evaluate", "check --output_dir")
    return []


def _load_first_whole(paths: list[Path], report: Callable[[str], None]) -> dict[str, Any]:
    for path, next_path in zip(paths, [*paths[1:], None], strict=True):
        try:
            return load_checkpoint(path)
        except UserError as error:
            if next_path is None:
                raise
            report(f"warning: {error} Trying {next_path.name}, the one before it.")
    raise ValueError("no checkpoint to load was named")


def _check_fit(contents: dict[str, Any], path: Path, settings: Settings) -> None:
    problems = Problems()
    made_with = contents["configuration"]["model"]
    model = dataclasses.asdict(settings.model) if settings.model else {}
    differing = [
        f"{key} {made_with.get(key)} there and {value} here"
        for key, value in model.items()
        if made_with.get(key) != value
    ]
    problems.check(
        not differing,
        f"{path} is of another model ({', '.join(differing)})",
        "give the configuration it was made with",
    )
    saved, wanted = contents["configuration"]["arguments"]["optimizer"], settings.optimization.optimizer
    problems.check(
        saved == wanted or not settings.trains,
        f"{path} holds the state of --optimizer {saved}, not of {wanted}",
        f"go on with {saved}, or start anew from its weights with --init_checkpoint",
    )
    problems.raise_if_any()
