"""A GPU's name that is the same in every process and for the driver; indices change with CUDA_VISIBLE_DEVICES."""

import torch


def gpu_uuid(device: torch.device) -> str | None:
    """As NVML and `nvidia-smi -L` spell it, "GPU-" first; None of a CPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None
