"""Summaries of time lines: traces made by hand, with answers worked out by hand, and torch's own of a real run."""

import gzip
import itertools
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from made_traces import DEVICES, event, kernel, tables, write_nsys, write_trace

from benchmark.profiles.timeline import read_nsys_sqlite, read_torch_trace, summarize, union
from common.errors import UserError
from common.profiler_ranges import named_range


def check_gpu_summary(summary):
    microseconds = 1e-6
    assert (summary["schema"], summary["kind"], summary["device"]) == (1, "timeline", "NVIDIA H200")
    assert summary["span_seconds"] == pytest.approx(185 * microseconds)  # 15 to 200
    assert summary["busy_seconds"] == pytest.approx((5 + 50 + 20) * microseconds)
    assert summary["idle_seconds"] == pytest.approx((10 + 100) * microseconds)
    assert summary["launch_gaps"] == pytest.approx(
        {"count": 2, "seconds": 110e-6, "p50": 55e-6, "p95": 95.5e-6, "max": 100e-6}
    )
    first, second = summary["steps"]
    assert (first["name"], first["idle_before_seconds"]) == ("step 1", None)
    assert (first["seconds"], first["busy_seconds"]) == pytest.approx((65e-6, 55e-6))
    assert (second["seconds"], second["busy_seconds"], second["idle_before_seconds"]) == pytest.approx(
        (20e-6, 20e-6, 100e-6)
    )
    # Of both steps together 5, 40 + 20 and 20: half of it a step.
    assert summary["parts"] == pytest.approx({"data": 2.5e-6, "forward": 30e-6, "backward": 10e-6})
    gemm, add, copy = summary["kernels"]
    assert (gemm["name"], gemm["launches"], gemm["seconds"]) == ("gemm", 2, pytest.approx(60e-6))
    assert (add["name"], add["share"]) == ("add", pytest.approx(20 / 85))
    assert copy["seconds"] == pytest.approx(5e-6)


def test_a_trace_of_a_gpu(tmp_path):
    path = write_trace(tmp_path / "trace.json", deviceProperties=DEVICES)
    summary = summarize(read_torch_trace(path), path)
    check_gpu_summary(summary)
    assert (summary["source"], summary["file"]) == ("torch", "trace.json")
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert {**summarize(read_torch_trace(packed), packed), "file": "trace.json"} == summary


def test_operators_count_with_those_that_they_call(tmp_path):
    """a from 0 to 10 calls b from 2 to 5, and that c from 3 to 4; d is another thread's."""
    events = [
        event("cpu_op", "aten::a", 0, 10),
        event("cpu_op", "aten::b", 2, 3),
        event("cpu_op", "aten::c", 3, 1),
        event("cpu_op", "aten::b", 12, 1),
        {**event("cpu_op", "aten::d", 4, 2), "tid": 2},
        event("user_annotation", "forward", 0, 10),
        event("user_annotation", "backward", 11, 5),
    ]
    path = write_trace(tmp_path / "trace.json", events)
    summary = summarize(read_torch_trace(path), path)
    found = {one["name"]: (one["launches"], round(one["seconds"] * 1e6, 6)) for one in summary["kernels"]}
    assert found == {"a": (1, 10), "b": (1, 1), "d": (1, 2)}
    assert (summary["device"], summary["busy_seconds"]) == ("CPU", pytest.approx(11e-6))
    assert summary["parts"] == pytest.approx({"forward": 12e-6, "backward": 1e-6})
    assert summary["steps"] == []


def test_a_real_trace_of_the_cpu(tmp_path):
    weights = torch.ones(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for step in (1, 2, 3):
            with named_range(f"step {step}"):
                with named_range("forward"):
                    product = weights @ weights
                with named_range("optimizer"):
                    product.add_(1)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    summary = summarize(read_torch_trace(tmp_path / "trace.json"), tmp_path / "trace.json")
    launches = {one["name"]: one["launches"] for one in summary["kernels"]}
    assert launches == {"matmul": 3, "add_": 3}
    assert [step["name"] for step in summary["steps"]] == ["step 1", "step 2", "step 3"]
    assert set(summary["parts"]) == {"forward", "optimizer"}
    total = sum(one["seconds"] for one in summary["kernels"])
    assert sum(summary["parts"].values()) * 3 == pytest.approx(total)
    assert summary["busy_seconds"] == pytest.approx(total)
    by_torch = {one.key: one.cpu_time_total / 1e6 for one in profile.key_averages()}
    for one in summary["kernels"]:
        assert one["seconds"] == pytest.approx(by_torch["aten::" + one["name"]], abs=2e-6)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"a": 1}', '{"traceEvents": [1]}', '{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "a"}]}'],
)
def test_files_that_are_no_traces(tmp_path, text):
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"trace\.json is no whole trace of torch\.profiler"):
        read_torch_trace(path)
    path.write_bytes(gzip.compress(write_trace(tmp_path / "other.json").read_bytes())[:-40])
    with pytest.raises(UserError, match="no whole trace"):
        read_torch_trace(path)


