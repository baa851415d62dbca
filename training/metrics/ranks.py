"""Which ranks are slower than the others, or sick, from what each measured of itself.

All ranks have the same step times, as the fast ones wait in the reduction for the slow one. What differs is the time
that a rank needs for its own work: the same matmul on each (`probe`), or its part of the steps (`rank_figures`). A GPU
that is slow mostly says why by its clocks.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from common.work import Matmul
from training.distributed.world import World
from training.metrics.gpu_telemetry import GpuTelemetry
from training.metrics.measured_peak import seconds_of_matmul

SLOWER = 1.1
SIZE_ON_GPU, SIZE_ON_CPU = 8192, 512
STEPS_BETWEEN_PROBES = 1000  # of GPUs; processes that share a CPU's cores say nothing of each other


def steps_between_probes(asked: int | None, world_size: int, device: torch.device) -> int | None:
    """None: ranks are not probed."""
    usual = STEPS_BETWEEN_PROBES if device.type == "cuda" else 0
    return ((usual if asked is None else asked) or None) if world_size > 1 else None


def probe(world: World, device: torch.device, dtype: torch.dtype, host: str) -> list[str]:
    """A sentence for each rank that is slow at a matmul, or whose GPU's memory has failed. All ranks call it.

    Takes some fifth of a second.
    """
    size = SIZE_ON_GPU if device.type == "cuda" else SIZE_ON_CPU
    seconds = seconds_of_matmul(Matmul("probe", size, size, size), dtype, device)
    figures = {"busy_seconds": seconds, **GpuTelemetry.of_device(device).snapshot()}
    found = world.gather((figures, host))
    ranks, hosts = zip(*found, strict=True)
    sick = [
        f"the GPU of {_name(rank, hosts)} has had {figures['memory_errors']:,} memory errors that could not be "
        "corrected; look at nvidia-smi -q -d ECC there, and reset or replace it."
        for rank, figures in enumerate(ranks)
        if figures.get("memory_errors")
    ]
    return [*slow_ranks(ranks, hosts, f"a matmul of {size:,}"), *sick]


def rank_figures(parts: Mapping[str, float], telemetry: Mapping[str, Any]) -> dict[str, Any]:
    """What a rank tells the others: `busy_seconds` of a step, without the reduction, and its GPU's clocks."""
    gpu = telemetry.get("gpu", {})
    figures = {"busy_seconds": sum(seconds for name, seconds in parts.items() if name != "reduction")}
    if "sm_clock_mhz" in gpu:
        figures |= {"sm_clock_mhz": gpu["sm_clock_mhz"]["mean"], "throttle_reasons": gpu["throttle_reasons"]}
    return figures


def slow_ranks(
    ranks: Sequence[Mapping[str, Any]], hosts: Sequence[str], work: str = "its own work in a step"
) -> Iterator[str]:
    """A sentence for each rank that takes a tenth longer than the median, of two ranks than the faster one.

    Args:
        ranks: `busy_seconds` of each for the same work, and what is known of its GPU; none where nothing was measured.
        hosts: of each.
        work: what took that long.
    """
    usual = statistics.median_low(rank["busy_seconds"] for rank in ranks) if ranks else 0.0
    for number, rank in enumerate(ranks):
        if rank["busy_seconds"] > SLOWER * usual:
            seconds = rank["busy_seconds"]
            clocks = f", at {rank['sm_clock_mhz']:,.0f} MHz" if "sm_clock_mhz" in rank else ""
            reasons = f" ({', '.join(rank['throttle_reasons'])})" if rank.get("throttle_reasons") else ""
            yield (
                f"{_name(number, hosts)} takes {seconds:.4g} s for {work}{clocks}{reasons}, "
                f"{seconds / usual - 1:.0%} more than the usual {usual:.4g} s; the other ranks wait for it."
            )


def _name(rank: int, hosts: Sequence[str]) -> str:
    return f"rank {rank} on host {hosts[rank]}"
