"""The benchmark of checkpoints runs, and measures what it says."""

import re
import sys

import torch

from benchmark import checkpoint as benchmark


def test_it_runs_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["checkpoint.py", "--output_dir", str(tmp_path), "--repeats", "2"])
    benchmark.main()
    printed = capsys.readouterr().out
    size, waits, whole = map(
        float, re.search(r", ([\d.]+) GB.*\n.*waits ([\d.]+) s of the ([\d.]+) s", printed).groups()
    )
    assert size == 0.05  # 4.4 M parameters, three times 4 bytes
    assert waits <= whole
    assert list(tmp_path.iterdir()) == []


def test_the_wait_is_that_of_the_copy_and_not_of_the_write(tmp_path, monkeypatch):
    state = {name: {} for name in ("model", "optimizer", "schedule", "training_step", "data_position", "configuration")}
    state["model"] = {"weight": torch.zeros(1000)}
    save = benchmark.CheckpointWriter._save

    def slow_save(writer, *arguments):
        benchmark.time.sleep(0.5)
        return save(writer, *arguments)

    monkeypatch.setattr(benchmark.CheckpointWriter, "_save", slow_save)
    stalled, whole, _ = benchmark.measure(state, str(tmp_path), 1, torch.device("cpu"))
    assert stalled < 0.4
    assert whole > 0.5
