"""How long each step takes, and which part of it how long, on the device's own time line.

A host that runs ahead of a GPU knows only when it queued the work. So marks are put into the GPU's queue between the
parts of a step (CUDA events), and read once the GPU has come past them: nobody waits. On a CPU a mark is the time.

A part is what lies between two marks on the device. "data" so is the time in which the device waited for the next batch
and took it in, not the time that a loader worked in the background; and "reduction" is what is left of it when the last
gradient has been computed, not what is hidden behind the backward pass. A CUDA graph, which takes no marks inside, is
"forward_backward".
"""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from common.profiler_ranges import named_range

PARTS = ("data", "forward", "backward", "forward_backward", "reduction", "optimizer")
PERCENTILES = (("min", 0), ("p5", 5), ("p50", 50), ("p95", 95), ("p99", 99), ("max", 100))


class StepTimes:
    """Times steps and their parts between `start` and `stop`; before and after, a part is only named for profilers.

    Args:
        device: whose time line counts.
        clock: seconds, monotonic, for a device without events.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self._marks = _CudaMarks(device) if device.type == "cuda" else _ClockMarks(clock)
        self._runs = False
        self._step_began: Any = None
        self._parts: list[tuple[str, Any, Any]] = []
        self._reduction_began: Any = None
        self._unread: deque[tuple[Any, Any, list[tuple[str, Any, Any]]]] = deque()
        self._step_seconds: list[float] = []
        self._part_seconds: defaultdict[str, float] = defaultdict(float)

    def start(self) -> None:
        """The next step begins now."""
        self._runs = True
        self._begin_step()

    def stop(self) -> None:
        """What comes is not timed, until the next `start`; a step that is under way is forgotten."""
        self._runs = False

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside, and what it queues on the device, is this part of the step: one of PARTS."""
        with named_range(name):
            if not self._runs:
                yield
                return
            began = self._marks.new()
            self._reduction_began = None
            yield
            if not self._runs:
                return
            ended = self._marks.new()
            if self._reduction_began is not None:
                self._parts.append(("reduction", self._reduction_began, ended))
                ended = self._reduction_began
            self._parts.append((name, began, ended))

    def begin_reduction(self) -> None:
        """Within the backward part: all gradients are computed, and the rest of the part waits for other ranks."""
        if self._runs:
            self._reduction_began = self._marks.new()

    def end_step(self) -> None:
        """The step that runs is queued, and the next begins."""
        if not self._runs:
            return
        ended = self._marks.new()
        self._unread.append((self._step_began, ended, self._parts))
        self._begin_step(ended)
        while self._unread and self._marks.passed(self._unread[0][1]):
            self._read(*self._unread.popleft())

    def discard_step(self) -> None:
        """The step that runs came to nothing; the next begins now."""
        if self._runs:
            self._begin_step()

    def percentiles(self) -> dict[str, float]:
        """Seconds of a step, by the names of PERCENTILES; none where no step was timed. Waits for the device."""
        self._read_all()
        if not self._step_seconds:
            return {}
        values = np.percentile(self._step_seconds, [percent for _, percent in PERCENTILES])
        return {name: float(value) for (name, _), value in zip(PERCENTILES, values, strict=True)}

    def mean_parts(self) -> dict[str, float]:
        """Mean seconds of each part in a step, for the parts there were. Waits for the device."""
        self._read_all()
        n_steps = len(self._step_seconds)
        return {name: self._part_seconds[name] / n_steps for name in PARTS if name in self._part_seconds}

    def _begin_step(self, mark: Any = None) -> None:
        self._step_began = self._marks.new() if mark is None else mark
        self._parts = []

    def _read_all(self) -> None:
        while self._unread:
            self._marks.wait_for(self._unread[0][1])
            self._read(*self._unread.popleft())

    def _read(self, began: Any, ended: Any, parts: list[tuple[str, Any, Any]]) -> None:
        self._step_seconds.append(self._marks.seconds(began, ended))
        for name, part_began, part_ended in parts:
            self._part_seconds[name] += self._marks.seconds(part_began, part_ended)


def mean_of_ranks(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The parts of all ranks' steps in one: the mean of each."""
    names = [name for name in PARTS if any(name in rank for rank in parts)]
    return {name: sum(rank.get(name, 0.0) for rank in parts) / len(parts) for name in names}


class _ClockMarks:
    """Marks of a device that has done its work when a call returns."""

    def __init__(self, clock: Callable[[], float]):
        self.new = clock

    def passed(self, mark: float) -> bool:
        return True

    def wait_for(self, mark: float) -> None:
        pass

    def seconds(self, began: float, ended: float) -> float:
        return ended - began


class _CudaMarks:
    """Marks in the queue of a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def new(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def passed(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def wait_for(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def seconds(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> float:
        return began.elapsed_time(ended) / 1e3
