"""Where Triton kernels can run, and with how many thread blocks persistent ones are launched.

Triton comes with PyTorch for CUDA and with no other. So only the kernels import it, and they are imported only after
`triton_problem` was asked.
"""

import functools
import importlib.util
import os

import torch

MINIMUM_CAPABILITY = (8, 0)  # bf16 matmuls, and what the kernels have been tuned for
INTERPRETED_MULTIPROCESSORS = 2  # on a CPU: enough for several thread blocks, few enough that each has several turns


def triton_problem(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on this device, a clause; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton kernels need the package triton, which PyTorch for CUDA brings along and this one did not"
    if device.type != "cuda":
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return f"Triton kernels run on NVIDIA GPUs only, and this run is on {device.type}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < MINIMUM_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"Triton kernels need an NVIDIA GPU of compute capability 8.0 or more, not {name}"
    return None


@functools.cache
def n_resident_blocks(device: torch.device, per_multiprocessor: int) -> int:
    """Thread blocks that run at once, `per_multiprocessor` on each streaming multiprocessor of the device."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS * per_multiprocessor
    return torch.cuda.get_device_properties(device).multi_processor_count * per_multiprocessor
