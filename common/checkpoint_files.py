"""Files of torch.save: which are there, and what is in one, without running any code out of it.

torch checks no checksums when it reads; here all are checked first, so that no flipped bit is trained on.
"""

import contextlib
import pickle
import re
import types
import zipfile
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.json_files import regular

NAME = re.compile(r"ckpt_([0-9]+)\.pt")


def find_checkpoints(output_dir: Path | str) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in a folder, by rising step; none where there is no folder."""
    paths = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # any other error must not pass for no checkpoint
        paths = list(Path(output_dir).iterdir())
    named = ((NAME.fullmatch(path.name), path) for path in paths)
    return sorted((int(match[1]), path) for match, path in named if match)


def read_plain(path: Path, subject: str, what: str, remedy: str) -> Any:
    """What torch.save wrote to a file: tensors and plain values, on the CPU and mapped where the file can be.

    Raises:
        UserError: it is damaged, something else, or holds more. The file is called "the checkpoint results/ckpt_5.pt",
            `subject`; it should be a "checkpoint", `what`.
    """
    try:
        is_zip = zipfile.is_zipfile(regular(path))  # files of PyTorch before 1.6 are none, and cannot be mapped
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                # torch writes its files uncompressed; another's could unpack to any size.
                if any(entry.compress_type for entry in archive.infolist()):
                    raise zipfile.BadZipFile("it is compressed")
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        with torch.serialization.safe_globals(_plain_types()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # there is hardly one that no damaged file makes the two readers raise
        found = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if found:
            raise UserError(
                f"{subject} holds more than tensors ({found[1]}), and loading that could run any code, so it is not "
                "loaded",
                "have whoever made it save the weights alone: torch.save({'model': model.state_dict()}, ...)",
            ) from error
        said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        reason = said.splitlines()[0].rstrip(".")
        raise UserError(f"{subject} is damaged or no {what} ({reason})", remedy) from error


def _plain_types() -> list[Any]:
    """What trainers put beside the weights, such as a score, flags and the path of the data: values, and no code."""
    scalar = np._core.multiarray.scalar
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1 and 2
    kinds = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
    flags = (types.SimpleNamespace, "argparse.Namespace")
    return [*scalars, np.dtype, *{type(np.dtype(kind)) for kind in kinds}, flags, PosixPath]
