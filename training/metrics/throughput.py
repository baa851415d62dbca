"""One definition of throughput, used everywhere.

Sequences processed in a window of optimizer steps, over the seconds of wall clock between two synchronizations of the
device. Compilation and warm-up lie before the window; checkpoints, evaluation and profiled steps inside it stop the
clock. Padding is never counted: the loader states the real tokens of each batch as Python integers, so counting does
not wait for the device, and neither does anything else here but the window's two ends and its pauses.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from common.errors import Problem
from common.work import Work
from training.metrics.device import peak_memory, synchronize
from training.metrics.gpu_telemetry import GpuTelemetry, of_all_gpus
from training.metrics.step_times import StepTimes, mean_of_ranks


def window_problem(start: int, stop: int | None, n_steps: int) -> Problem | None:
    """Why this window measures nothing in a run of `n_steps`; None when it does."""
    if start < 0:
        return Problem(f"--benchmark_start {start} must not be negative.")
    if stop is not None and stop <= start:
        return Problem(f"--benchmark_stop {stop} must be greater than --benchmark_start {start}.")
    if start >= n_steps:
        return Problem(f"--benchmark_start {start} leaves nothing to measure in a run of {n_steps} steps.")
    return None


class ThroughputMeter:
    """Measures the optimizer steps start + 1 to stop of this process.

    `add` each micro-batch, `end_step` after each optimizer step, `result` at the end. Steps are counted from the
    making of the meter, so a resumed run warms up again. Make it right before the loop: with start 0 the clock runs
    from then.

    Args:
        start: optimizer steps before the window: warm-up, compilation, the first allocations.
        stop: the last step of the window; None: the last one there is.
        flops: the floating-point operations of a `Work`, as models/flops.py counts them; None: not reported.
        device: what is synchronized, and whose memory is reported.
        clock: seconds, monotonic.
        synchronize: waits until the device has finished everything queued.
        times: also times each step and its parts, while the window is open.
        telemetry: also watches the GPU, while the window is open.
        left_out: steps that are not measured, as a profiler slows them; by how many were taken before.
    """

    def __init__(
        self,
        start: int,
        stop: int | None,
        flops: Callable[[Work], float] | None,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[torch.device], None] = synchronize,
        times: StepTimes | None = None,
        telemetry: GpuTelemetry | None = None,
        left_out: range = range(0),
    ):
        self.left_out = left_out
        self.start, self.stop, self.flops, self.device = start, stop, flops, device
        self._clock = clock
        self._synchronize = synchronize
        self._times = times or StepTimes(device, clock)
        self._telemetry = telemetry or GpuTelemetry("", None)
        self._finished_steps = 0
        self._work = Work()
        self._unfinished_step = Work()
        self._measured_steps = 0
        self._seconds = 0.0
        self._running_since: float | None = None
        self._closed = False
        if self._next_is_measured:
            self._run_clock()

    def add(self, work: Work) -> None:
        """Count a micro-batch; it belongs to the optimizer step that `end_step` ends next."""
        self._unfinished_step += work

    def end_step(self) -> None:
        """An optimizer step was queued. Synchronizes at the window's two ends, and around steps that are left out."""
        self._finished_steps += 1
        if self._is_open:
            self._times.end_step()
            self._work += self._unfinished_step
            self._measured_steps += 1
            if not self._next_is_measured:
                self._stop_clock()
        elif self._next_is_measured:
            self._run_clock()
        self._unfinished_step = Work()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside (a checkpoint, an evaluation) out of the measured time."""
        if not self._is_open:
            yield
            return
        self._stop_clock()
        try:
            yield
        finally:
            self._run_clock()

    def discard_step(self) -> None:
        """What was added since the last step came to nothing: its time counts, its work does not."""
        self._unfinished_step = Work()
        self._times.discard_step()

    def result(self, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> dict[str, Any]:
        """Close the window if it is still open, and report it.

        Args:
            gather: from a value to those of all ranks, which all must call this; their work is added up.

        Returns:
            `measured_steps`, and with them `seconds`, `step_seconds` (mean), `sequences`, `tokens`, `masked_tokens`,
            `sequences_per_second`, `tokens_per_second`, on several ranks `sequences_per_second_per_gpu`,
            `model_tflops_per_second` of all ranks (where `flops` was given) and this rank's peak memory in bytes on a
            GPU; `step_seconds_percentiles` of this rank; `part_seconds`, the mean over ranks of what each part of a
            step took, with `other` for what was in none; what the telemetry tells of all GPUs, and
            `sequences_per_joule`. Where nothing was measured, `measured_steps` 0 and `not_measured`, a sentence that
            says why.
        """
        if self._is_open:
            self._stop_clock()
        self._closed = True
        if self._measured_steps == 0 or self._seconds <= 0:
            self._telemetry.result()
            return {"measured_steps": 0, "not_measured": self._why_nothing()}
        shares = gather(self._work)
        work, seconds = sum(shares, Work()), self._seconds
        result = {
            "measured_steps": self._measured_steps,
            "seconds": seconds,
            "step_seconds": seconds / self._measured_steps,
            "sequences": work.n_sequences,
            "tokens": work.sum_lengths,
            "masked_tokens": work.n_masked,
            "sequences_per_second": work.n_sequences / seconds,
            "tokens_per_second": work.sum_lengths / seconds,
        }
        if len(shares) > 1:
            result["sequences_per_second_per_gpu"] = work.n_sequences / seconds / len(shares)
        if self.flops is not None:
            result["model_tflops_per_second"] = self.flops(work) / seconds / 1e12
        result |= peak_memory(self.device)
        result["step_seconds_percentiles"] = self._times.percentiles()
        parts = mean_of_ranks(gather(self._times.mean_parts()))
        result["part_seconds"] = parts | {"other": max(0.0, result["step_seconds"] - sum(parts.values()))}
        result |= of_all_gpus(gather(self._telemetry.result()))
        if "energy_joules" in result:
            result["sequences_per_joule"] = work.n_sequences / result["energy_joules"]
        return result

    @property
    def _next_is_measured(self) -> bool:
        done = self._finished_steps
        in_window = self.start <= done and (self.stop is None or done < self.stop)
        return in_window and done not in self.left_out and not self._closed

    @property
    def _is_open(self) -> bool:
        return self._running_since is not None

    def _run_clock(self) -> None:
        self._synchronize(self.device)
        self._telemetry.resume()
        self._times.start()
        self._running_since = self._clock()

    def _stop_clock(self) -> None:
        self._synchronize(self.device)
        self._seconds += self._clock() - self._running_since
        self._running_since = None
        self._times.stop()
        self._telemetry.pause()

    def _why_nothing(self) -> str:
        if self._measured_steps:
            return f"no time passed on the clock during the {self._measured_steps} measured steps"
        if self._finished_steps > self.start:
            return "throughput was not measured: all steps of the window were profiled; profile fewer or run more"
        return (
            f"throughput was not measured: the window opens after step {self.start}, "
            f"and this run ended after {self._finished_steps}; lower --benchmark_start or run more steps"
        )
