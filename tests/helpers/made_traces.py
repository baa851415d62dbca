"""Small traces of a GPU at work, as torch.profiler and Nsight Systems write them.

The SQLite files are made by NVIDIA's description of what `nsys export --type sqlite` writes, not by nsys.
"""

import json
import sqlite3
from contextlib import closing


def event(category, name, start, duration, **arguments):
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "ts": start,
        "dur": duration,
        "pid": 1,
        "tid": 1,
        "args": arguments,
    }


def launch(correlation, start, name="cudaLaunchKernel"):
    return event("cuda_runtime", name, start, 3, correlation=correlation)


def kernel(correlation, name, start, duration, category="kernel"):
    return event(category, name, start, duration, correlation=correlation, device=0)


# Two steps; times in microseconds. The device is behind the host: each launch lies within the range it counts for.
GPU_EVENTS = [
    event("user_annotation", "step 1", 0, 100),
    event("user_annotation", "data", 0, 10),
    event("user_annotation", "forward", 10, 40),
    event("user_annotation", "backward", 50, 40),
    event("user_annotation", "step 2", 100, 100),
    event("user_annotation", "forward", 110, 40),
    event("gpu_user_annotation", "forward", 100, 500),
    launch(1, 5, "cudaMemcpyAsync"),
    launch(2, 20),
    launch(3, 60),
    event("cuda_driver", "cuLaunchKernelEx", 120, 3, correlation=4),
    kernel(1, "Memcpy HtoD (Pageable -> Device)", 15, 5, "gpu_memcpy"),
    kernel(2, "void gemm<128>(int)", 30, 40),  # 30 to 70
    kernel(3, "void gemm<64>(int)", 60, 20),  # 60 to 80: on another stream, 10 of them at the same time
    kernel(4, "void add<4>(int)", 180, 20),  # 180 to 200
    {"ph": "M", "name": "process_name", "pid": 1},
]
DEVICES = [{"id": 0, "name": "NVIDIA H200"}, {"id": 1, "name": "NVIDIA T4"}]


def write_trace(path, events=GPU_EVENTS, **content):
    path.write_text(json.dumps({"traceEvents": events, **content}), encoding="utf-8")
    return path


def tables(runtime=True):
    """The tables and columns of Nsight Systems' export that are read, and some that are not."""
    yield "CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL)"
    yield (
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, streamId INT, correlationId INT, "
        "globalPid INT, demangledName INT, shortName INT)"
    )
    if runtime:
        yield (
            "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INT, end INT, eventClass INT, globalTid INT, "
            "correlationId INT, nameId INT)"
        )
    yield (
        "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT, end INT, deviceId INT, correlationId INT, globalPid INT, "
        "bytes INT, copyKind INT)"
    )
    yield "CREATE TABLE NVTX_EVENTS (start INT, end INT, eventType INT, text TEXT, globalTid INT, textId INT)"
    yield "CREATE TABLE TARGET_INFO_GPU (vmId INT, id INT, name TEXT, busLocation TEXT)"


def process(number):
    """globalPid of a process; a thread's globalTid is that and its own number."""
    return (1 << 56) | (number << 24)


def write_nsys(path, processes=((500, 0),)):
    """GPU_EVENTS as nsys would have them, of each (process, device), the later ones a second later each."""
    with closing(sqlite3.connect(path)) as database:
        for statement in tables():
            database.execute(statement)
        strings = {}

        def string(value):
            if value not in strings:
                strings[value] = len(strings) + 1
                database.execute("INSERT INTO StringIds VALUES (?, ?)", (strings[value], value))
            return strings[value]

        database.executemany("INSERT INTO TARGET_INFO_GPU VALUES (0, ?, ?, '')", [(1, "NVIDIA T4"), (0, "NVIDIA H200")])
        for place, (number, device) in enumerate(processes):
            pid, tid, offset = process(number), process(number) + number, place * 10**9 + 10**12
            for one in GPU_EVENTS:
                if one["ph"] == "M":
                    continue
                start, end = offset + one["ts"] * 1000, offset + (one["ts"] + one["dur"]) * 1000
                number_of_launch = one["args"].get("correlation")
                if one["cat"] == "kernel":
                    row = (start, end, device, 7, number_of_launch, pid, string(one["name"]), string("short"))
                    database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?,?,?,?,?,?,?,?)", row)
                elif one["cat"] == "gpu_memcpy":
                    row = (start, end, device, number_of_launch, pid, 8, 1)
                    database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?,?,?,?,?,?,?)", row)
                elif one["cat"] in ("cuda_runtime", "cuda_driver"):
                    row = (start, end, 0, tid, number_of_launch, string(one["name"]))
                    database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?,?,?,?,?,?)", row)
                elif one["cat"] == "user_annotation":
                    # As PyTorch's emit_nvtx names them; the text is in place or in StringIds.
                    name = f"{one['name']}, op_id = {start % 97}"
                    text = (name, tid, None) if one["name"] == "forward" else (None, tid, string(name))
                    database.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, ?, ?, ?)", (start, end, *text))
            mark = (offset, None, 34, "a mark has no end", tid, None)
            database.execute("INSERT INTO NVTX_EVENTS VALUES (?,?,?,?,?,?)", mark)
        database.commit()
    return path
