"""A checkpoint is everything that a run needs to go on as if it had never stopped.

It is one file with plain tensors and primitives only, so that `torch.load(weights_only=True)` opens it and loading one
runs no code; saving refuses anything else at once, and not months later. The file appears under its name only when it
is whole and on disk, and older ones go only after that: whatever happens, the last good one is still there. Random
numbers are not in it, since they follow from the position in the data (see step.py).

Loading (common/checkpoint_files.py) maps the file into memory, so that the many processes of a node share one copy of
its gigabytes.

NVIDIA's names are kept, `ckpt_{step}.pt`, and with them its habit that both phases write into one folder, phase 2
counting on from where phase 1 ended. A phase removes only checkpoints of its own steps. Phase 1's last one, from which
phase 2 starts and could be started again, is therefore never removed by phase 2.
"""

import collections
import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from common.checkpoint_files import find_checkpoints, read_plain, weights_in
from common.errors import UserError
from file_utils import atomic_path

FORMAT_NAME = "bert-benchmark checkpoint, version "
FORMAT = FORMAT_NAME + "2"
REQUIRED = ("model", "optimizer", "schedule", "training_step", "data_position", "configuration")


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
        output_dir: the folder, made where it is missing.
        step: the optimizer step after which the state was taken, counted over both phases.
        state: see `check_state`.
        keep: how many checkpoints of this phase stay, 1 or more.
        keep_every: those whose step within the phase is a multiple of this stay for good, beside the `keep`.
        phase_start_step: checkpoints of this step and of earlier ones belong to an earlier phase and stay.

    Raises:
        TypeError, ValueError: see `check_state`; `keep` or `keep_every` is below 1.
        UserError: the disk is full or the folder cannot be written; what was there before still is.
    """
    if keep < 1 or (keep_every is not None and keep_every < 1):
        raise ValueError(f"keep and keep_every must be 1 or more, not {keep} and {keep_every}")
    check_state(state)
    path = Path(output_dir) / f"ckpt_{step}.pt"
    with _explained_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for torn in path.parent.glob(".ckpt_*"):
            shutil.rmtree(torn, ignore_errors=True)  # a run was killed while it wrote this, and it can be gigabytes
        # A file opened here, since of one that torch opens by name it does not say why it could not be written.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "step": step, **state}, file)
        removable = [
            old
            for old_step, old in find_checkpoints(output_dir)
            if phase_start_step < old_step <= step
            and not (keep_every and (old_step - phase_start_step) % keep_every == 0)
        ]
        for old in removable[:-keep]:
            old.unlink(missing_ok=True)
    return path


def check_state(state: Mapping[str, Any]) -> None:
    """Make sure that a state can be saved: the keys of `REQUIRED` or more; nested dicts, lists and tuples of tensors,
    numbers, strings and None.

    Raises:
        TypeError: it holds something else; the message says where.
        ValueError: a key of `REQUIRED` is missing.
    """
    missing = [key for key in REQUIRED if key not in state]
    if missing:
        raise ValueError(f"a checkpoint also needs the keys {missing}")
    _check_plain(dict(state), "checkpoint")


@contextlib.contextmanager
def _explained_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's writer says "unexpected pos" when a write has failed, with the failure itself as the context.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the checkpoint {path} could not be written ({cause.strerror or cause})",
            "those written before are "
            "untouched: make room or give access there, or keep fewer of them with --keep_checkpoints",
        ) from error


def latest_checkpoint(output_dir: Path | str) -> Path | None:
    """The checkpoint of the highest step in a folder, or None."""
    found = find_checkpoints(output_dir)
    return found[-1][1] if found else None


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """The state that was saved, with `step`.

    Its tensors lie on the CPU, in pages of the file that are read when they are used and shared by all processes that
    do; writing to one changes this process's copy, never the file. The file may be removed meanwhile, but in a folder
    shared over a network only by this host: there, copy what is kept before another host may remove it.

    Raises:
        UserError: the file is missing, damaged (a checksum differs), or not a checkpoint of this program.
    """
    contents = _load(Path(path))
    missing = [key for key in ("format", "step", *REQUIRED) if not isinstance(contents, dict) or key not in contents]
    form = str(contents["format"]) if "format" not in missing else ""
    if form.startswith(FORMAT_NAME) and form != FORMAT:
        raise UserError(
            f"{path} was written by another version of this program (its format is {form!r}, this one's {FORMAT!r}), "
            "and no run can go on from it bit for bit",
            f"start anew from its weights with --init_checkpoint {path}",
        )
    if missing or form != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint that training can resume from (this program's have format {FORMAT!r})",
            "if it holds weights, start from them with --init_checkpoint",
        )
    del contents["format"]
    return contents


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}", "check the folder and the step")
    return read_plain(path, f"the checkpoint {path}", "checkpoint", "use an earlier one")


def load_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights in a .pt file: a checkpoint of ours or NVIDIA's (`module.` before names or not), or a state dict.

    Raises:
        UserError: the file is missing, damaged, or holds no weights.
    """
    weights = weights_in(_load(Path(path)), Path(path))
    return {name.removeprefix("module."): weight for name, weight in weights.items()}


def load_initial_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path | str) -> None:
    """Load all weights of a model, none missing, none left over.

    Raises:
        UserError: names or shapes differ; says which.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise UserError(
            f"the weights in {path} are not those of this model ({reasons})", "check --config_file"
        ) from error


def _check_plain(value: Any, where: str) -> None:
    # Exact types: numpy's float64 is a float too, and weights_only=True would refuse it.
    if value is None or type(value) in (bool, int, float, str, bytes, torch.Tensor, torch.nn.Parameter):
        return
    if type(value) in (dict, collections.OrderedDict):
        for key, entry in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}: a checkpoint's keys are strings and integers")
            _check_plain(entry, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, entry in enumerate(value):
            _check_plain(entry, f"{where}[{index}]")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and primitives only")
