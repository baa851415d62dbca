"""Sweeps: the plan with measurements that are made up; and real ones that are interrupted."""

import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from real_sweep import TINY, start

from benchmark.sweep import main, parse_arguments
from benchmark.sweeps import sweep as sweep_module
from benchmark.sweeps.points import read_points
from benchmark.sweeps.sweep import Sweep
from common.errors import UserError
from file_utils import locked


@pytest.fixture
def made_up(monkeypatch):
    """Measurements at 10 sequences a second for each sequence of the batch; those of `ends` end as it says."""
    asked, ends = [], {}

    def measure(configuration, repeat, words, folder, timeout):
        size = configuration["batch_size"]
        asked.append((configuration["precision"], size, repeat))
        status = ends.get(size, "ok")
        point = {"schema": 1, "status": status, "error": None if status == "ok" else "why\nit ended", "repeat": repeat}
        point |= {"configuration": configuration, "environment": dict(MACHINE), "command": " ".join(words)}
        if status == "ok":
            rate = 10.0 * size + repeat
            point["measured"] = {"sequences_per_second": rate, "tokens_per_second": 32 * rate}
            point["measured"]["loss_problem"] = "the loss ended at 99" if size == WRONG else None
        return point

    monkeypatch.setattr(sweep_module, "measure", measure)
    monkeypatch.setattr(sweep_module, "in_fresh_process", lambda *_: MACHINE | {"precision": "fp32"})
    return asked, ends


WRONG = 77  # the batch size that trains wrongly
MACHINE = {"gpus": ["NVIDIA H200"], "torch": "2.13.0", "git_commit": "abc", "git_dirty": False}


def run(folder, *flags, status=0):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--output_dir", str(folder), *TINY, *flags])
    assert ended.value.code == status
    return read_points(folder)


def test_sizes_double_until_memory_ends_and_repeats_go_round(made_up, tmp_path, capsys):
    asked, ends = made_up
    ends[32] = "out_of_memory"
    run(tmp_path, "--first_batch_size", "4", "--repeats", "3")
    sizes = [(size, repeat) for _, size, repeat in asked]
    assert sizes == [(4, 0), (8, 0), (16, 0), (32, 0), (4, 1), (8, 1), (16, 1), (4, 2), (8, 2), (16, 2)]
    printed = capsys.readouterr().out
    # repeats are 160, 161 and 162 sequences a second
    assert re.search(r"\| fp32, steps 2 to 3 +\| +16 \| +161\.0 \| +160\.0 \| +162\.0 \| +3 \|", printed)
    assert re.search(r"\| fp32, steps 2 to 3 +\| +32 \| +- \|.*\| out of memory \|", printed)
    assert printed.splitlines()[-1] == f"points: {tmp_path}/points.jsonl"


def test_doubling_ends_at_the_last_size(made_up, tmp_path):
    asked, _ = made_up
    run(tmp_path, "--first_batch_size", "3", "--last_batch_size", "13", "--repeats", "1")
    assert [size for _, size, _ in asked] == [3, 6, 12]


def test_another_failure_is_shown_and_the_sweep_goes_on(made_up, tmp_path, capsys):
    asked, ends = made_up
    ends |= {8: "failed", 32: "failed", 64: "failed"}
    flags = ("--first_batch_size", "4", "--repeats", "1", "--precisions", "bf16", "fp32")
    points = run(tmp_path, *flags, status=1)
    assert [size for precision, size, _ in asked if precision == "bf16"] == [4, 8, 16, 32, 64]
    assert [size for precision, size, _ in asked if precision == "fp32"] == [4, 8, 16, 32, 64]
    printed = capsys.readouterr().out
    assert "    why\n    it ended\n" in printed
    assert "measurements that failed: 6; start again to try them once more" in printed
    assert sum(point["status"] == "failed" for point in points) == 6


def test_a_fast_wrong_run_is_shown_as_wrong_in_the_table_and_in_the_status(made_up, tmp_path, capsys):
    run(tmp_path, "--batch_sizes", "4", str(WRONG), "--repeats", "2", status=1)
    printed = capsys.readouterr().out
    assert "770.0 sequences/s, WRONG: the loss ended at 99" in printed
    states = dict(re.findall(r"^\| fp32, steps 2 to 3 +\| +(\d+) .*\| +(\w+) \|$", printed, re.MULTILINE))
    assert states == {"4": "ok", "77": "wrong"}
    assert "measurements that trained wrongly: 2; their rates mean nothing" in printed


def test_repeats_that_fail_are_not_hidden_behind_those_that_do_not(made_up, tmp_path, capsys):
    _, ends = made_up
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1")
    ends[4] = "failed"
    run(tmp_path, "--batch_sizes", "4", "--repeats", "3", status=1)
    assert re.search(r"\| fp32, steps 2 to 3 +\| +4 \| +40\.0 \|.*\| ok, 2 failed \|", capsys.readouterr().out)


def test_what_differs_in_anything_has_a_row_of_its_own(made_up, tmp_path, capsys):
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1")
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--stop", "9")
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--optimizer", "adamw", "--accumulation_steps", "2")
    printed = capsys.readouterr().out.split("## BERT-tiny pretrain 32 tokens (full)")[-1]
    assert re.findall(r"^\| (fp32.*?) +\| +4 \|", printed, re.MULTILINE) == [
        "fp32, adamw, 2 micro-batches, steps 2 to 3",
        "fp32, steps 2 to 3",
        "fp32, steps 2 to 9",
    ]


