"""Names for stretches of work, as torch.profiler shows them; `training/metrics/profiling.py` hands them to Nsight."""

import contextlib

import torch


def named_range(name: str) -> contextlib.AbstractContextManager:
    """A context that a profiler at work shows under this name."""
    # Making a record_function costs microseconds on the host even where nobody records.
    return torch.profiler.record_function(name) if torch.autograd._profiler_enabled() else contextlib.nullcontext()
