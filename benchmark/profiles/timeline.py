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
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmark.profiles.kernel_names import short_name
from common.errors import UserError
from training.metrics.step_times import PARTS

SCHEMA = 1
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
# Nsight Systems' tables, and what is read of them.
NSYS_COLUMNS = MappingProxyType(
    {
        "CUPTI_ACTIVITY_KIND_KERNEL": "start, end, deviceId, correlationId, globalPid, demangledName",
        "CUPTI_ACTIVITY_KIND_MEMCPY": "start, end, correlationId, globalPid",
        "CUPTI_ACTIVITY_KIND_MEMSET": "start, end, correlationId, globalPid",
        "CUPTI_ACTIVITY_KIND_RUNTIME": "start, correlationId, globalTid",
        "NVTX_EVENTS": "text, textId, start, end, globalTid",
        "TARGET_INFO_GPU": "id, name",
    }
)
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


def summarize(trace: Trace, path: Path) -> dict[str, Any]:
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
        return _torch_trace(content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error})", "give a trace of torch.profiler"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is no whole trace of torch.profiler ({type(error).__name__})", "profile again with --profile torch"
        ) from error


def _torch_trace(content: dict[str, Any]) -> Trace:
    by_category: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    events = [{"args": {}, **event} for event in content["traceEvents"] if event.get("ph") == "X"]
    # A double has room for nanoseconds since the first event, and none for those since 1970.
    began = min((event["ts"] for event in events), default=0.0)
    for event in events:
        event["start"], event["end"] = (event["ts"] - began) / 1e6, (event["ts"] + event["dur"] - began) / 1e6
        by_category[event.get("cat", "")].append(event)
    launches = [event for name in LAUNCHES for event in by_category[name] if "correlation" in event["args"]]
    launched = {event["args"]["correlation"]: event["start"] for event in launches}
    work = [
        Work(
            event["name"],
            event["start"],
            event["end"],
            launched.get(event["args"].get("correlation"), event["start"]),
        )
        for name in DEVICE_WORK
        for event in by_category[name]
    ]
    used = {event["args"].get("device") for event in by_category["kernel"]}
    devices = [
        entry.get("name") for entry in content.get("deviceProperties", []) if not used or entry.get("id") in used
    ]
    if not work:
        work, devices = _operators(by_category["cpu_op"]), ["CPU"]
    ranges = [(event["name"], event["start"], event["end"]) for event in by_category["user_annotation"]]
    return Trace("torch", devices[0] if devices else None, work, ranges)


def _operators(events: Sequence[dict[str, Any]]) -> list[Work]:
    """The CPU's operators in the stretches in which they run by themselves, without those that they call."""
    by_thread: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        by_thread[event.get("pid"), event.get("tid")].append(event)
    work = []
    for operators in by_thread.values():
        callers: list[dict[str, Any]] = []
        for event in sorted(operators, key=lambda event: (event["start"], -event["end"])):
            event["edges"] = [event["start"]]  # where it starts, and where each call begins and ends
            while callers and callers[-1]["end"] <= event["start"]:
                callers.pop()
            if callers:
                callers[-1]["edges"] += [event["start"], event["end"]]
            callers.append(event)
        for event in operators:
            edges = [*event["edges"], event["end"]]
            stretches = [pair for pair in zip(edges[::2], edges[1::2], strict=True) if pair[1] > pair[0]] or [
                (edges[0], edges[0])
            ]
            work += [Work(event["name"], *pair, pair[0], int(n == 0)) for n, pair in enumerate(stretches)]
    return work


def read_nsys_sqlite(path: Path) -> Trace:
    """What `nsys export --type sqlite` made of a report: of several processes, as torchrun's all are in one report,
    the one on the first GPU.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "StringIds" not in tables:
                raise UserError(f"{path} is no export of Nsight Systems", "make one with nsys export --type sqlite")
            for table in NSYS_COLUMNS.keys() - tables:  # nsys leaves out what it saw none of
                database.execute(f"CREATE TEMP TABLE {table} ({NSYS_COLUMNS[table]})")
            return _nsys_trace(database)
    except sqlite3.Error as error:
        raise UserError(
            f"{path} cannot be read as SQLite ({error})", "export it again: nsys export --type sqlite"
        ) from error


def _nsys_trace(database: sqlite3.Connection) -> Trace:
    processes = database.execute(
        f"SELECT globalPid >> {PROCESS}, min(deviceId) AS gpu FROM CUPTI_ACTIVITY_KIND_KERNEL GROUP BY 1 ORDER BY gpu"
    ).fetchall()
    here = {"process": processes[0][0] if processes else None}
    launched = dict(  # correlations are numbers within a process
        database.execute(
            f"SELECT correlationId, start FROM CUPTI_ACTIVITY_KIND_RUNTIME WHERE globalTid >> {PROCESS} = :process",
            here,
        )
    )
    work = database.execute(
        f"""SELECT s.value, k.start, k.end, k.correlationId
            FROM CUPTI_ACTIVITY_KIND_KERNEL k JOIN StringIds s ON s.id = k.demangledName
            WHERE k.globalPid >> {PROCESS} = :process
            UNION ALL SELECT 'memcpy', start, end, correlationId FROM CUPTI_ACTIVITY_KIND_MEMCPY
            WHERE globalPid >> {PROCESS} = :process
            UNION ALL SELECT 'memset', start, end, correlationId FROM CUPTI_ACTIVITY_KIND_MEMSET
            WHERE globalPid >> {PROCESS} = :process""",
        here,
    )
    ranges = database.execute(
        f"""SELECT coalesce(e.text, s.value) AS name, e.start, e.end
            FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId
            WHERE e.end IS NOT NULL AND name <> '' AND e.globalTid >> {PROCESS} = :process""",
        here,
    )
    device = database.execute("SELECT name FROM TARGET_INFO_GPU ORDER BY id").fetchone()
    return Trace(
        "nsys",
        device[0] if device else None,
        [Work(name, start / 1e9, end / 1e9, launched.get(launch, start) / 1e9) for name, start, end, launch in work],
        [(NVTX_SUFFIX.sub("", name), start / 1e9, end / 1e9) for name, start, end in ranges],
        max(1, len(processes)),
    )
