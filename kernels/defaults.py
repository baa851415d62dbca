"""What runs when no flag says otherwise: one table by compute capability, filled by measurement.

A GPU that is not in the table gets PyTorch's kernels, which run everywhere. To add one, measure it (benchmark/sweep.py)
and give it a row.
"""

import dataclasses
from types import MappingProxyType

import torch

from kernels.launch import triton_problem


@dataclasses.dataclass(frozen=True)
class FastPaths:
    """The fastest implementations for a device and a dtype, as flags name them."""

    kernels: str = "torch"
    """Of layers and optimizer: `torch` or `triton`."""
    attention: str | None = None
    """A backend of kernels/attention/backends.py; None: `flash` where it runs, else `sdpa`."""
    graph_tokens: int = 0
    """The largest micro-batch, in tokens, for which training steps are recorded as CUDA graphs; 0: none."""


# By major compute capability; in 16 bits only.
MEASURED = MappingProxyType(
    {
        # H100, H200 and GH200, measured on an H200: docs/performance-log.md. At 32,768 tokens graphs bring 1 %, and in
        # fp8 a step no longer waits for a busy host. Larger steps give even that one enough time.
        9: FastPaths(kernels="triton", attention="triton", graph_tokens=32768),
    }
)


def fast_paths(device: torch.device, dtype: torch.dtype) -> FastPaths:
    """The fastest measured paths on this device in this dtype; PyTorch's where nothing was measured or Triton is
    missing."""
    is_measured = dtype.itemsize == 2 and device.type == "cuda" and torch.version.hip is None
    if not is_measured or triton_problem(device) is not None:
        return FastPaths()
    return MEASURED.get(torch.cuda.get_device_capability(device)[0], FastPaths())
