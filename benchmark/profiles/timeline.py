"""Traces of torch.profiler and Nsight Systems to a summary of the time line: when the GPU worked, and when it waited.

Both record the same three things: what ran on the device and when, when the host launched it, and named ranges on the
host. Work belongs to the range in which it was launched, not to that in which it ran: the GPU is behind. The backward
pass is launched by a thread of autograd's own, so ranges count by time, whatever thread they are of; the parts of a
step follow each other, and cannot be mixed up. On a CPU, what an operator does by itself is the work.
"""

import dataclasses
import gzip
import itertools
import json
import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.profiles.nsight_compute import short_name
from common.errors import UserError
from training.metrics.step_times import PARTS

SCHEMA = 1
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
KERNELS, RUNTIME = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME"  # Nsight Systems' tables
# What PyTorch puts behind a range's name when it passes it on to NVTX.
NVTX_SUFFIX = re.compile(r", (?:seq|op_id|sizes|input_op_ids) = .*")
PROCESS = 24  # bits of Nsight Systems' globalPid and globalTid that lie below the process


@dataclasses.dataclass(frozen=True)
class Work:
    """Something that ran; all times in seconds of one clock."""

    name: str
    start: float
    end: float
    launched: float
    count: int = 1
    """0 for what is the same call again, after others that it made."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a profiler recorded."""

    source: str
    device: str | None
    work: list[Work]
    """Of the GPU; where there is none, of the CPU's operators, each without those it calls."""
    ranges: list[tuple[str, float, float]]
    """Name, start and end on the host."""
    processes: int = 1
    """With work on a GPU, of which this is the first."""


def summarise(trace: Trace, path: Path) -> dict[str, Any]:
    """What timeline.json holds.

    Raises:
        UserError: nothing ran.
    """
    if not trace.work:
        raise UserError(f"{path} has no work in it, of a GPU or a CPU", "profile steps that run")
    busy = union((work.start, work.end) for work in trace.work)
    gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(busy)]
    span = busy[-1][1] - busy[0][0]
    busy_seconds = sum(end - start for start, end in busy)
    steps = sorted((r for r in trace.ranges if r[0].startswith("step ")), key=lambda r: r[1])
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "timeline",
        "source": trace.source,
        "file": path.name,
        "device": trace.device,
        "processes": trace.processes,
        "span_seconds": span,
        "busy_seconds": busy_seconds,
        "idle_seconds": span - busy_seconds,
        "launch_gaps": _gaps(gaps),
        "steps": _steps(trace.work, steps),
        "kernels": _kernels(trace.work),
    }
    if parts := _parts(trace, max(1, len(steps))):
        summary["parts"] = parts
    return summary


