"""The scaling table: its plan on machines that are made up, GPUs that nobody shares, time limits; and one for real."""

import json
import os
import signal
import threading
import time

import pytest
from real_sweep import cpu_environment

import benchmark.scaling as command
from benchmark.sweeps import scaling as module
from benchmark.sweeps.points import read_points
from common.errors import UserError

ABLE = {"precision": "bf16", "precisions": ["bf16", "fp8"], "kernels": {"bf16": "triton", "fp8": "triton"}}
SAME = {"torch": "2.13.0", "git_commit": "abc", "git_dirty": False}


def machine(n_gpus):
    return SAME | ABLE | {"gpus": ["NVIDIA H200"] * n_gpus}


class Measured:
    """Stands for `measure`: what was asked for, and GPUs that two measurements used at once. Time passes as it says."""

    def __init__(self):
        self.configurations, self.clashes, self.statuses = [], [], {}
        self.now, self.seconds = 0.0, 30.0
        self.busy, self.most_busy, self.lock = [], 0, threading.Lock()
        self.meeting = None  # a barrier for as many as should run at a time

    def __call__(self, configuration, repeat, words, folder, timeout, variables, stopped):
        gpus = variables["CUDA_VISIBLE_DEVICES"].split(",")
        with self.lock:
            self.clashes += [gpu for gpu in gpus if gpu in self.busy]
            self.busy += gpus
            self.most_busy = max(self.most_busy, len(self.busy))
            self.configurations.append(configuration)
        if self.meeting:
            self.meeting.wait(10)
        with self.lock:
            self.busy = [gpu for gpu in self.busy if gpu not in gpus]
            self.now += self.seconds
        assert len(gpus) == configuration["n_gpus"]
        status = self.statuses.get(configuration["n_gpus"], "ok")
        rate = 100.0 * configuration["n_gpus"]
        figures = {"sequences_per_second": rate, "step_seconds": 0.5, "loss_problem": None}
        point = {"schema": 1, "status": status, "error": None if status == "ok" else "why\nit ended", "repeat": 0}
        point |= {"configuration": configuration, "environment": SAME | {"gpus": ["NVIDIA H200"] * len(gpus)}}
        return point | {"command": " ".join(words), "wall_seconds": self.seconds, "measured": figures}


@pytest.fixture
def measured(monkeypatch):
    stand_in = Measured()
    monkeypatch.setattr(module, "measure", stand_in)
    monkeypatch.setattr(module.time, "monotonic", lambda: stand_in.now)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield stand_in
    signal.signal(signal.SIGTERM, before)


def run(monkeypatch, folder, n_gpus, *flags, status=0):
    monkeypatch.setattr(command, "in_fresh_process", lambda *_: machine(n_gpus))
    with pytest.raises(SystemExit) as ended:
        command.main(["--output_dir", str(folder), *flags])
    assert ended.value.code == status


def test_the_table_of_eight_gpus_has_every_point_once(measured, monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path, 8, "--time_limit", "1e6")
    asked = [
        tuple(each[name] for name in ("accumulation_steps", "n_gpus", "precision", "workload", "lengths", "batch_size"))
        for each in measured.configurations
    ]
    assert len(asked) == len(set(asked)) == 2 * 4 * 2 * 4
    order = list(dict.fromkeys(each[:2] for each in asked))
    assert order == [(1, 1), (1, 8), (1, 4), (1, 2), (4, 1), (4, 8), (4, 4), (4, 2)]
    assert {each[4:] for each in asked if each[:4] == (4, 2, "fp8", "pretrain")} == {
        ("full", 1024),
        ("full", 256),
        ("evenly around 254", 512),
    }
    assert measured.clashes == []
    table = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 64
    assert {row["share_of_linear"] for row in rows} == {1.0}
    assert {tuple(point["environment"]["gpus"]) for point in read_points(tmp_path)} == {("NVIDIA H200",) * 8}


@pytest.mark.parametrize(("side_by_side", "at_a_time"), [(1, 4), (0, 1)])
def test_few_gpus_are_measured_side_by_side(measured, monkeypatch, tmp_path, side_by_side, at_a_time):
    measured.meeting = threading.Barrier(at_a_time)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1,6,4,2,0")
    flags = ["--num_gpus", "2", "--accumulation_steps", "1", "--precisions", "bf16", "--time_limit", "1e6"]
    run(monkeypatch, tmp_path, 8, *flags, "--side_by_side", str(side_by_side))
    assert len(measured.configurations) == 4
    assert (measured.most_busy, measured.clashes) == (2 * at_a_time, [])
    assert {point["side_by_side"] for point in read_points(tmp_path)} == {at_a_time}


def test_what_would_end_after_the_time_limit_is_left_out_and_measured_the_next_time(
    measured, monkeypatch, tmp_path, capsys
):
    measured.seconds = 100.0  # where some 26 were estimated
    flags = ["--workloads", "squad", "--precisions", "bf16", "--accumulation_steps", "1"]
    run(monkeypatch, tmp_path, 2, *flags, "--time_limit", "130")
    assert [each["n_gpus"] for each in measured.configurations] == [1]
    assert "that the time limit left out: 1; start again to make them" in capsys.readouterr().out
    run(monkeypatch, tmp_path, 2, *flags, "--time_limit", "130")
    assert [each["n_gpus"] for each in measured.configurations] == [1, 2]
    assert "left out" not in capsys.readouterr().out


