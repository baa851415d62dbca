"""A profiler around some steps: torch's, which writes a trace, or whichever waits for cudaProfilerStart.

Nsight's tools follow a whole process and fill the disk with what nobody asked about, so they are told to wait for
these two calls (`nsys profile --capture-range cudaProfilerApi`). Between them PyTorch hands every named range on to
Nsight as an NVTX range: the steps, their parts, the layers, and each operator.
"""

import contextlib
import operator
from pathlib import Path

import torch


class ProfiledSteps:
    """Profiles `n_steps` steps of this process after the first `start`.

    Args:
        kind: "torch", "cuda" for Nsight, or None: nothing is profiled.
        folder: where torch's trace goes, as trace_rank0.json, for Perfetto (https://ui.perfetto.dev) and chrome://tracing.
        device: what is waited for before and after.
    """

    def __init__(self, kind: str | None, start: int, n_steps: int, folder: Path, rank: int, device: torch.device):
        self.kind, self.device = kind, device
        self.steps = range(start, start + n_steps) if kind else range(0)
        """Those that are profiled, by how many this process took before."""
        self.trace = folder / f"trace_rank{rank}.json"
        self._finished_steps = 0
        self._began = False
        self._open = contextlib.ExitStack()

    def begin_step(self) -> None:
        """A step, or one more attempt at it, is about to begin."""
        if self._began or self._finished_steps not in self.steps:
            return
        self._began = True
        synchronize = torch.get_device_module(self.device).synchronize
        synchronize(self.device)
        if self.kind == "cuda":
            self._open.enter_context(torch.cuda.profiler.profile())
            self._open.enter_context(torch.autograd.profiler.emit_nvtx())
        else:
            self.trace.parent.mkdir(parents=True, exist_ok=True)
            write = operator.methodcaller("export_chrome_trace", str(self.trace))
            self._open.enter_context(torch.profiler.profile(on_trace_ready=write))
        self._open.callback(synchronize, self.device)  # before the profiler ends

    def end_step(self) -> None:
        """A step was queued."""
        self._finished_steps += 1
        if self._finished_steps == self.steps.stop:
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
