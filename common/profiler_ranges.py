"""Names for what a stretch of work is, as profilers show them.

torch.profiler records them itself; for Nsight's tools `training/metrics/profiling.py` has PyTorch pass them on as NVTX
ranges.
"""

import contextlib

import torch


def named_range(name: str) -> contextlib.AbstractContextManager:
    """A context that a profiler at work shows under this name."""
    # Making a record_function costs microseconds on the host even where nobody records.
    return torch.profiler.record_function(name) if torch.autograd._profiler_enabled() else contextlib.nullcontext()
