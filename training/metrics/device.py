"""What is asked of a device around a measurement, whichever it is."""

import torch


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished everything queued; a CPU has when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Most bytes that PyTorch had allocated and reserved on this GPU since the process started; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_memory_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_memory_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }
