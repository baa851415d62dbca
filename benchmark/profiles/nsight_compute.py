"""Nsight Compute's CSV to a table of kernels and the utilisation of the GPU's units.

ncu writes one of two forms: a row per launch with a column per metric and a row of units below the header (`--page
raw`), or a row per launch and metric (`--page details`, the default). Both may have lines of ncu's own before them,
come from several processes, have units with prefixes, and numbers as the user's locale writes them. What is not there
is left out; what cannot be read is an error, not a zero.
"""

import csv
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from benchmark.nsight_metrics import ONE_OF, OPERATIONS, SHARES
from common.errors import UserError
from training.metrics.peaks import find_data_sheet

SCHEMA = 1
COMPLETE = "measure again with `bash scripts/profile_pretrain.sh ncu`"
MOST = 2.0  # of a share; counters read in several runs of a kernel may go over 1, and not by much
# The names that ncu's own sections give what is asked for.
SECTION_NAMES = MappingProxyType(
    {
        "Duration": "seconds",
        "Elapsed Cycles": "cycles",
        "DRAM Throughput": "dram",
        "Compute (SM) Throughput": "sm",
    }
)
PREFIXES = MappingProxyType(
    {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
)
TIME_UNIT = re.compile(r"([num]?)s(ec(ond)?s?)?$")
PREFIXED_UNIT = re.compile(r"([KMGTP])(byte|inst|hz|cycle|sector|request|thread|op)", re.IGNORECASE)
# Kernels that do whatever they are given: what that was stands among the arguments of their template.
GENERIC = re.compile(
    r"elementwise_kernel|reduce_kernel|multi_tensor_apply_kernel|index_|scatter_gather|distribution_|^Kernel2?$"
)
FUNCTOR = re.compile(r"\b(\w*[fF]unctor\w*|\w+Ops?|\w*_(?:kernel|impl|cuda)\w*|\w*Kernel\w*|cutlass_\w+)\b")
WRAPPER = re.compile(r"[AB]UnaryFunctor|BinaryFunctor|ReduceOp|gpu_kernel_impl\w*")  # of a functor behind it
ARITHMETIC = re.compile(r"\bstd::(plus|minus|multiplies|divides)\b|(?<=, )(plus|minus|multiplies|divides)<")
UNNAMED = re.compile(r"(\(anonymous namespace\)|<unnamed>)::")  # as compilers and ncu write it


@dataclasses.dataclass
class Launch:
    """One launch of a kernel; `values` by quantity: seconds, cycles, shares from 0 to 1, dram_bytes, flops."""

    kernel: str
    process: str
    compute_capability: str
    device: str | None
    values: dict[str, float]


def read_launches(path: Path) -> list[Launch]:
    """The launches in a CSV of ncu.

    Raises:
        UserError: it cannot be read, is no such file, or holds no launch.
    """
    rows = list(_rows(path))
    if not rows:
        raise UserError(f"{path} has no kernel in it", f"was one launched in the window? {COMPLETE}")
    decimal_comma = _has_decimal_comma([text for row in rows for text, _ in row["metrics"].values()], path)
    launches: dict[tuple[str, str], Launch] = {}
    for row in rows:
        identity = (row["Process ID"], row["ID"])
        launch = launches.setdefault(
            identity, Launch(row["Kernel Name"], row["Process ID"], row.get("CC", ""), row.get("device"), {})
        )
        for metric, (text, unit) in row["metrics"].items():
            number = _number(text, decimal_comma)
            if number is not None:
                _add(launch.values, metric, number * _scale(unit))
    if not any("tensor" in metric for row in rows for metric in row["metrics"] if metric in OPERATIONS):
        for launch in launches.values():  # what the CUDA cores did is not what the kernel did
            launch.values.pop("flops", None)
    beyond = [value for launch in launches.values() for name, value in launch.values.items() if name in SHARES]
    if max(beyond, default=0.0) > MOST:
        raise UserError(
            f"{path} says that {max(beyond) * 100:,.0f} % of a peak were reached",
            f"are its decimal marks commas? Set LC_ALL=C, and {COMPLETE}",
        )
    return list(launches.values())


def summarise(launches: Sequence[Launch], path: Path, gpu: str | None = None) -> dict[str, Any]:
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
            f"{COMPLETE}",
        )
    device = next((launch.device for launch in whole if launch.device), gpu)
    total = sum(launch.values["seconds"] for launch in whole)
    groups: dict[str, list[Launch]] = {}
    for launch in whole:
        groups.setdefault(short_name(launch.kernel), []).append(launch)
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


def short_name(kernel: str) -> str:
    """A kernel's name without return type, namespaces, template and parameters; of a generic one, with what it does."""
    plain = UNNAMED.sub("", kernel).removeprefix("void ")
    head = re.split(r"[<(]", plain, maxsplit=1)[0]
    name = head.rsplit("::", 1)[-1].strip()
    if GENERIC.search(name):
        behind = plain[len(head) :]
        told = [functor for functor in FUNCTOR.findall(behind) if functor != name and not WRAPPER.fullmatch(functor)]
        if told:
            operation = ARITHMETIC.search(behind) if name.startswith("multi_tensor") else None
            return f"{name}: {told[0]}" + (f" {operation[1] or operation[2]}" if operation else "")
    return name or kernel


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


