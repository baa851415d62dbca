"""Traces of torch.profiler and Nsight Systems to a summary of the time line: when the GPU worked, and when it waited.

Work belongs to the named range in which the host launched it, not to that in which it ran: the GPU is behind. The
backward pass is launched by a thread of autograd's own, so ranges count by time, whatever thread they are of; the parts
of a step follow each other, and cannot be mixed up. On a CPU the work is PyTorch's operators, with what they call.
"""

import gzip
import re
import sqlite3
import zlib
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.profiles.kernel_names import short_name
from common.errors import UserError
from common.json_files import parse_json
from training.metrics.step_times import PARTS

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
# What PyTorch puts behind a range's name when it passes it on to NVTX.
NVTX_SUFFIX = re.compile(r", (?:seq|op_id|sizes|input_op_ids) = .*")
ACTIVITY = "CUPTI_ACTIVITY_KIND_"  # in the names of Nsight Systems' tables
PROCESS = 24  # bits of Nsight Systems' globalPid and globalTid that lie below the process


class Trace(NamedTuple):
    """What a profiler recorded; all times in seconds of one clock."""

    source: str
    device: str | None
    work: list[tuple[str, float, float, float]]  # name, start and end of what ran, and when it was launched
    ranges: list[tuple[str, float, float]]  # name, start and end on the host
    processes: int = 1  # with work on a GPU, of which this is the first


def summarize(trace: Trace, path: Path) -> dict[str, Any]:
    """What timeline.json holds; a UserError if nothing ran."""
    if not trace.work:
        raise UserError(f"{path} has no work in it, of a GPU or a CPU", "profile steps that run")
    names, *times = zip(*trace.work, strict=True)
    start, end, launched = map(np.array, times)
    busy = union(start, end)
    gaps = busy[1:, 0] - busy[:-1, 1]
    steps, last_end = [], None
    parts: defaultdict[str, float] = defaultdict(float)
    counted = [each for each in trace.ranges if each[0] in PARTS or each[0].startswith("step ")]
    for name, first, last in sorted(counted, key=lambda each: each[1]):
        inside = (launched >= first) & (launched < last)
        if name in PARTS:
            parts[name] += (end - start)[inside].sum()
        elif inside.any():
            of_step = union(start[inside], end[inside])
            steps.append(
                {
                    "name": name,
                    "seconds": of_step[-1, 1] - of_step[0, 0],
                    "busy_seconds": np.diff(of_step).sum(),
                    "idle_before_seconds": None if last_end is None else max(0.0, of_step[0, 0] - last_end),
                }
            )
            last_end = of_step[-1, 1]
    n_steps = max(1, sum(name not in PARTS for name, _, _ in counted))
    percentiles = zip(("p50", "p95", "max"), np.percentile(gaps, (50, 95, 100)), strict=True) if len(gaps) else ()
    durations, span = end - start, busy[-1, 1] - busy[0, 0]
    kernels, kernel_of = np.unique(list(map(short_name, names)), return_inverse=True)
    launches, seconds = np.bincount(kernel_of).tolist(), np.bincount(kernel_of, durations)
    shares = seconds / (seconds.sum() or 1.0)
    columns = zip(kernels.tolist(), launches, seconds, shares, strict=True)
    rows = [dict(zip(("name", "launches", "seconds", "share"), column, strict=True)) for column in columns]
    return {
        "schema": 1,
        "kind": "timeline",
        "source": trace.source,
        "file": path.name,
        "device": trace.device,
        "processes": trace.processes,
        "span_seconds": span,
        "busy_seconds": np.diff(busy).sum(),
        "idle_seconds": gaps.sum(),
        "launch_gaps": {"count": len(gaps), "seconds": gaps.sum(), **dict(percentiles)},
        "steps": steps,
        "kernels": sorted(rows, key=lambda row: -row["seconds"]),
        **({"parts": {name: parts[name] / n_steps for name in PARTS if name in parts}} if parts else {}),
    }


