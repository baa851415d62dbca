"""The launches in a CSV of Nsight Compute.

ncu writes one of two forms: a row per launch with a column per metric and a row of units below the header (`--page
raw`), or a row per launch and metric (`--page details`, the default). Both may have lines of ncu's and of the profiled
program's between the rows, come from several processes, have units with prefixes, and numbers as the user's locale
writes them. What is not there is left out; what cannot be read is an error, not a zero.
"""

import csv
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from benchmark.nsight_metrics import ONE_OF, OPERATIONS, SHARES
from common.errors import UserError

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
UNIT = re.compile(r"([numKMGTP]?)(|s|sec|second|byte|inst|hz|cycle|sector|request|thread|op)s?(/.*)?")
# A number that must have been written with a decimal point: the last mark after another one, a second comma, or a point
# without three digits behind it. 1,234 and 1.234 by themselves tell nothing.
DECIMAL_POINT = re.compile(r"[^.]*,[^.]*[,.][^.,]*|[^.,]*\.(?!\d{3}$)[^.,]*")


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
    known = _quantities()
    launches: dict[tuple[str, str], Launch] = {}
    found: list[tuple[Launch, str, str, str]] = []
    for row, units in _rows(path):
        device = row.get("device__attribute_display_name")
        launch = Launch(row["Kernel Name"], row["Process ID"], row.get("CC", ""), device, {})
        launch = launches.setdefault((row["Process ID"], row["ID"]), launch)
        found += [(launch, *metric) for metric in _metrics(row, units) if metric[0] in known]
    if not launches:
        raise UserError(f"{path} has no kernel in it", f"was one launched in the window? {COMPLETE}")
    marks = str.maketrans(".,", ",.") if _has_decimal_comma([text for _, _, text, _ in found], path) else {}
    for launch, metric, text, unit in found:
        number = _number(text.translate(marks))
        if number is not None:
            _add(launch.values, known[metric], number * _scale(unit) * OPERATIONS.get(metric, 1))
    if not any("tensor" in metric for _, metric, _, _ in found if metric in OPERATIONS):
        for launch in launches.values():  # what the CUDA cores did is not what the kernel did
            launch.values.pop("flops", None)
    most = max((launch.values.get(name, 0.0) for launch in launches.values() for name in SHARES), default=0.0)
    if most > MOST:
        raise UserError(
            f"{path} says that {most * 100:,.0f} % of a peak were reached",
            f"are its decimal marks commas? Set LC_ALL=C, and {COMPLETE}",
        )
    return list(launches.values())


def _quantities() -> dict[str, str]:
    """Name of a metric -> the quantity that it stands for."""
    counted = dict.fromkeys(OPERATIONS, "flops")
    return SECTION_NAMES | counted | {metric: quantity for quantity, names in ONE_OF.items() for metric in names}


def _add(values: dict[str, float], quantity: str, number: float) -> None:
    if quantity == "flops":
        values["flops"] = values.get("flops", 0.0) + number
    else:  # where a file has several names of one quantity, the first counts
        values.setdefault(quantity, number / 100 if quantity in SHARES else number)


def _rows(path: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Each row's cells by column, and the units by column; a last row that was cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "give a CSV that ncu wrote") from error
    table = [line for line in lines if re.match(r'"?(ID|\d+)?"?,', line)]
    header: list[str] = []
    units: dict[str, str] = {}
    for index, line in enumerate(table):
        cells = next(csv.reader([line]))
        row = dict(zip(header, cells, strict=False))
        if cells[0] == "ID" and "Kernel Name" in cells:  # of each process, where their files were put together
            header, units = cells, {}
        elif not header:
            continue
        elif not _is_whole(line, cells, header):
            if index < len(table) - 1:
                columns = f"a row of {len(cells)} columns under a header of {len(header)} ({', '.join(cells)[:80]})"
                raise UserError(f"{path} has {columns}", COMPLETE)
        elif cells[0] == "":
            units = row
        else:
            yield row, units
    if not header:
        _refuse(path, lines)


def _is_whole(line: str, cells: Sequence[str], header: Sequence[str]) -> bool:
    if line.count('"') % 2:
        return False
    if "Metric Value" in header:  # ncu leaves out the columns behind it where no rule spoke
        return header.index("Metric Value") < len(cells) <= len(header)
    return len(cells) == len(header) and not line.endswith(",")


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


def _metrics(row: Mapping[str, str], units: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, number as text, and unit of each metric in a row."""
    if "Metric Name" in row:
        return [(row["Metric Name"], row["Metric Value"], row.get("Metric Unit", ""))]
    return [(name, text, units.get(name, "")) for name, text in row.items()]


def _scale(unit: str) -> float:
    """What one of this unit is in its base: seconds, bytes, ones."""
    known = UNIT.fullmatch(unit.strip())
    return PREFIXES[known[1]] if known else 1.0


def _has_decimal_comma(texts: Sequence[str], path: Path) -> bool:
    """Whether the file's numbers are written 1.234,5; alone, 1,234 and 1.234 are taken as English has them."""
    swapped = [text.translate(str.maketrans(".,", ",.")) for text in texts]
    points, commas = (any(map(DECIMAL_POINT.fullmatch, written)) for written in (texts, swapped))
    if points and commas:
        raise UserError(f"{path} has numbers with decimal points and with decimal commas", COMPLETE)
    return commas


def _number(text: str) -> float | None:
    """A number with a decimal point, its digits grouped or not; None for what is none, such as n/a."""
    try:
        value = float(re.sub(r"[\s',]", "", text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