def test_nothing_ran(tmp_path):
    path = write_trace(tmp_path / "trace.json", [event("user_annotation", "step 1", 0, 10)])
    with pytest.raises(UserError, match="has no work in it"):
        summarize(read_torch_trace(path), path)


def test_an_export_of_nsight_systems(tmp_path):
    path = write_nsys(tmp_path / "nsys.sqlite")
    summary = summarize(read_nsys_sqlite(path), path)
    assert (summary["source"], summary["processes"]) == ("nsys", 1)
    check_gpu_summary(summary)


def test_of_several_processes_the_one_on_the_first_gpu(tmp_path):
    """Their launches have the same numbers, and their parts overlap."""
    path = write_nsys(tmp_path / "nsys.sqlite", [(700, 1), (500, 0), (600, 2)])
    summary = summarize(read_nsys_sqlite(path), path)
    assert summary["processes"] == 3
    check_gpu_summary(summary)


def test_an_export_without_launches_and_ranges(tmp_path):
    """Work counts by when it ran, then."""
    path = tmp_path / "nsys.sqlite"
    with closing(sqlite3.connect(path)) as database:
        for statement in tables(runtime=False):
            if "NVTX" not in statement and "TARGET" not in statement:
                database.execute(statement)
        database.execute("INSERT INTO StringIds VALUES (1, 'gemm')")
        database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (5, 9, 0, 7, 1, 1, 1, 1)")
        database.commit()
    summary = summarize(read_nsys_sqlite(path), path)
    assert (summary["device"], summary["busy_seconds"], summary["steps"]) == (None, pytest.approx(4e-9), [])
    assert "parts" not in summary


def test_files_that_are_no_exports(tmp_path):
    path = tmp_path / "nsys.sqlite"
    path.write_bytes(b"no database at all, but some text that is long enough" * 30)
    with pytest.raises(UserError, match=r"nsys\.sqlite is no export of Nsight Systems \(file is not a database"):
        read_nsys_sqlite(path)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as database:
        database.execute("CREATE TABLE a (b)")
    with pytest.raises(UserError, match="is no export of Nsight Systems"):
        read_nsys_sqlite(tmp_path / "other.sqlite")
    with closing(sqlite3.connect(tmp_path / "empty.sqlite")) as database:
        database.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL)")
    with pytest.raises(UserError, match="has no work in it"):
        summarize(read_nsys_sqlite(tmp_path / "empty.sqlite"), tmp_path / "empty.sqlite")


spans = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@hypothesis.given(st.lists(spans, min_size=1, max_size=12))
def test_a_union_is_what_counting_moments_finds(intervals):
    joined = union(*map(np.array, zip(*intervals, strict=True)))
    covered = {moment for start, end in intervals for moment in range(start, end)}
    assert {moment for start, end in joined for moment in range(start, end)} == covered
    assert sum(end - start for start, end in joined) == len(covered)
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(joined))


@hypothesis.given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=10))
def test_busy_and_idle_add_up_to_the_span(tmp_path_factory, launched):
    events = [kernel(number, f"k{number}", start, length) for number, (start, length) in enumerate(launched)]
    path = write_trace(tmp_path_factory.mktemp("trace") / "trace.json", events)
    summary = summarize(read_torch_trace(path), path)
    covered = {moment for start, length in launched for moment in range(start, start + length)}
    assert summary["busy_seconds"] == pytest.approx(len(covered) * 1e-6)
    assert summary["span_seconds"] == pytest.approx((max(covered) + 1 - min(covered)) * 1e-6)
    assert summary["idle_seconds"] == pytest.approx(summary["launch_gaps"]["seconds"])
    assert sum(one["share"] for one in summary["kernels"]) == pytest.approx(1.0)


@pytest.mark.gpu
def test_work_of_a_gpu_is_found_in_its_part(tmp_path):
    a = torch.ones(512, 512, device="cuda")
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        with named_range("step 1"), named_range("forward"):
            a = a @ a
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    summary = summarize(read_torch_trace(tmp_path / "trace.json"), tmp_path / "trace.json")
    assert summary["device"] == torch.cuda.get_device_name()
    assert summary["parts"]["forward"] > 0


def test_names_of_pytorch_for_nvtx_are_those_that_are_taken_off():
    """The library holds the words that it puts behind a range's name; other ones would hide every step and part."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.is_file():
        pytest.skip("this PyTorch has no libtorch_cpu.so to look into")
    found = subprocess.run(["grep", "-c", "-a", "{}, op_id = {}", library], capture_output=True, text=True, check=False)
    assert int(found.stdout) > 0
