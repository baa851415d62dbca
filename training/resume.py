"""Which checkpoint a run goes on from, given its flags and what its folder holds.

Both phases write into one folder, phase 2 counting on from phase 1's last step, as NVIDIA's scripts do. So the same
command line serves the first start and every restart: it finds its own phase's newest checkpoint, or phase 1's last.
"""

import argparse
import math
from collections.abc import Mapping
from typing import Any

from file_utils import Problems, UserError
from training.checkpoint import find_checkpoints, load_checkpoint


def first_global_step(args: argparse.Namespace) -> int:
    """The step, counted over both phases, after which this phase begins."""
    return args.phase1_end_step if args.phase2 else 0


def find_start(args: argparse.Namespace, total_steps: float, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to go on from, loaded; None for a fresh start.

    Args:
        args: with `output_dir`, `resume_from_checkpoint`, `resume_step`, `phase2`, `resume_phase2`, `phase1_end_step`,
            `do_train`, `skip_checkpoint` and `optimizer`.
        total_steps: of this phase; `math.inf` where they are not known.
        model: the configuration that the checkpoint must have been made with.

    Raises:
        UserError: the folder holds checkpoints and no flag says what to do with them, the one that is needed is missing
            or damaged, or it is of another model or, where training goes on, of another optimizer.
    """
    found = dict(find_checkpoints(args.output_dir))
    if not args.resume_from_checkpoint:
        if found and args.do_train and not args.skip_checkpoint:
            raise UserError(
                f"{args.output_dir} holds checkpoints already, up to {found[max(found)].name}; add "
                "--resume_from_checkpoint to go on from there, or choose another --output_dir."
            )
        return None
    step = _step_to_resume(args, list(found), total_steps)
    if step is None:
        return None
    if step not in found:
        raise UserError(
            f"{args.output_dir} has no ckpt_{step}.pt to go on from (it has {sorted(found) or 'none'}); check "
            "--output_dir, --resume_step and --phase1_end_step."
        )
    contents = load_checkpoint(found[step])
    problems = Problems()
    made_with = contents["configuration"]["model"]
    differing = [
        f"{key} {made_with.get(key)} there and {value} here"
        for key, value in model.items()
        if made_with.get(key) != value
    ]
    problems.check(
        not differing,
        f"{found[step]} is of another model ({', '.join(differing)}); give the configuration it was made with.",
    )
    optimizer = contents["configuration"]["arguments"]["optimizer"]
    problems.check(
        optimizer == args.optimizer or not args.do_train,
        f"{found[step]} holds the state of --optimizer {optimizer}, not of {args.optimizer}; go on with {optimizer}, "
        "or start anew from its weights with --init_checkpoint.",
    )
    problems.raise_if_any()
    return contents


def _step_to_resume(args: argparse.Namespace, steps: list[int], total_steps: int) -> int | None:
    first = first_global_step(args)
    last = first + total_steps if args.do_train else math.inf
    of_this_phase = [step for step in steps if first < step <= last]
    if args.resume_phase2 and not of_this_phase:
        raise UserError(f"--resume_phase2: {args.output_dir} has no checkpoint of phase 2; leave it out to start one.")
    if args.resume_step != -1:
        if not first <= args.resume_step <= last:
            raise UserError(
                f"--resume_step {args.resume_step} lies outside this phase, which goes from {first} to {last}."
            )
        return args.resume_step
    if of_this_phase:
        return max(of_this_phase)
    if args.phase2:
        return first
    if steps:
        raise UserError(
            f"{args.output_dir} holds checkpoints from step {min(steps)} on, and this phase ends at {last}; raise "
            "--max_steps or --num_train_epochs, or choose another --output_dir."
        )
    if not args.do_train:
        raise UserError(f"{args.output_dir} holds no checkpoint to evaluate; check --output_dir.")
    return None
