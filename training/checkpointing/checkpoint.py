"""A checkpoint is everything that a run needs to go on as if it had never stopped.

It is one file with plain tensors and primitives only, so that `torch.load(weights_only=True)` opens it and loading one
runs no code. The file appears under its name only when it is whole and on disk, and older ones go only after that.
Random numbers are not in it, since they follow from the position in the data (training/step.py).

NVIDIA's names are kept, `ckpt_{step}.pt`, and with them its habit that both phases write into one folder, phase 2
counting on from where phase 1 ended. A phase removes only checkpoints of its own steps, so phase 2 never removes the
one that it started from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.checkpoint_files import find_checkpoints, read_plain
from common.errors import UserError
from file_utils import atomic_path, remove_leftovers

FORMAT = "bert-benchmark checkpoint, version 2"
REMEDY = "check folder and step, or use an earlier one"  # of a file that cannot be read
PARTS = ("model", "optimizer", "schedule", "training_step", "data_position", "configuration")


def save_checkpoint(
    output_dir: Path | str,
    step: int,
    state: Mapping[str, Any],
    keep: int = 3,
    keep_every: int | None = None,
    phase_start_step: int = 0,
) -> Path:
    """Write `ckpt_{step}.pt`, then remove this phase's oldest until `keep` are left.

    Args:
        output_dir: made where it is missing. It is this run's alone: what another left half-written is removed.
        step: the optimizer step after which the state was taken, counted over both phases.
        state: the `PARTS`, in tensors and primitives.
        keep: how many checkpoints of this phase stay, 1 or more.
        keep_every: those whose step within the phase is a multiple of this stay for good, beside the `keep`.
        phase_start_step: checkpoints of this step and of earlier ones belong to an earlier phase and stay.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before still is.
    """
    path = Path(output_dir) / f"ckpt_{step}.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, "ckpt_*")  # a run was killed while it wrote them, and they can be gigabytes
        # A file opened here, since of one that torch opens by name it does not say why it could not be written.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "step": step, **state}, file)
        steps = [(at - phase_start_step, old) for at, old in find_checkpoints(output_dir) if at <= step]
        removable = [old for at, old in steps if at > 0 and not (keep_every and at % keep_every == 0)]
        for old in removable[:-keep]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch's writer says "unexpected pos" when a write has failed, with the failure itself as the context.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the checkpoint {path} could not be written ({cause.strerror or cause})",
            "those written before are untouched: make room or give access there, or keep fewer of them with "
            "--keep_checkpoints",
        ) from error
    return path


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """The state that was saved, with `step`.

    Its tensors lie in pages of the file, which are read when they are used and shared by all processes of a node.
    Writing to one changes this process's copy, never the file. What is kept must be copied before another host may
    remove the file.

    Raises:
        UserError: the file is missing, damaged (a checksum differs), or not a checkpoint of this version.
    """
    contents = read_plain(Path(path), f"the checkpoint {path}", "checkpoint", REMEDY)
    form = contents.get("format") if isinstance(contents, dict) else None
    if form != FORMAT or not contents.keys() >= {"step", *PARTS}:
        raise UserError(
            f"{path} is not a checkpoint that training can resume from (its format is {form!r}, this one's {FORMAT!r})",
            f"start anew from its weights, if it has any, with --init_checkpoint {path}",
        )
    del contents["format"]
    return contents
