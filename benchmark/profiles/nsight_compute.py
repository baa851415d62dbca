"""Nsight Compute's CSV to a table of kernels: their time, the utilization of the GPU's units, operations and bytes.

The file is what scripts/profile_pretrain.sh has ncu write (--page raw --print-units base): ncu's messages, and between
them a row per launch with a column per metric, below a row of names and one of units.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmark.nsight_metrics import CYCLES, OPERATIONS, QUANTITIES, SHARES, TIME
from benchmark.profiles.kernel_names import short_name
from common.errors import UserError
from training.metrics.peaks import find_data_sheet

IDENTITY = ("Process ID", "Kernel Name", "CC")
AGAIN = "measure again with `bash scripts/profile_pretrain.sh ncu`"
UNITS = MappingProxyType({"ns": 1e-9, "%": 1e-2, "cycle": 1.0, "byte": 1.0, "inst": 1.0, "": 1.0})
NUMBER = re.compile(r"(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e[+-]?\d+)?")
MOST = 2.0  # of a share; counters read in several runs of a kernel may go over 1, and not by much


class Launch(NamedTuple):
    """One launch of a kernel; `values` by quantity: seconds, cycles, shares from 0 to 1, dram_bytes, flops."""

    process: str
    kernel: str
    compute_capability: str
    values: dict[str, float]


def read_launches(path: Path) -> list[Launch]:
    """The launches that have a time and cycles, or a UserError. What was not measured of one is absent, not zero."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        table = csv.reader((line for line in lines if line.startswith('"')), strict=True)
        names, units, *rows = [*table] or ([], [])  # without a table, all columns are missing
        launches = list(_launches(names, units, rows))
    except (ValueError, csv.Error) as error:
        said = [line for line in lines if line.startswith("==ERROR==")] or [f"{error}"]
        raise UserError(
            f"{path} is no whole table of ncu's raw page in base units and the locale C ({said[0][:300]})",
            f"ncu writes it when the program has ended, so let it end, or set LAUNCH_COUNT, and {AGAIN}",
        ) from error
    if not launches:
        raise UserError(f"{path} has no kernel with {TIME} and {CYCLES} in it", AGAIN)
    return launches


def _launches(names: Sequence[str], units: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Launch]:
    if missing := [name for name in (*IDENTITY, TIME, CYCLES) if name not in names]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for row in rows:
        cells = dict(zip(names, row, strict=True))
        values: defaultdict[str, float] = defaultdict(float)
        for (name, text), unit in zip(cells.items(), units, strict=True):
            if (name not in QUANTITIES and name not in OPERATIONS) or not re.search(r"\d", text):
                continue  # not asked for, or n/a
            if unit not in UNITS or not NUMBER.fullmatch(text):
                raise ValueError(f"{name} is {text!r} in {unit!r}")
            number = float(text.replace(",", "")) * UNITS[unit]
            if unit == "%" and number > MOST:
                raise ValueError(f"{name} is {text} %")
            values[QUANTITIES.get(name, "flops")] += number * OPERATIONS.get(name, 1)
        if {"seconds", "cycles"} <= values.keys():
            yield Launch(*(cells[name] for name in IDENTITY), dict(values))


def summarize(path: Path, gpu: str | None) -> dict[str, Any]:
    """What kernels.json holds of a file; `gpu` is the device's name, which ncu does not write."""
    launches = read_launches(path)
    ceilings = {}
    if gpu and (sheet := find_data_sheet(gpu)):
        ceilings["tensor_flops_per_second"] = sheet.tflops["fp16"] * 1e12
        ceilings["dram_bytes_per_second"] = sheet.terabytes_per_second * 1e12
    total = sum(launch.values["seconds"] for launch in launches)
    groups: defaultdict[str, list[Launch]] = defaultdict(list)
    for launch in launches:
        groups[short_name(launch.kernel)].append(launch)
    kernels = [{"name": name, **_sums(group, total), **weighted(group)} for name, group in groups.items()]
    return {
        "schema": 1,
        "kind": "kernels",
        "source": "ncu",
        "file": path.name,
        "device": gpu,
        "compute_capability": launches[0].compute_capability,
        "processes": len({launch.process for launch in launches}),
        "launches": len(launches),
        "seconds": total,
        "core_utilisation": weighted(launches),
        "kernels": sorted(kernels, key=lambda kernel: -kernel["seconds"]),
        "ceilings": ceilings,
    }


def weighted(launches: Sequence[Launch]) -> dict[str, float]:
    """Each share over all launches that have it: the sum of share times cycles over the sum of cycles."""
    found = {}
    for share in SHARES:
        having = [(launch.values[share], launch.values["cycles"]) for launch in launches if share in launch.values]
        if cycles := sum(weight for _, weight in having):
            found[share] = sum(value * weight for value, weight in having) / cycles
    return found


def bound(kernel: dict[str, Any], ceilings: dict[str, float]) -> str | None:
    """Where a kernel stands on the roofline: "memory" left of the ridge, "compute" right of it; None: not known."""
    if not ceilings or not kernel.get("dram_bytes") or "flops" not in kernel:
        return None
    ridge = ceilings["tensor_flops_per_second"] / ceilings["dram_bytes_per_second"]
    return "memory" if kernel["flops"] / kernel["dram_bytes"] < ridge else "compute"


def _sums(launches: Sequence[Launch], total: float) -> dict[str, Any]:
    seconds = sum(launch.values["seconds"] for launch in launches)
    sums = {"launches": len(launches), "seconds": seconds, "share": seconds / total if total else 0.0}
    for quantity in ("flops", "dram_bytes"):
        if all(quantity in launch.values for launch in launches):
            sums[quantity] = sum(launch.values[quantity] for launch in launches)
    return sums
