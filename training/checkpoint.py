"""A checkpoint is everything that a run needs to go on as if it had never stopped.

It is one file with plain tensors and primitives only, so that `torch.load(weights_only=True)` opens it and loading one
runs no code; saving refuses anything else at once, and not months later. The file appears under its name only when it
is whole and on disk, and older ones go only after that.

NVIDIA's names are kept, `ckpt_{step}.pt`, and with them its habit that both phases write into one folder, phase 2
counting on from where phase 1 ended. A phase removes only checkpoints of its own steps. Phase 1's last one, from which
phase 2 starts and could be started again, is therefore never removed by phase 2.
"""

import collections
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from file_utils import UserError, atomic_path

FORMAT = "bert-benchmark checkpoint, version 1"
REQUIRED = ("model", "optimizer", "schedule", "training_step", "random_state", "data_position", "configuration")
NAME = re.compile(r"ckpt_(\d+)\.pt")


def save_checkpoint(
    output_dir: Path | str, step: int, state: Mapping[str, Any], keep: int = 3, phase_start_step: int = 0
) -> Path:
    """Write `ckpt_{step}.pt`, then remove this phase's oldest until `keep` are left.

    Args:
        output_dir: the folder, made where it is missing.
        step: the optimizer step after which the state was taken, counted over both phases.
        state: at least the keys of `REQUIRED`; nested dicts, lists and tuples of tensors, numbers, strings and None.
            `random_state` is what the function of that name gives.
        keep: how many checkpoints of this phase stay, 1 or more.
        phase_start_step: checkpoints of this step and of earlier ones belong to an earlier phase and stay.

    Raises:
        TypeError: the state holds something else than tensors and primitives; the message says where.
        ValueError: a key of `REQUIRED` is missing, or `keep` is below 1.
    """
    missing = [key for key in REQUIRED if key not in state]
    if missing:
        raise ValueError(f"a checkpoint also needs the keys {missing}")
    if keep < 1:
        raise ValueError(f"keep must be 1 or more, not {keep}")
    contents = {"format": FORMAT, "step": step, **state}
    _check_plain(contents, "checkpoint")
    path = Path(output_dir) / f"ckpt_{step}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    for torn in path.parent.glob(".ckpt_*"):
        shutil.rmtree(torn, ignore_errors=True)  # a run was killed while it wrote this, and it can be gigabytes
    with atomic_path(path) as temporary:
        torch.save(contents, temporary)
    of_this_phase = [(s, p) for s, p in find_checkpoints(output_dir) if phase_start_step < s <= step]
    for _, old in of_this_phase[:-keep]:
        old.unlink()
    return path


def find_checkpoints(output_dir: Path | str) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in a folder, by rising step; none where there is no folder."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    named = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in named if match)


def latest_checkpoint(output_dir: Path | str) -> Path | None:
    """The checkpoint of the highest step in a folder, or None."""
    found = find_checkpoints(output_dir)
    return found[-1][1] if found else None


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """The state that was saved, with `step`; all tensors on the CPU.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of this program.
    """
    contents = _load(Path(path))
    missing = [key for key in ("step", *REQUIRED) if not isinstance(contents, dict) or key not in contents]
    if missing or contents.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint that training can resume from (this program's have format {FORMAT!r}); "
            "if it holds weights, start from them with --init_checkpoint."
        )
    del contents["format"]
    return contents


def _load(path: Path) -> Any:
    """What is in a .pt file, on the CPU; only tensors and primitives are loaded, never code."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; check the folder and the step.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UserError(f"the checkpoint {path} is damaged or no checkpoint ({reason}); use an earlier one.") from error


def load_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights in a .pt file: a checkpoint of ours or NVIDIA's (`module.` before names or not), or a state dict.

    Raises:
        UserError: the file is missing, damaged, or holds no weights.
    """
    contents = _load(Path(path))
    weights = contents.get("model", contents) if isinstance(contents, dict) else None
    if not isinstance(weights, dict) or not weights or not all(torch.is_tensor(w) for w in weights.values()):
        raise UserError(
            f"{path} holds no weights; give a .pt file with a state dict, by itself or under the key 'model'."
        )
    return {str(name).removeprefix("module."): weight for name, weight in weights.items()}


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
            f"the weights in {path} are not those of this model ({reasons}); check --config_file."
        ) from error


def random_state(generators: Mapping[str, np.random.Generator] | None = None) -> dict[str, Any]:
    """The state of every source of random numbers of this process, in tensors and primitives.

    Args:
        generators: numpy Generators that the caller owns, by name, beside the global sources of Python, numpy, PyTorch
            and the current CUDA device.
    """
    state = {
        "python": random.getstate(),
        # The legacy global source, since a library may draw from it whatever we do.
        "numpy": _without_arrays(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "generators": {name: _without_arrays(g.bit_generator.state) for name, g in (generators or {}).items()},
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any], generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Put back what `random_state` gave. A CUDA state is left aside where there is no GPU.

    Raises:
        KeyError: a generator is given that was not saved.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for name, generator in (generators or {}).items():
        generator.bit_generator.state = state["generators"][name]
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _without_arrays(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _without_arrays(entry) for key, entry in value.items()}
    return value


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