def union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The intervals' union, as disjoint ones in rising order; those that touch are one."""
    joined: list[list[float]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return [(start, end) for start, end in joined]


def _gaps(gaps: Sequence[float]) -> dict[str, float]:
    found: dict[str, float] = {"count": len(gaps), "seconds": sum(gaps)}
    if gaps:
        p50, p95, most = np.percentile(gaps, [50, 95, 100])
        found |= {"p50": float(p50), "p95": float(p95), "max": float(most)}
    return found


def _within(work: Iterable[Work], ranges: Sequence[tuple[str, float, float]]) -> list[list[Work]]:
    """The work launched in each of the ranges, which do not overlap and are in order."""
    starts = np.array([start for _, start, _ in ranges])
    found: list[list[Work]] = [[] for _ in ranges]
    for item in work:
        place = int(np.searchsorted(starts, item.launched, side="right")) - 1
        if place >= 0 and item.launched <= ranges[place][2]:
            found[place].append(item)
    return found


def _steps(work: Sequence[Work], steps: Sequence[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """What each step took of the device, and how long that waited for the step's first work after the last one's."""
    found = []
    last_end: float | None = None
    for (name, _, _), items in zip(steps, _within(work, steps), strict=True):
        if not items:
            continue
        busy = union((item.start, item.end) for item in items)
        found.append(
            {
                "name": name,
                "seconds": busy[-1][1] - busy[0][0],
                "busy_seconds": sum(end - start for start, end in busy),
                "idle_before_seconds": None if last_end is None else max(0.0, busy[0][0] - last_end),
            }
        )
        last_end = busy[-1][1]
    return found


def _parts(trace: Trace, n_steps: int) -> dict[str, float]:
    """Mean device seconds per step of the work launched in each part; that of backward's own thread by its time."""
    ranges = sorted((r for r in trace.ranges if r[0] in PARTS), key=lambda r: r[1])
    seconds: defaultdict[str, float] = defaultdict(float)
    for (name, _, _), items in zip(ranges, _within(trace.work, ranges), strict=True):
        seconds[name] += sum(item.end - item.start for item in items)
    return {name: seconds[name] / n_steps for name in PARTS if name in seconds}


def _kernels(work: Sequence[Work]) -> list[dict[str, Any]]:
    launches: defaultdict[str, int] = defaultdict(int)
    seconds: defaultdict[str, float] = defaultdict(float)
    for item in work:
        name = short_name(item.name)
        launches[name] += item.count
        seconds[name] += item.end - item.start
    total = sum(seconds.values())
    kernels = [
        {"name": name, "launches": launches[name], "seconds": taken, "share": taken / total if total else 0.0}
        for name, taken in seconds.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel["seconds"])


def read_torch_trace(path: Path) -> Trace:
    """A trace of torch.profiler (.json, .json.gz).

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        events = [event for event in content["traceEvents"] if event.get("ph") == "X"]
        # A double has room for nanoseconds since the first event, and none for those since 1970.
        began = min((event["ts"] for event in events), default=0.0)
        for event in events:
            event["start"], event["end"] = (event["ts"] - began) / 1e6, (event["ts"] + event["dur"] - began) / 1e6
        return _torch_trace(content.get("deviceProperties", []), events)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error})", "give a trace of torch.profiler"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is no whole trace of torch.profiler ({type(error).__name__})", "profile again with --profile torch"
        ) from error


def _torch_trace(devices: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> Trace:
    launched = {
        event["args"]["correlation"]: event["start"]
        for event in events
        if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {})
    }
    work = [
        Work(event["name"], event["start"], event["end"], launched.get(_correlation(event), event["start"]))
        for event in events
        if event.get("cat") in DEVICE_WORK
    ]
    used = {event.get("args", {}).get("device") for event in events if event.get("cat") == "kernel"}
    names = [entry.get("name") for entry in devices if not used or entry.get("id") in used]
    if not work:
        work, names = _operators(events), ["CPU"]
    ranges = [
        (event["name"], event["start"], event["end"]) for event in events if event.get("cat") == "user_annotation"
    ]
    return Trace("torch", names[0] if names else None, work, ranges)


def _correlation(event: dict[str, Any]) -> Any:
    return event.get("args", {}).get("correlation")


def _operators(events: Sequence[dict[str, Any]]) -> list[Work]:
    """The CPU's operators in the stretches in which they run by themselves, without those that they call."""
    by_thread: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            by_thread[event.get("pid"), event.get("tid")].append(event)
    work = []
    for operators in by_thread.values():
        # Outer ones first. An open one is: name, end, since when it has run by itself, and 1 until it is counted.
        open_ones: list[list[Any]] = []
        for event in sorted(operators, key=lambda event: (event["start"], -event["end"])):
            start, end = event["start"], event["end"]
            _close(open_ones, start, work)
            if open_ones:
                _note(work, open_ones[-1], start)
            open_ones.append([event["name"], end, start, 1])
        _close(open_ones, float("inf"), work)
    return work


def _close(open_ones: list[list[Any]], now: float, work: list[Work]) -> None:
    """End the operators that are over; the one around each goes on by itself."""
    while open_ones and open_ones[-1][1] <= now:
        operator = open_ones.pop()
        _note(work, operator, operator[1])
        if open_ones:
            open_ones[-1][2] = operator[1]


def _note(work: list[Work], operator: list[Any], until: float) -> None:
    name, _, since, count = operator
    if until > since or count:
        work.append(Work(name, since, max(since, until), since, count))
        operator[3] = 0


def read_nsys_sqlite(path: Path) -> Trace:
    """What `nsys export --type sqlite` made of a report.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "StringIds" not in tables:
                raise UserError(f"{path} is no export of Nsight Systems", "make one with nsys export --type sqlite")
            processes = _nsys_processes(database, tables)
            first = processes[0] if processes else None
            return Trace(
                "nsys",
                _nsys_device(database, tables),
                _nsys_work(database, tables, first),
                _nsys_ranges(database, tables, first),
                max(1, len(processes)),
            )
    except sqlite3.Error as error:
        raise UserError(
            f"{path} cannot be read as SQLite ({error})", "export it again: nsys export --type sqlite"
        ) from error


def _nsys_processes(database: sqlite3.Connection, tables: set[str]) -> list[int]:
    """Those that launched kernels, by the GPU's number; of one report, as torchrun's processes all are in one."""
    if KERNELS not in tables:
        return []
    rows = database.execute(
        f"SELECT globalPid >> {PROCESS}, min(deviceId) AS gpu FROM {KERNELS} GROUP BY 1 ORDER BY gpu"
    )
    return [process for process, _ in rows]


def _nsys_work(database: sqlite3.Connection, tables: set[str], process: int | None) -> list[Work]:
    launched: dict[int, int] = {}
    if RUNTIME in tables:  # correlations are numbers within a process
        launched = dict(
            database.execute(f"SELECT correlationId, start FROM {RUNTIME} WHERE globalTid >> {PROCESS} = ?", (process,))
        )
    rows: list[tuple[str, int, int, int]] = []
    if KERNELS in tables:
        rows += database.execute(
            f"SELECT s.value, k.start, k.end, k.correlationId FROM {KERNELS} k "
            f"JOIN StringIds s ON s.id = k.demangledName WHERE k.globalPid >> {PROCESS} = ?",
            (process,),
        )
    for kind in ("memcpy", "memset"):
        if (table := f"CUPTI_ACTIVITY_KIND_{kind.upper()}") in tables:
            found = database.execute(
                f"SELECT start, end, correlationId FROM {table} WHERE globalPid >> {PROCESS} = ?", (process,)
            )
            rows += [(kind, *row) for row in found]
    return [
        Work(name, start / 1e9, end / 1e9, launched.get(correlation, start) / 1e9)
        for name, start, end, correlation in rows
    ]


def _nsys_ranges(database: sqlite3.Connection, tables: set[str], process: int | None) -> list[tuple[str, float, float]]:
    if "NVTX_EVENTS" not in tables:
        return []
    rows = database.execute(
        "SELECT coalesce(e.text, s.value), e.start, e.end FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId "
        f"WHERE e.end IS NOT NULL AND e.globalTid >> {PROCESS} = ?",
        (process,),
    )
    return [(NVTX_SUFFIX.sub("", name), start / 1e9, end / 1e9) for name, start, end in rows if name]


def _nsys_device(database: sqlite3.Connection, tables: set[str]) -> str | None:
    if "TARGET_INFO_GPU" not in tables:
        return None
    row = database.execute("SELECT name FROM TARGET_INFO_GPU ORDER BY id").fetchone()
    return row[0] if row else None
