"""Which ranks are slower than the others, from what each measured of itself.

All ranks have the same step times, as the fast ones wait in the reduction for the slow one. What differs is the time
that a rank needs for its own work, and a GPU that is slow mostly says why by its clocks.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SLOWER = 1.1


def rank_figures(parts: Mapping[str, float], telemetry: Mapping[str, Any]) -> dict[str, Any]:
    """What a rank tells the others: `busy_seconds` of a step, without the reduction, and its GPU's clocks."""
    gpu = telemetry.get("gpu", {})
    figures = {"busy_seconds": sum(seconds for name, seconds in parts.items() if name != "reduction")}
    if "sm_clock_mhz" in gpu:
        figures |= {"sm_clock_mhz": gpu["sm_clock_mhz"]["mean"], "throttle_reasons": gpu["throttle_reasons"]}
    return figures


def slow_ranks(ranks: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> Iterator[str]:
    """A sentence for each rank that takes a tenth longer than the median, of two ranks than the faster one.

    Args:
        ranks: `rank_figures` of each; none where nothing was measured, or there is one rank.
        hosts: of each.
    """
    usual = statistics.median_low(rank["busy_seconds"] for rank in ranks) if ranks else 0.0
    for number, rank in enumerate(ranks):
        if rank["busy_seconds"] > SLOWER * usual:
            seconds = rank["busy_seconds"]
            clocks = f", at {rank['sm_clock_mhz']:,.0f} MHz" if "sm_clock_mhz" in rank else ""
            reasons = f" ({', '.join(rank['throttle_reasons'])})" if rank.get("throttle_reasons") else ""
            yield (
                f"rank {number} on host {hosts[number]} takes {seconds:.4f} s for its own work in a step{clocks}"
                f"{reasons}, {seconds / usual - 1:.0%} more than the usual {usual:.4f} s; the other ranks wait for it."
            )
