"""Which checkpoint a run goes on from, given its flags and what its folder holds.

Both phases write into one folder, phase 2 counting on from phase 1's last step, as NVIDIA's scripts do. So the same
command line serves the first start and every restart: it finds its own phase's newest checkpoint, or phase 1's last.
A damaged one is reported and the one before it used, since a run of days must not wait for somebody to delete a file.
"""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.checkpoint_files import find_checkpoints
from common.errors import Problems, UserError
from training.checkpointing.checkpoint import load_checkpoint


def first_global_step(args: argparse.Namespace) -> int:
    """The step, counted over both phases, after which this phase begins."""
    return args.phase1_end_step if args.phase2 else 0


def restarted_by_torchrun() -> bool:
    """Whether torchrun started this process again after a failure, so that it goes on without being told to."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def find_start(
    args: argparse.Namespace, total_steps: float, model: Mapping[str, Any], report: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """The checkpoint to go on from, loaded; None for a fresh start.

    Args:
        args: with `output_dir`, `resume_from_checkpoint`, `resume_step`, `phase2`, `resume_phase2`, `phase1_end_step`,
            `do_train`, `skip_checkpoint`, `init_checkpoint` and `optimizer`.
        total_steps: of this phase; `math.inf` where they are not known.
        model: the configuration that the checkpoint must have been made with.
        report: told of each damaged checkpoint that is passed over.

    Raises:
        UserError: the folder holds checkpoints and no flag says what to do with them, the one that is needed is missing
            or damaged, or it is of another model or, where training goes on, of another optimizer.
    """
    found = dict(find_checkpoints(args.output_dir))
    if not (args.resume_from_checkpoint or restarted_by_torchrun()):
        if found and args.do_train and not args.skip_checkpoint:
            raise UserError(
                f"{args.output_dir} holds checkpoints already, up to {found[max(found)].name}",
                "add --resume_from_checkpoint to go on from there, or choose another --output_dir",
            )
        return None
    steps = _steps_to_try(args, sorted(found), total_steps)
    if not steps:
        return None
    if steps[0] not in found:
        raise UserError(
            f"{args.output_dir} has no ckpt_{steps[0]}.pt to go on from (it has {sorted(found) or 'none'})",
            "check --output_dir, --resume_step and --phase1_end_step",
        )
    contents = _load_first_whole([found[step] for step in steps if step in found], report)
    _check_fit(contents, found[contents["step"]], args, model)
    return contents


def _steps_to_try(args: argparse.Namespace, steps: list[int], total_steps: float) -> list[int]:
    """Global steps to go on from, the best first; none for a fresh start."""
    first = first_global_step(args)
    last = first + total_steps if args.do_train else math.inf
    of_this_phase = [step for step in reversed(steps) if first < step <= last]
    if args.resume_phase2 and not of_this_phase:
        raise UserError(f"--resume_phase2: {args.output_dir} has no checkpoint of phase 2", "leave it out to start one")
    if args.resume_step != -1 and not restarted_by_torchrun():
        if not first <= args.resume_step <= last:
            raise UserError(
                f"--resume_step {args.resume_step} lies outside this phase, which goes from {first} to {last}."
            )
        newer = [step for step in of_this_phase if step > args.resume_step]
        if newer and args.do_train and not args.skip_checkpoint:
            raise UserError(
                f"{args.output_dir} holds ckpt_{newer[0]}.pt and {len(newer) - 1} more after --resume_step "
                f"{args.resume_step}, and a restart would take the newest",
                "move those away, or go on from the newest",
            )
        return [args.resume_step]
    if of_this_phase:
        return of_this_phase + [first] * (args.phase2 and first in steps)
    if args.phase2 and (first in steps or not args.init_checkpoint):
        return [first]
    if steps:
        raise UserError(
            f"{args.output_dir} holds checkpoints from step {min(steps)} on, and this phase ends at {last}",
            "raise --max_steps or --num_train_epochs, or choose another --output_dir",
        )
    if not args.do_train and not args.init_checkpoint:
        raise UserError(f"{args.output_dir} holds no checkpoint to evaluate", "check --output_dir")
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


def _check_fit(contents: dict[str, Any], path: Path, args: argparse.Namespace, model: Mapping[str, Any]) -> None:
    problems = Problems()
    made_with = contents["configuration"]["model"]
    differing = [
        f"{key} {made_with.get(key)} there and {value} here"
        for key, value in model.items()
        if made_with.get(key) != value
    ]
    problems.check(
        not differing, f"{path} is of another model ({', '.join(differing)})", "give the configuration it was made with"
    )
    optimizer = contents["configuration"]["arguments"]["optimizer"]
    problems.check(
        optimizer == args.optimizer or not args.do_train,
        f"{path} holds the state of --optimizer {optimizer}, not of {args.optimizer}",
        f"go on with {optimizer}, or start anew from its weights with --init_checkpoint",
    )
    problems.raise_if_any()
