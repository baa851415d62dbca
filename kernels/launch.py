"""Where Triton's kernels can run, and with how many programs those that take their work in turns are launched.

Triton comes with PyTorch for CUDA and with no other. So nothing imports it but the kernels, and nobody imports these
before `triton_problem` was asked.
"""

import functools
import importlib.util
import os

import torch

MINIMUM_CAPABILITY = (8, 0)  # bf16 products, and what the kernels have been tuned for
HOPPER = 9  # the major number of its capability

INTERPRETED_PROCESSORS = 2  # on a CPU: enough to have more than one program, few enough to have several rounds


def triton_problem(device: torch.device) -> str | None:
    """Why kernels written in Triton cannot run on this device, for a sentence to go on from; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "they need Triton, which PyTorch for CUDA brings along and this one did not"
    if device.type != "cuda":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return f"they run on NVIDIA GPUs only, and this run is on {device.type}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < MINIMUM_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"they need an NVIDIA GPU of compute capability 8.0 or more, not {name}"
    return None


def is_hopper(device: torch.device) -> bool:
    """Whether it is an H100, H200 or GH200, which the kernels are made for and were measured on."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device)[0] == HOPPER


def default_kernels(device: torch.device, dtype: torch.dtype) -> str:
    """The faster by docs/performance-log.md: `triton` on Hopper in 16 bits, else `torch`."""
    is_measured = dtype.itemsize == 2 and is_hopper(device) and triton_problem(device) is None
    return "triton" if is_measured else "torch"


@functools.cache
def n_resident_programs(device: torch.device, per_processor: int) -> int:
    """`per_processor` for each streaming multiprocessor of the device, so that all of them run at once."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS * per_processor
    return torch.cuda.get_device_properties(device).multi_processor_count * per_processor
