"""benchmark/nsight.py as its users run it: files of several kinds in, tables and .json out, or one clear sentence."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_traces import write_nsys, write_trace
from paths import ROOT

from benchmark.nsight import main
from common.errors import UserError

REAL = Path(__file__).parent / "profiles" / "ncu_h200_details.csv"


def stub(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_tables_and_files_of_all_kinds(tmp_path, capsys):
    trace = write_trace(tmp_path / "trace_rank0.json")
    (tmp_path / "trace_rank1.json.gz").write_bytes(gzip.compress(trace.read_bytes()))
    main([str(REAL), str(trace), f"{trace.parent}/trace_rank1.json.gz", "--output", f"{tmp_path}/out", "--top", "1"])
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"kernels.json", "trace_rank0.timeline.json", "trace_rank1.timeline.json"}
    assert written["kernels.json"]["schema"] == 1
    said = capsys.readouterr().out
    # 48.0 % is what the other of the two kernels took.
    for line in ("| all                               | 37.5% | 15.3% |", "and 1 others, 48.0% of the time (--top)"):
        assert line in said
    assert "| data           |      0.003 |" in said
    assert said.splitlines()[-1].startswith(f"summaries: {tmp_path}/out/kernels.json, ")


def test_the_roofline_of_a_known_gpu(tmp_path, capsys):
    names = "gpu__time_duration.sum", "sm__cycles_elapsed.max", "dram__bytes.sum"
    tensor = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
    lines = [("ID", "Process ID", "Kernel Name", "CC", *names, tensor), ("", "", "", "", "us", "cycle", "Mbyte", "G")]
    lines += [(0, 1, "gemm", "9.0", 100, 1000, 40, 60), (1, 1, "add", "9.0", 50, 500, 200, 0)]
    path = tmp_path / "ncu.csv"
    path.write_text("\n".join(",".join(f'"{cell}"' for cell in line) for line in lines))
    main([str(path), "--gpu", "NVIDIA H200"])
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    # 60 GFLOP in 100 us on 40 MB; 200 MB in 50 us.
    assert ["gemm", "1", "0.100", "66.7%", "1,500.0", "600.0", "0.40", "compute"] in rows
    assert ["add", "1", "0.050", "33.3%", "0.0", "0.0", "4.00", "memory"] in rows
    assert json.loads((tmp_path / "kernels.json").read_text())["ceilings"]["dram_bytes_per_second"] == 4.8e12


def test_a_report_of_nsight_systems_is_exported_first(tmp_path, monkeypatch, capsys):
    report = tmp_path / "nsys.nsys-rep"
    report.write_text("a report")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"nsys\.nsys-rep needs nsys to be read, and there is none"):
        main([str(report)])
    write_nsys(tmp_path / "made.sqlite")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    stub(tmp_path / "bin", "nsys", f'printf "%s\\n" "$@" >{tmp_path}/told; cp {tmp_path}/made.sqlite "${{@: -2:1}}"')
    main([str(report)])
    expected = ["export", "--type", "sqlite", "--force-overwrite", "true", "--output", f"{tmp_path}/nsys.sqlite"]
    assert (tmp_path / "told").read_text().splitlines() == [*expected, str(report)]
    assert json.loads((tmp_path / "timeline.json").read_text())["source"] == "nsys"
    assert "of which busy 40.5%" in capsys.readouterr().out  # 75 of 185 us
    stub(tmp_path / "bin", "nsys", "echo 'the report is of a newer version' >&2; exit 1")
    with pytest.raises(UserError, match=r"nsys cannot export .*: the report is of a newer version"):
        main([str(report)])


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(tmp_path):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "notes.txt").write_text("some")
    (tmp_path / "broken.json").write_text("{")
    names = ("absent.csv", "empty.csv", "notes.txt", "broken.json")
    program = [sys.executable, ROOT / "benchmark" / "nsight.py", *(tmp_path / name for name in names), REAL]
    ended = subprocess.run([*program, "--output", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    said = ended.stderr
    for sentence in (
        "there is no file",
        "empty.csv is empty; the profiler was stopped",
        "notes.txt is no .csv of ncu",
        "broken.json is no whole trace",
    ):
        assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
