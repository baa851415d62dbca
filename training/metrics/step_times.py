"""How long each step takes, and which part of it how long, on the device's own time line.

A host that runs ahead of a GPU knows only when it queued the work. So marks are put into the GPU's queue between the
parts of a step (CUDA events), and read once the GPU has come past them: nobody waits. On a CPU a mark is the time.
docs/benchmarking.md defines the parts; a CUDA graph, which takes no marks inside, is "forward_backward".
"""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from common.profiler_ranges import named_range

PARTS = ("data", "forward", "backward", "forward_backward", "reduction", "optimizer")
PERCENTILES = (("min", 0), ("p5", 5), ("p50", 50), ("p95", 95), ("p99", 99), ("max", 100))


Mark = float | torch.cuda.Event
"""Seconds on a device that has done its work when a call returns."""


class StepTimes:
    """Times steps and their parts between `start` and `stop`; before and after, a part is only named for profilers.

    `clock` gives monotonic seconds, for a device without events.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self._device, self._clock, self._has_events = device, clock, device.type == "cuda"
        self._runs = False
        self._reduction_began: Mark | None = None
        self._unread: deque[tuple[Mark, Mark, list[tuple[str, Mark, Mark]]]] = deque()
        self._step_seconds: list[float] = []
        self._part_seconds: defaultdict[str, float] = defaultdict(float)

    def start(self) -> None:
        """The next step begins now."""
        self._runs = True
        self._step_began, self._parts = self._mark(), []

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
            began = self._mark()
            self._reduction_began = None
            yield
            ended = self._mark()
            if self._reduction_began is not None:
                self._parts.append(("reduction", self._reduction_began, ended))
                ended = self._reduction_began
            self._parts.append((name, began, ended))

    def begin_reduction(self) -> None:
        """Within the backward part: all gradients are computed, and the rest of the part waits for other ranks."""
        if self._runs:
            self._reduction_began = self._mark()

    def end_step(self) -> None:
        """The step that runs is queued, and the next begins."""
        if not self._runs:
            return
        ended = self._mark()
        self._unread.append((self._step_began, ended, self._parts))
        self._step_began, self._parts = ended, []
        self._read(waits=False)

    def percentiles(self) -> dict[str, float]:
        """Seconds of a step, by the names of PERCENTILES; none where no step was timed. Waits for the device."""
        self._read(waits=True)
        if not self._step_seconds:
            return {}
        return {name: float(np.percentile(self._step_seconds, percent)) for name, percent in PERCENTILES}

    def mean_parts(self) -> dict[str, float]:
        """Mean seconds of each part in a step, for the parts there were. Waits for the device."""
        self._read(waits=True)
        n_steps = len(self._step_seconds)
        return {name: self._part_seconds[name] / n_steps for name in PARTS if name in self._part_seconds}

    def _mark(self) -> Mark:
        if not self._has_events:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, waits: bool) -> None:
        """Read the marks of the steps that the device has done, or of all."""
        while self._unread and (waits or not self._has_events or self._unread[0][1].query()):
            began, ended, parts = self._unread.popleft()
            if self._has_events:
                ended.synchronize()
            self._step_seconds.append(self._seconds(began, ended))
            for name, part_began, part_ended in parts:
                self._part_seconds[name] += self._seconds(part_began, part_ended)

    def _seconds(self, began: Mark, ended: Mark) -> float:
        return began.elapsed_time(ended) / 1e3 if self._has_events else ended - began


def mean_of_ranks(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The parts of all ranks' steps in one: the mean of each."""
    names = [name for name in PARTS if any(name in rank for rank in parts)]
    return {name: sum(rank.get(name, 0.0) for rank in parts) / len(parts) for name in names}