def _add(values: dict[str, float], metric: str, number: float) -> None:
    """Enter a metric's value, in its base unit, under the quantity it stands for."""
    if metric in OPERATIONS:
        values["flops"] = values.get("flops", 0.0) + OPERATIONS[metric] * number
        return
    quantity = SECTION_NAMES.get(metric) or next((name for name, metrics in ONE_OF.items() if metric in metrics), None)
    if quantity is not None:
        # Where a file has several names of one quantity, the first of ONE_OF's counts, as when it was chosen.
        values.setdefault(quantity, number / 100 if quantity in SHARES else number)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """A dict per row: the identity of the launch, and `metrics`: name to text and unit.

    A last row that was cut off is left out. What the profiled program printed between the rows is not ncu's.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "give a CSV that ncu wrote") from error
    table = [line for line in lines if re.match(r'"?(ID|\d+)?"?,', line)]
    header: list[str] = []
    units: list[str] = []
    for place, line in enumerate(table):
        row, is_last = next(csv.reader([line])), place == len(table) - 1
        if row[0] == "ID" and "Kernel Name" in row:  # of each process, where their files were put together
            header, units = row, []
        elif not header:
            continue
        elif line.count('"') % 2 or (len(row) != len(header) and not _ends_early(header, row)):
            if not is_last:
                raise UserError(
                    f"{path} has a row of {len(row)} columns under a header of {len(header)} ({', '.join(row)[:80]})",
                    f"{COMPLETE}",
                )
        elif row[0] == "":
            units = row
        elif not (is_last and "Metric Value" not in header and line.endswith(",")):
            yield _row(header, units, row + [""] * (len(header) - len(row)))
    if not header:
        _refuse(path, lines)


def _refuse(path: Path, lines: Sequence[str]) -> NoReturn:
    """Say what a file without ncu's header is."""
    said = [line.removeprefix("==ERROR==").strip() for line in lines if line.startswith("==ERROR==")]
    if said:
        raise UserError(f"{path} holds an error of ncu's and no kernel: {' '.join(said)[:300]}")
    if any(line.startswith("==PROF==") for line in lines):
        raise UserError(
            f"{path} holds ncu's messages and no kernel. ncu writes its table when the program has ended: it was "
            "stopped before that, or no kernel ran in the window. Measure fewer kernels (LAUNCH_COUNT), or wait."
        )
    raise UserError(f"{path} has no header of ncu's (ID, Kernel Name, ...)", "write it with ncu --csv --page raw")


def _ends_early(header: list[str], row: list[str]) -> bool:
    """Whether only the columns behind a metric's value are missing, as ncu leaves them out where no rule spoke."""
    return "Metric Value" in header and header.index("Metric Value") < len(row) < len(header)


def _row(header: list[str], units: list[str], row: list[str]) -> dict[str, Any]:
    cells = dict(zip(header, row, strict=True))
    if "Metric Name" in cells:
        value = (cells["Metric Value"], cells.get("Metric Unit", ""))
        metrics = {cells["Metric Name"]: value} if cells["Metric Name"] else {}
    else:
        metrics = {
            name: (text, unit)
            for name, text, unit in zip(header, row, units or [""] * len(row), strict=True)
            if "__" in name and not name.startswith("device__")
        }
    kept = {name: cells.get(name, "") for name in ("ID", "Process ID", "Kernel Name", "CC")}
    return kept | {"device": cells.get("device__attribute_display_name"), "metrics": metrics}


def _scale(unit: str) -> float:
    """What one of this unit is in its base: seconds, bytes, ones."""
    name = unit.split("/")[0].strip()
    if time := TIME_UNIT.match(name):
        return PREFIXES[time.group(1)]
    if prefixed := PREFIXED_UNIT.match(name):
        return PREFIXES[prefixed.group(1).upper()]
    return PREFIXES.get(name, 1.0) if name in ("K", "M", "G", "T", "P") else 1.0


def _has_decimal_comma(texts: Iterable[str], path: Path) -> bool:
    """Whether the file's numbers are written 1.234,5; alone, 1,234 and 1.234 are taken as English has them."""
    votes = {_decimal_mark(text) for text in texts} - {None}
    if len(votes) > 1:
        raise UserError(f"{path} has numbers with decimal points and with decimal commas", f"{COMPLETE}")
    return votes == {","}


def _decimal_mark(text: str) -> str | None:
    """The decimal mark that a number must have been written with; None where it says nothing of it."""
    marks = re.findall(r"[.,]", text)
    if not re.fullmatch(r"-?[\d.,\s\u00a0\u202f']+([eE][-+]?\d+)?", text) or not marks:
        return None
    if len(set(marks)) == 2:
        return marks[-1]
    if len(marks) > 1:  # a mark that comes twice groups digits
        return "." if marks[0] == "," else ","
    behind = re.split(r"[.,]", text)[1]
    return None if re.fullmatch(r"\d{3}", behind) else marks[0]


def _number(text: str, decimal_comma: bool) -> float | None:
    """A number as the locale writes it; None for what is none, such as n/a."""
    plain = re.sub(r"[\s\u00a0\u202f']", "", text)
    plain = plain.replace(".", "").replace(",", ".") if decimal_comma else plain.replace(",", "")
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None