def union(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n, 2): the union of intervals as disjoint ones in rising order; those that touch are one."""
    order = np.argsort(start)
    start, reached = start[order], np.maximum.accumulate(end[order])
    is_first = np.append(True, start[1:] > reached[:-1])
    return np.stack([start[is_first], reached[np.append(is_first[1:], True)]], axis=1)


def read_torch_trace(path: Path) -> Trace:
    """A trace of torch.profiler (.json, .json.gz); a UserError if it is none, or was cut off."""
    data = path.read_bytes()
    by_category: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        content = parse_json(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        for event in content["traceEvents"]:
            if event.get("ph") == "X":
                times = {"start": event["ts"] / 1e6, "end": (event["ts"] + event["dur"]) / 1e6}
                by_category[event.get("cat", "")].append({"name": "", "args": {}, **event, **times})
    except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is no whole trace of torch.profiler ({type(error).__name__})", "profile again with --profile torch"
        ) from error
    ran = [event for name in DEVICE_WORK for event in by_category[name]]
    used = {event["args"].get("device") for event in by_category["kernel"]}
    devices = [each.get("name") for each in content.get("deviceProperties", []) if not used or each.get("id") in used]
    if not ran:
        ran, devices = _outermost(by_category["cpu_op"]), ["CPU"]
    launches = [event for name in LAUNCHES for event in by_category[name] if "correlation" in event["args"]]
    launched = {event["args"]["correlation"]: event["start"] for event in launches}
    work = [
        (event["name"], event["start"], event["end"], launched.get(event["args"].get("correlation"), event["start"]))
        for event in ran
    ]
    ranges = [(event["name"], event["start"], event["end"]) for event in by_category["user_annotation"]]
    return Trace("torch", devices[0] if devices else None, work, ranges)


def _outermost(operators: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The operators that no other one of their thread has called."""
    reached: defaultdict[Any, float] = defaultdict(float)
    found = []
    for event in sorted(operators, key=lambda event: (event["start"], -event["end"])):
        thread = event.get("pid"), event.get("tid")
        if event["start"] >= reached[thread]:
            found.append(event)
            reached[thread] = event["end"]
    return found


def read_nsys_sqlite(path: Path) -> Trace:
    """What `nsys export --type sqlite` made of a report, or a UserError: of several processes, as torchrun's all are in
    one report, the one on the first GPU."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return _nsys_trace(database)
    except sqlite3.Error as error:
        raise UserError(
            f"{path} is no export of Nsight Systems ({error})", "make one with nsys export --type sqlite"
        ) from error


def _nsys_trace(database: sqlite3.Connection) -> Trace:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    strings = dict(database.execute("SELECT id, value FROM StringIds"))

    def select(columns: str, table: str, rest: str = "", *values: Any) -> list[tuple[Any, ...]]:
        if table not in tables:  # nsys leaves out what it saw none of
            return []
        return database.execute(f"SELECT {columns} FROM {table} {rest}", values).fetchall()

    processes = select(f"globalPid >> {PROCESS}, min(deviceId)", f"{ACTIVITY}KERNEL", "GROUP BY 1 ORDER BY 2")
    of_thread, of_process = (
        (f"WHERE {name} >> {PROCESS} = ?", processes[0][0] if processes else None)
        for name in ("globalTid", "globalPid")
    )
    launched = dict(select("correlationId, start / 1e9", f"{ACTIVITY}RUNTIME", *of_thread))
    work = []
    for kind, name in (("KERNEL", "demangledName"), ("MEMCPY", "'memcpy'"), ("MEMSET", "'memset'")):
        for named, start, end, launch in select(
            f"{name}, start / 1e9, end / 1e9, correlationId", ACTIVITY + kind, *of_process
        ):
            work.append((strings.get(named, named), start, end, launched.get(launch, start)))
    ranges = [
        (NVTX_SUFFIX.sub("", text or strings.get(text_id, "")), start, end)
        for text, text_id, start, end in select("text, textId, start / 1e9, end / 1e9", "NVTX_EVENTS", *of_thread)
        if end is not None
    ]
    devices = select("name", "TARGET_INFO_GPU", "ORDER BY id")
    return Trace("nsys", devices[0][0] if devices else None, work, ranges, max(1, len(processes)))
