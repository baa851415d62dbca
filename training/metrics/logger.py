"""Logs in DLLogger's line format, and the same for people on the console.

NVIDIA's BERT and the tools around it write and read DLLogger lines, `DLLL {json}`, and DLLogger itself is not on PyPI.
The format is small enough to write here. Two things differ from DLLogger: a line reaches the file when it is logged, so
a killed run keeps its log, and NaN and the infinities are strings, since bare NaN is not JSON. `float()` reads them.

Source: the file format is that of JSONStreamBackend in https://github.com/NVIDIA/dllogger.
"""

import datetime
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.errors import UserError

PREFIX = "DLLL "


class MetricsLogger:
    """Writes one JSON line per event to a file, and one readable line to stdout, above any tqdm bar.

    Args:
        path: the log file; its folder is made. None: no file.
        append: go on after what is there (a resumed run) instead of starting the file anew. The steps between the
            checkpoint and the end of the earlier run are then there twice; the later line counts.
        console: whether to print; a process that is not the first of its run does not.
        scalars: also told every number of a step, such as a TensorBoard writer: (name, value, step).

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str | None,
        append: bool = False,
        console: bool = True,
        scalars: Callable[[str, float, int], None] | None = None,
    ):
        self.console = console
        self._scalars = scalars
        self._start = datetime.datetime.now()
        self._formats: dict[str, Mapping[str, str]] = {}
        self._file = None if path is None else _open_log(Path(path), append)
        self._write_failed = False

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log the configuration or the environment: DLLogger's step is the word PARAMETER. To the file alone."""
        self._write({"type": "LOG", "step": "PARAMETER", "data": values})

    def metadata(self, metric: str, unit: str | None = None, format: str | None = None) -> None:
        """Say once how a metric is printed: its unit, and a format as DLLogger spells it, such as `:.2f`."""
        values = {key: value for key, value in (("unit", unit), ("format", format)) if value is not None}
        self._formats[metric] = values
        self._write({"type": "METADATA", "metric": metric, "metadata": values})

    def log(self, step: int | tuple[int, ...] | str, data: Mapping[str, Any], console: bool = True) -> None:
        """Log values of a step.

        Args:
            step: the optimizer step; a tuple counts coarse to fine (epoch, step); () is the whole run.
            data: name to value; tensors of one element are read, which waits for the device.
            console: False keeps this line out of stdout, where mappings, lists and None are never shown.
        """
        data = {name: _plain(value) for name, value in data.items()}
        self._write({"type": "LOG", "step": step, "data": data})
        if self._scalars and isinstance(step, tuple) and step:
            for name, value in data.items():
                if _is_number(value):
                    self._scalars(name, value, step[-1])
        if console:
            shown = {name: value for name, value in data.items() if not isinstance(value, dict | list | None)}
            self.message(" | ".join([_step_text(step), *(self._text(name, value) for name, value in shown.items())]))

    def message(self, text: str) -> None:
        """Print a line for people, not for the file."""
        if self.console:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        now = datetime.datetime.now()
        header = {
            "timestamp": str(now.timestamp()),
            "datetime": str(now),
            "elapsedtime": str((now - self._start).total_seconds()),
        }
        line = PREFIX + json.dumps({**header, **_plain(event)}, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode())
        except OSError as error:
            # A full disk must not end a run of days; what it learns is in its checkpoints.
            if not self._write_failed:
                self._write_failed = True
                self.message(
                    f"warning: {self._file.name} cannot be written ({error.strerror}); lines of the log are lost"
                )

    def _text(self, name: str, value: Any) -> str:
        form = self._formats.get(name, {})
        number = ("{" + form.get("format", "") + "}").format(value) if _is_number(value) else str(value)
        return " ".join(part for part in (name, number, form.get("unit", "")) if part)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """All events of a log in order; lines that are not DLLogger's, or torn by a killed run, are left out."""
    events = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith(PREFIX):
            continue
        try:
            events.append(json.loads(line.removeprefix(PREFIX)))
        except json.JSONDecodeError:
            continue
    return events


def _open_log(path: Path, append: bool):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = append and _ends_within_a_line(path)
        # Without a buffer: a line that could not be written is gone, and does not fail again when the file is closed.
        file = path.open("ab" if append else "wb", buffering=0)
    except OSError as error:
        raise UserError(f"the log {path} cannot be written ({error.strerror})", "choose another folder") from error
    if torn:
        file.write(b"\n")
    return file


def _ends_within_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _step_text(step: int | tuple[int, ...] | str) -> str:
    if isinstance(step, str):
        return step
    numbers = step if isinstance(step, tuple) else (step,)
    return f"step {'/'.join(map(str, numbers))}" if numbers else "whole run"


def _plain(value: Any) -> Any:
    """The value in JSON's own types: tensors and numpy scalars read, paths and the rest as text, NaN as a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    return str(value)
