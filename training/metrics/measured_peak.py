"""What this device does at most, measured in the process that trains on it: the model's own matmuls, and a copy.

No matmul reaches a data sheet's figure, least of all those of a model whose matrices are 1,024 wide. What the model's
own matmuls reach by themselves is the ceiling that a training step can come near.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from common.work import Matmul


def measure_peak(matmuls: Sequence[Matmul], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Time each matmul and a copy, and reset the allocator's peak.

    Returns:
        `products`: name, m, n, k and tflops of each; `matrix_tflops`: of all of them, each as often as a step makes it;
        `copy_bytes_per_second`: read and written.
    """
    seconds = [seconds_of_matmul(matmul, dtype, device) for matmul in matmuls]
    per_step = sum(matmul.count * each for matmul, each in zip(matmuls, seconds, strict=True))
    bytes_per_second = copy_rate(device)
    if device.type == "cuda":  # what comes reports its own memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return {
        "matrix_tflops": sum(matmul.flops * matmul.count for matmul in matmuls) / per_step / 1e12,
        "copy_bytes_per_second": bytes_per_second,
        "products": [
            {"name": matmul.name, "m": matmul.m, "n": matmul.n, "k": matmul.k, "tflops": matmul.flops / each / 1e12}
            for matmul, each in zip(matmuls, seconds, strict=True)
        ],
    }


def seconds_of_matmul(matmul: Matmul, dtype: torch.dtype, device: torch.device, seconds: float = 0.1) -> float:
    """Mean time of one such matmul of random factors: those of zeros take less power, and so run at higher clocks."""
    m, n, k = matmul.m, matmul.n, matmul.k
    left = torch.randn((k, m) if matmul.left_transposed else (m, k), device=device, dtype=dtype)
    right = torch.randn((n, k) if matmul.right_transposed else (k, n), device=device, dtype=dtype)
    left, right = left.T if matmul.left_transposed else left, right.T if matmul.right_transposed else right
    result = torch.empty(m, n, device=device, dtype=dtype)
    return seconds_of(lambda: torch.mm(left, right, out=result), device, seconds)


def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy on this device."""
    n_bytes = 2**30 if device.type == "cuda" else 2**26
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / seconds_of(lambda: target.copy_(source), device)


def seconds_of(work: Callable[[], object], device: torch.device, seconds: float = 0.1) -> float:
    """Mean time of one call, over about so many seconds, if a call takes 0.1 ms or more."""
    mean_seconds(work, 3, device)
    once = max(mean_seconds(work, 3, device), 1e-4)  # what takes less is called for a shorter time
    return mean_seconds(work, max(1, round(seconds / once)), device)


def mean_seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean time of one of so many calls, between two synchronizations of the device."""
    synchronize = torch.get_device_module(device).synchronize
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / times
