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

REAL = Path(__file__).parent / "profiles" / "ncu_h200_raw.csv"


def test_tables_and_files_of_all_kinds(tmp_path, capsys):
    trace = write_trace(tmp_path / "trace_rank0.json")
    (tmp_path / "trace_rank1.json.gz").write_bytes(gzip.compress(trace.read_bytes()))
    main([str(REAL), str(trace), f"{trace.parent}/trace_rank1.json.gz", "--output", f"{tmp_path}/out", "--top", "1"])
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"kernels.json", "trace_rank0.timeline.json", "trace_rank1.timeline.json"}
    assert written["kernels.json"]["schema"] == 1
    said = capsys.readouterr().out
    (of_all,) = (line for line in said.splitlines() if line.startswith("| all "))
    assert of_all.split("|")[2:6] == [*map(str.rjust, (" 46 ", " 2.474 ", " 100.0% ", " 51.5% "), (10, 7, 8, 8))]
    assert "| data           |      0.003 |" in said
    assert said.splitlines()[-1].startswith(f"summaries: {tmp_path}/out/kernels.json, ")


def test_the_roofline_of_a_known_gpu(tmp_path, capsys):
    names = "gpu__time_duration.sum", "sm__cycles_elapsed.max", "dram__bytes.sum"
    tensor = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
    lines = [("ID", "Process ID", "Kernel Name", "CC", *names, tensor), ("", "", "", "", "ns", "cycle", "byte", "")]
    lines += [
        (0, 1, "gemm", "9.0", 100_000, 1000, 40_000_000, 60 * 10**9),
        (1, 1, "add", "9.0", 50_000, 500, 200_000_000, 0),
    ]
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


def test_an_export_of_nsight_systems_is_read_and_its_report_is_not(tmp_path, capsys):
    main([str(write_nsys(tmp_path / "nsys.sqlite"))])
    assert json.loads((tmp_path / "timeline.json").read_text())["source"] == "nsys"
    assert "of which busy 40.5%" in capsys.readouterr().out  # 75 of 185 us
    (tmp_path / "nsys.nsys-rep").write_text("a report")
    with pytest.raises(UserError, match=r"nsys\.nsys-rep is no .csv .*; run `nsys export --type sqlite`"):
        main([str(tmp_path / "nsys.nsys-rep")])


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
        "absent.csv is not there",
        "empty.csv is empty; let ncu",
        "notes.txt is no .csv of ncu",
        "broken.json is no whole trace",
    ):
        assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
