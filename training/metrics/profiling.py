"""A profiler around some steps: torch's, which writes a trace, or whichever waits for cudaProfilerStart.

Nsight's tools wait for two calls (`nsys profile --capture-range cudaProfilerApi`). Between them PyTorch hands every
named range on as an NVTX range: the steps, their parts, the layers, each operator.
"""

import contextlib
import operator
from pathlib import Path

import torch

from common.words import counted


class ProfiledSteps:
    """Profiles some steps of this process.

    Args:
        kind: "torch", "cuda" for Nsight, or None: nothing is profiled.
        steps: by how many this process took before.
        trace: the file that torch writes, for Perfetto (https://ui.perfetto.dev) and chrome://tracing.
    """

    def __init__(self, kind: str | None, steps: range, trace: Path, device: torch.device):
        self.kind, self.trace, self.device = kind, trace, device
        self.steps = steps if kind else range(0)
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
            ran = counted(self._finished_steps, "step")
            return f"nothing was profiled: this run ended after {ran}; lower --profile-start"
        return f"trace: {self.trace}" if self.kind == "torch" else "the profiled steps are in the tool's report"
