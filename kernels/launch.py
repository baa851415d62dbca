"""Where Triton kernels can run, and with how many thread blocks persistent ones are launched.

Triton comes with PyTorch for CUDA and with no other. So only the kernels import it, and they are imported only after
`triton_problem` was asked.
"""

import functools
import importlib.util
import os

import torch

MINIMUM_CAPABILITY = (8, 0)  # bf16 matmuls, and what the kernels have been tuned for
REGISTERS = 65536  # of a multiprocessor, on all of them
MOST_REGISTERS = 255  # of a thread, to which they are given out by eight
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


def n_staying_blocks(n_blocks: int, width: float, tuned: dict[str, int], device: torch.device) -> int:
    """How many thread blocks to launch of a kernel whose thread blocks stay and take turns at `n_blocks` blocks.

    All run at once: in `tuned`, its settings, `blocks_per_multiprocessor` becomes `maxnreg`, with which so many have
    registers. Where one has none, it begins when all others are done, and the pass takes up to twice as long.

    Args:
        width: of a block, as a multiple of what the settings are for. Wider ones need more registers: fewer stay.
    """
    per_multiprocessor = max(1, int(tuned.pop("blocks_per_multiprocessor") / max(1, width)))
    n_threads = per_multiprocessor * tuned["num_warps"] * 32
    tuned["maxnreg"] = min(tuned.get("maxnreg", MOST_REGISTERS), REGISTERS // n_threads // 8 * 8)
    return min(n_blocks, n_multiprocessors(device) * per_multiprocessor)


@functools.cache
def n_multiprocessors(device: torch.device) -> int:
    """How many streaming multiprocessors a GPU has; on a CPU, what tests pretend."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
