"""A profiler around some steps: torch's, which writes a trace, or whichever waits for cudaProfilerStart.

Nsight's tools follow a whole process and fill the disk with what nobody asked about, so they are told to wait for
these two calls (`nsys profile --capture-range cudaProfilerApi`). Between them PyTorch hands every named range on to
Nsight as an NVTX range: the steps, their parts, the layers, and each operator.
"""

import contextlib
from pathlib import Path

import torch

from common.errors import Problem
from training.metrics.device import synchronize

KINDS = ("cuda", "torch")


class ProfiledSteps:
    """Profiles `n_steps` steps of this process after the first `start`.

    Args:
        kind: one of KINDS; None: nothing is profiled.
        folder: where torch's trace goes, as trace_rank0.json, for Perfetto (https://ui.perfetto.dev) and chrome://tracing.
        rank: this process's.
        device: what is waited for before and after.
    """

    def __init__(self, kind: str | None, start: int, n_steps: int, folder: Path, rank: int, device: torch.device):
        self.kind, self.start, self.end = kind, start, start + n_steps
        self.trace = folder / f"trace_rank{rank}.json"
        self.device = device
        self._finished_steps = 0
        self._began = False
        self._open = contextlib.ExitStack()

    @property
    def steps(self) -> range:
        """Those that are profiled, by how many this process took before."""
        return range(self.start, self.end) if self.kind else range(0)

    def begin_step(self) -> None:
        """A step, or one more attempt at it, is about to begin."""
        if self.kind and not self._began and self._finished_steps == self.start:
            self._begin()

    def end_step(self) -> None:
        """A step was queued."""
        self._finished_steps += 1
        if self._finished_steps == self.end:
            self.close()

    def close(self) -> None:
        """Write what there is, if the steps are under way still."""
        self._open.close()

    def account(self) -> str | None:
        """What became of it, a sentence; None where nothing was to be profiled."""
        if not self.kind:
            return None
        if not self._began:
            return f"nothing was profiled: this run ended after {self._finished_steps} steps; lower --profile-start"
        return f"trace: {self.trace}" if self.kind == "torch" else "the profiled steps are in the tool's report"

    def _begin(self) -> None:
        self._began = True
        synchronize(self.device)
        if self.kind == "cuda":
            self._open.enter_context(torch.cuda.profiler.profile())
            self._open.enter_context(torch.autograd.profiler.emit_nvtx())
        else:
            self._open.enter_context(torch.profiler.profile(on_trace_ready=self._write))
        self._open.callback(synchronize, self.device)  # before the profiler ends

    def _write(self, profile: torch.profiler.profile) -> None:
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self.trace))


def profile_problem(kind: str | None, device: torch.device) -> Problem | None:
    """Why this profiler cannot be used here; None where it can."""
    if kind == "cuda" and device.type != "cuda":
        return Problem("--profile is for Nsight, which needs a GPU", "give --profile torch on a CPU")
    return None
