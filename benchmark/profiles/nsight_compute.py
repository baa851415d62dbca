"""Launches that Nsight Compute measured to a table of kernels and the utilization of the GPU's units."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.nsight_metrics import ONE_OF, SHARES
from benchmark.profiles.kernel_names import short_name
from benchmark.profiles.ncu_csv import COMPLETE, Launch
from common.errors import UserError
from training.metrics.peaks import find_data_sheet

SCHEMA = 1


def summarize(launches: Sequence[Launch], path: Path, gpu: str | None = None) -> dict[str, Any]:
    """What kernels.json holds.

    Args:
        gpu: the name of the device, where the file does not say it.

    Raises:
        UserError: no launch has both a time and cycles.
    """
    whole = [launch for launch in launches if launch.values.keys() >= {"seconds", "cycles"}]
    if not whole:
        raise UserError(
            f"{path} lacks {ONE_OF['seconds'][0]} or {ONE_OF['cycles'][0]}, without which nothing can be weighted",
            COMPLETE,
        )
    device = next((launch.device for launch in whole if launch.device), gpu)
    total = sum(launch.values["seconds"] for launch in whole)
    groups: defaultdict[str, list[Launch]] = defaultdict(list)
    for launch in whole:
        groups[short_name(launch.kernel)].append(launch)
    kernels = [_kernel(name, group, total) for name, group in groups.items()]
    return {
        "schema": SCHEMA,
        "kind": "kernels",
        "source": "ncu",
        "file": path.name,
        "device": device,
        "compute_capability": whole[0].compute_capability,
        "processes": len({launch.process for launch in whole}),
        "launches": len(whole),
        "seconds": total,
        "core_utilisation": weighted(whole),
        "kernels": sorted(kernels, key=lambda kernel: -kernel["seconds"]),
        "ceilings": _ceilings(device),
    }


def weighted(launches: Sequence[Launch]) -> dict[str, float]:
    """Each share over all launches that have it: the sum of share times cycles over the sum of cycles."""
    found = {}
    for quantity in SHARES:
        having = [launch.values for launch in launches if quantity in launch.values]
        cycles = sum(values["cycles"] for values in having)
        if cycles > 0:
            found[quantity] = sum(values[quantity] * values["cycles"] for values in having) / cycles
    return found


def bound(kernel: dict[str, Any], ceilings: dict[str, float]) -> str | None:
    """Where a kernel stands on the roofline: "memory" left of the ridge, "compute" right of it; None: not known."""
    if not ceilings or not kernel.get("dram_bytes") or "flops" not in kernel:
        return None
    ridge = ceilings["tensor_flops_per_second"] / ceilings["dram_bytes_per_second"]
    return "memory" if kernel["flops"] / kernel["dram_bytes"] < ridge else "compute"


def _kernel(name: str, launches: Sequence[Launch], total: float) -> dict[str, Any]:
    seconds = sum(launch.values["seconds"] for launch in launches)
    kernel = {"name": name, "launches": len(launches), "seconds": seconds, "share": seconds / total if total else 0.0}
    for quantity in ("flops", "dram_bytes"):
        if all(quantity in launch.values for launch in launches):
            kernel[quantity] = sum(launch.values[quantity] for launch in launches)
    return kernel | weighted(launches)


def _ceilings(device: str | None) -> dict[str, float]:
    sheet = find_data_sheet(device) if device else None
    if sheet is None:
        return {}
    return {
        "tensor_flops_per_second": sheet.tflops["fp16"] * 1e12,
        "dram_bytes_per_second": sheet.terabytes_per_second * 1e12,
    }