def test_sizes_that_are_named_are_all_measured(made_up, tmp_path):
    asked, ends = made_up
    ends[64] = "out_of_memory"
    run(tmp_path, "--batch_sizes", "64", "8", "--repeats", "2")
    assert [(size, repeat) for _, size, repeat in asked] == [(64, 0), (8, 0), (8, 1)]


def test_started_again_it_measures_what_is_missing_and_what_failed(made_up, tmp_path, capsys):
    asked, ends = made_up
    ends[8] = "failed"
    run(tmp_path, "--batch_sizes", "4", "8", "--repeats", "1", status=1)
    with (tmp_path / "points.jsonl").open("a") as file:
        file.write('{"schema": 1, "status"')  # killed while it wrote
    asked.clear()
    ends.clear()
    points = run(tmp_path, "--batch_sizes", "4", "8", "--repeats", "2")
    assert [(size, repeat) for _, size, repeat in asked] == [(8, 0), (4, 1), (8, 1)]
    assert len(points) == 4
    assert all(point["status"] == "ok" for point in points)
    assert "batch     4 | 2/2 | 41.0 sequences/s\n" in capsys.readouterr().out


def test_a_second_sweep_is_refused_by_the_owner_of_the_folder(made_up, tmp_path):
    asked, _ = made_up
    with locked(tmp_path / ".lock"), pytest.raises(UserError, match=rf"{tmp_path} is in use by .* on .*, since"):
        main(["pretrain", "--output_dir", str(tmp_path), *TINY, "--batch_sizes", "4", "--repeats", "1"])
    assert asked == []


def test_other_flags_are_another_measurement(made_up, tmp_path):
    asked, _ = made_up
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1")
    points = run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--", "--layer_norm", "apex")
    assert len(asked) == 2
    assert points[1]["configuration"]["flags"] == "--layer_norm apex"
    assert points[1]["command"].endswith("--layer_norm apex")


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ([], "bf16", "--kernels triton"),
        (["--seed", "3"], "fp8", "--kernels triton --seed 3"),
        ([], "fp32", ""),
        (["--kernels", "torch"], "bf16", "--kernels torch"),
        (["--kernels=torch"], "bf16", "--kernels=torch"),
    ],
)
def test_kernels_that_a_machine_chooses_are_named(made_up, tmp_path, monkeypatch, flags, precision, expected):
    kernels = {"fp32": "torch", "fp16": "triton", "bf16": "triton", "fp8": "triton"}
    machine = MACHINE | {"precision": precision, "kernels": kernels}
    monkeypatch.setattr(sweep_module, "in_fresh_process", lambda *_: machine)
    (point,) = run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--precisions", precision, "--", *flags)
    assert point["configuration"]["flags"] == expected
    assert point["command"].endswith(expected)


@pytest.mark.parametrize(("name", "other"), [("git_commit", "def"), ("gpus", ["NVIDIA A100"]), ("torch", "2.11.0")])
def test_points_of_another_environment_are_not_mixed_in(made_up, tmp_path, monkeypatch, name, other):
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1")
    before = (tmp_path / "points.jsonl").read_bytes()
    other_machine = MACHINE | {"precision": "fp32", name: other}
    monkeypatch.setattr(sweep_module, "in_fresh_process", lambda *_: other_machine)
    arguments = parse_arguments(["pretrain", "--output_dir", str(tmp_path), *TINY])
    with pytest.raises(UserError, match=f"was measured with {name} .*; choose another --output_dir"):
        Sweep(arguments)
    assert (tmp_path / "points.jsonl").read_bytes() == before


def test_points_of_other_shards_are_not_mixed_in(made_up, tmp_path):
    asked, _ = made_up
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--input_dir", "some/shards")
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--input_dir", "some/shards")
    run(tmp_path, "--batch_sizes", "4", "--repeats", "1")
    assert len(asked) == 2
    with pytest.raises(UserError, match="was measured on other data than --input_dir other; choose another"):
        main(["pretrain", "--output_dir", str(tmp_path), *TINY, "--batch_sizes", "4", "--input_dir", "other"])
    assert len(asked) == 2


def test_all_that_is_wrong_is_said_at_once(capsys):
    flags = ["--batch_sizes", "0", "--start", "5", "--stop", "5", "--repeats", "0", "--train_file", "x"]
    flags += ["--precisions", "bf17", "--optimizer", "sgd", "--bert_model", "nowhere/config.json"]
    with pytest.raises(UserError) as error:
        main(["pretrain", "--output_dir", "unused", *flags])
    said = str(error.value)
    assert len(said.splitlines()) == 8
    for part in (
        "--precisions is bf17",
        "--optimizer is sgd",
        "--bert_model is nowhere/config.json",
        "--batch_sizes is 0",
        "--stop 5 is not greater",
        "--repeats is 0",
        "is for squad",
        "--vocab_file",
    ):
        assert part in said
    assert not Path("unused").exists()


def runs(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_interrupted_it_leaves_no_process_and_no_half_line(tmp_path):
    process = start(tmp_path, "--batch_sizes", "4", "8", "--repeats", "2", "--stop", "100000")
    log = tmp_path / "runs" / "pretrain_32_fp32_1x4_0" / "dllogger.json"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 10  # Python's own resource tracker ends only once the sweep's pipe to it is closed
    while any(map(runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, children))
    assert not (tmp_path / "points.jsonl").exists() or read_points(tmp_path) == []


@pytest.mark.slow
def test_a_point_that_takes_too_long_is_stopped(tmp_path):
    process = start(tmp_path, "--batch_sizes", "4", "--repeats", "1", "--stop", "1000000", "--timeout", "2")
    process.communicate(timeout=120)
    (point,) = read_points(tmp_path)
    assert point["status"] == "failed"
    assert point["error"].endswith("stopped: it had run for 2 seconds")
