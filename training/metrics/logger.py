"""Logs in DLLogger's line format, and lines for people on the console.

DLLogger (https://github.com/NVIDIA/dllogger, JSONStreamBackend) is not on PyPI. Two things differ from it: a line
reaches the file when it is logged, so a killed run keeps its log, and NaN and the infinities are strings, since bare
NaN is not JSON. `float()` reads them.
"""

import contextlib
import datetime
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.addresses import without_secrets
from common.errors import UserError
from common.json_files import parse_json
from training.metrics.board_thread import BoardThread
from training.metrics.boards import Kind, Place

PREFIX = "DLLL "


class MetricsLogger:
    """Appends one JSON line per event to a file, if any. `message` is for people, above any tqdm bar.

    Every number of a step goes to `boards` too, on one axis with those of the stages before, of which `stage_start` is
    the last step; they are closed with the log. Where one of them or the log cannot be written, a warning says so once
    and the run goes on.
    """

    def __init__(
        self,
        path: Path | None,
        console: bool = True,
        boards: Iterable[tuple[Kind, Place]] = (),
        stage_start: int = 0,
    ):
        self.console = console
        self._stage_start = stage_start
        self._start = datetime.datetime.now()
        self._file = None if path is None else _open_log(path)
        self._write_failed = self._is_torn = False
        self._boards = [BoardThread(kind, place, self.message) for kind, place in boards]

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log the configuration or the environment: DLLogger's step is the word PARAMETER. Not to the console."""
        self._write({"type": "LOG", "step": "PARAMETER", "data": values})
        for board in self._boards:
            board.parameters(json.loads(without_secrets(json.dumps(_plain(values)))))

    def metadata(self, metric: str, unit: str | None = None, format: str | None = None) -> None:
        """Say once how a metric is printed: its unit, and a format as DLLogger spells it, such as `:.2f`."""
        values = {key: value for key, value in (("unit", unit), ("format", format)) if value is not None}
        self._write({"type": "METADATA", "metric": metric, "metadata": values})

    def log(self, step: tuple[int, ...], data: Mapping[str, Any]) -> None:
        """Log values of a step, coarse to fine as in (epoch, step); () is the whole run. Not to the console."""
        data = {name: _plain(value) for name, value in data.items()}
        self._write({"type": "LOG", "step": step, "data": data})
        if self._boards and step:
            numbers = {name: value for name, value in data.items() if type(value) in (int, float)}
            for board in self._boards:
                board.scalars(self._stage_start + step[-1], numbers)

    def message(self, text: str) -> None:
        """Print a line for people, not for the file."""
        if self.console:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(self, *exception) -> None:
        if self._file:
            self._file.close()
        for board in self._boards:
            board.close()

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        now = datetime.datetime.now()
        header = {
            "timestamp": str(now.timestamp()),
            "datetime": str(now),
            "elapsedtime": str((now - self._start).total_seconds()),
        }
        text = without_secrets(json.dumps({**header, **_plain(event)}, allow_nan=False))
        line = "\n" * self._is_torn + PREFIX + text + "\n"
        try:
            self._is_torn = self._file.write(line.encode()) < len(line)  # where a disk fills up; JSON is in ASCII
        except OSError as error:
            # A full disk must not end a run of days; what it learns is in its checkpoints.
            if not self._write_failed:
                self._write_failed = True
                what = f"{self._file.name} cannot be written ({error.strerror})"
                self.message(f"warning: {what}; lines of the log are lost")


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """All events of a log in order; lines that are not DLLogger's, or torn by a killed run, are left out."""
    events = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            if line.startswith(PREFIX):
                events.append(parse_json(line.removeprefix(PREFIX)))
    return events


def _open_log(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: a line that could not be written is gone, and does not fail again when the file is closed.
        file = path.open("a+b", buffering=0)
        if file.seekable() and (size := file.tell()):  # unlike /dev/stdout in a pipe
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a killed run tore its last line
                file.write(b"\n")
    except OSError as error:
        raise UserError(f"the log {path} cannot be written ({error.strerror})", "choose another folder") from error
    return file


def _plain(value: Any) -> Any:
    """The value in JSON's own types: tensors and numpy scalars read, paths and the rest as text, NaN as a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # of PyTorch and numpy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
