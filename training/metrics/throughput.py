"""One definition of throughput, used everywhere.

Sequences processed in a window of optimizer steps, over the seconds of wall clock between two synchronizations of the
device. Checkpoints, evaluation and profiled steps inside it stop the clock. Padding is never counted: the loader states
the real tokens of each batch as Python integers, so that nothing here waits for the device but the window's two ends
and its pauses.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from common.words import counted
from common.work import Work
from training.metrics.gpu_telemetry import GpuTelemetry, of_all_gpus
from training.metrics.ranks import rank_figures
from training.metrics.step_times import StepTimes, mean_of_ranks


class ThroughputMeter:
    """Measures the optimizer steps start + 1 to stop of this process.

    Steps are counted, and with start 0 timed, from the making of the meter, so a resumed run warms up again.

    Args:
        stop: the last step of the window; None: the last one there is.
        flops: the floating-point operations of a `Work`; None: not reported.
        device: what is synchronized, and whose memory is reported.
        times, telemetry: also time each step and its parts, and watch the GPU, while the window is open.
        left_out: steps that are not measured, as a profiler slows them; by how many were taken before.
    """

    def __init__(
        self,
        start: int,
        stop: int | None,
        flops: Callable[[Work], float] | None,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[torch.device], None] | None = None,
        times: StepTimes | None = None,
        telemetry: GpuTelemetry | None = None,
        left_out: range = range(0),
    ):
        self.start, self.stop, self.flops, self.device, self.left_out = start, stop, flops, device, left_out
        self._clock = clock
        self._synchronize = synchronize or torch.get_device_module(device).synchronize
        self._times = times or StepTimes(device, clock)
        self._telemetry = telemetry or GpuTelemetry()
        self._finished_steps = self._measured_steps = 0
        self._work = Work()
        self._seconds = 0.0
        self._running_since: float | None = None
        if self._next_is_measured:
            self._run_clock()

    def end_step(self, work: Work) -> None:
        """An optimizer step on so much was queued. Synchronizes at the window's two ends, and around steps left out."""
        self._finished_steps += 1
        if self._is_open:
            self._times.end_step()
            self._work += work
            self._measured_steps += 1
            if not self._next_is_measured:
                self._stop_clock()
        elif self._next_is_measured:
            self._run_clock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside (a checkpoint, an evaluation) out of the measured time."""
        is_open = self._is_open
        if is_open:
            self._stop_clock()
        yield
        if is_open:
            self._run_clock()

    def result(self, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> dict[str, Any]:
        """Close the window if it is still open, and give the figures that docs/benchmarking.md defines.

        Where nothing was measured they are `measured_steps` 0 and `not_measured`, a sentence that says why. `gather`
        makes of a value those of all ranks, which all must call this; their work is added up.
        """
        if self._is_open:
            self._stop_clock()
        if not self._measured_steps:
            ran = counted(self._finished_steps, "step")
            what = f"of {ran} of this run, none after step {self.start} ran unprofiled"
            remedy = "lower --benchmark_start, profile fewer or run more"
            return {"measured_steps": 0, "not_measured": f"throughput was not measured: {what}; {remedy}"}
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
        if self.device.type == "cuda":
            result["peak_memory_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
            result["peak_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
        result["step_seconds_percentiles"] = self._times.percentiles()
        own_parts, own_telemetry = self._times.mean_parts(), self._telemetry.result()
        parts = mean_of_ranks(gather(own_parts))
        result["part_seconds"] = parts | {"other": max(0.0, result["step_seconds"] - sum(parts.values()))}
        result |= of_all_gpus(gather(own_telemetry))
        if len(shares) > 1:
            result["ranks"] = gather(rank_figures(own_parts, own_telemetry))
        if "energy_joules" in result:
            result["sequences_per_joule"] = work.n_sequences / result["energy_joules"]
        return result

    @property
    def _next_is_measured(self) -> bool:
        done = self._finished_steps
        in_window = self.start <= done and (self.stop is None or done < self.stop)
        return in_window and done not in self.left_out

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