def test_an_estimate_measures_nothing(measured, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "in_fresh_process", lambda *_: machine(8))
    flags = [
        "--workloads",
        "phase1",
        "squad",
        "--precisions",
        "bf16",
        "--accumulation_steps",
        "1",
        "--num_gpus",
        "1",
        "8",
    ]
    command.main(["--output_dir", str(tmp_path), *flags, "--estimate"])
    assert measured.configurations == []
    # Starts of 25 s; 30 x 256 sequences at 2,100 a second are 3.7 s, 30 x 32 at 630 are 1.5 s.
    assert capsys.readouterr().out.splitlines() == [
        "2 on 1 process, reduced after every micro-batch, 2 at a time: some 29 s",
        "2 on 8 processes, reduced after every micro-batch, 1 at a time: some 55 s",
        "in all some 84 s; the time limit is 570 s",
    ]


def test_a_failure_is_shown_and_the_others_are_measured(measured, monkeypatch, tmp_path, capsys):
    measured.statuses[2] = "failed"
    flags = ["--workloads", "squad", "--precisions", "bf16", "--accumulation_steps", "1"]
    run(monkeypatch, tmp_path, 4, *flags, status=1)
    assert [each["n_gpus"] for each in measured.configurations] == [1, 4, 2]
    printed = capsys.readouterr().out
    assert "    why\n    it ended\n" in printed
    assert "measurements that failed or trained wrongly: 1" in printed
    measured.statuses.clear()
    run(monkeypatch, tmp_path, 4, *flags)
    assert [each["n_gpus"] for each in measured.configurations] == [1, 4, 2, 2]


@pytest.mark.parametrize(
    ("n_gpus", "counts"), [(0, [1, 2]), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_the_numbers_of_gpus_follow_the_machine(n_gpus, counts):
    args = command.parse_arguments(["--output_dir", "unused"])
    command.fill_in(args, machine(n_gpus))
    assert args.num_gpus == counts


@pytest.mark.parametrize(
    ("kernels", "precisions", "expected"),
    [
        ({"bf16": "triton", "fp8": "triton"}, ["fp32", "bf16", "fp8"], ["bf16", "fp8"]),
        ({"bf16": "torch", "fp8": "torch"}, ["fp32", "bf16", "fp8"], ["bf16"]),
        ({}, ["fp32", "fp16"], ["fp32"]),
    ],
)
def test_the_precisions_follow_the_machine(kernels, precisions, expected):
    args = command.parse_arguments(["--output_dir", "unused"])
    command.fill_in(args, {"gpus": ["any"], "precision": "fp32", "precisions": precisions, "kernels": kernels})
    assert args.precisions == expected


def test_all_that_is_wrong_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "in_fresh_process", lambda *_: machine(2))
    flags = ["--num_gpus", "0", "4", "--precisions", "fp64", "--micro_batch", "0", "--stop", "3", "--timeout", "0"]
    with pytest.raises(UserError) as error:
        command.main(["--output_dir", str(tmp_path / "new"), *flags])
    said = str(error.value)
    assert len(said.splitlines()) == 6
    for part in (
        "--num_gpus is 0",
        "--num_gpus is 4, and this machine has 2",
        "fp64",
        "--micro_batch",
        "--stop",
        "--timeout",
    ):
        assert part in said
    assert not (tmp_path / "new").exists()


def test_a_signal_stops_all_that_runs_side_by_side(measured, monkeypatch, tmp_path):
    heard, both = threading.Semaphore(0), threading.Barrier(3)

    def measure(*words):
        both.wait(10)
        if words[-1].wait(10):  # `stopped`
            heard.release()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(command, "in_fresh_process", lambda *_: machine(2))

    def send():
        both.wait(10)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)  # which has those of other processes

    threading.Thread(target=send).start()
    with pytest.raises(KeyboardInterrupt):
        command.main(["--output_dir", str(tmp_path), "--workloads", "phase1", "phase2", "squad"])
    for _ in range(2):
        assert heard.acquire(timeout=10)
    assert read_points(tmp_path) == []


@pytest.mark.slow
def test_two_processes_on_a_cpu_beside_one(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", cpu_environment())
    flags = ["--bert_model", "tiny", "--workloads", "phase1", "--micro_batch", "2", "--accumulation_steps", "2"]
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        command.main(["--output_dir", str(tmp_path), *flags, "--start", "1", "--stop", "3"])
    assert ended.value.code == 0
    one, two = [json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text(encoding="utf-8").splitlines()]
    points = {point["configuration"]["n_gpus"]: point for point in read_points(tmp_path)}
    assert {n: point["measured"]["sequences"] for n, point in points.items()} == {1: 2 * 4, 2: 2 * 8}
    assert two["share_of_linear"] == pytest.approx(two["sequences_per_second"] / 2 / one["sequences_per_second"])
    assert two["reduction_seconds"] > 0
    assert two["rank_spread"] >= 0
    assert one["cuda_graphs"] is False
    assert sum(point["wall_seconds"] for point in points.values()) < time.monotonic() - began
