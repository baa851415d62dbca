"""Which steps are profiled, with torch's profiler on the CPU, and what is called for Nsight."""

import contextlib
import json

import pytest
import torch

from training.metrics.profiling import ProfiledSteps

CPU = torch.device("cpu")


def run_steps(profiled, n_steps, interrupted_before=()):
    for step in range(n_steps):
        for _ in range(1 + (step in interrupted_before)):  # a skipped step begins once more
            profiled.begin_step()
        with torch.profiler.record_function(f"step {step}"):
            torch.ones(3).sum()
        profiled.end_step()
    profiled.close()


def steps_in(trace):
    names = {event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]}
    return sorted(int(name.split()[1]) for name in names if name.startswith("step "))


@pytest.mark.parametrize(
    ("start", "n", "n_steps", "profiled"),
    [(0, 1, 3, [0]), (1, 2, 5, [1, 2]), (2, 9, 4, [2, 3]), (0, 4, 4, [0, 1, 2, 3])],
)
def test_the_steps_that_were_asked_for(tmp_path, start, n, n_steps, profiled):
    steps = ProfiledSteps("torch", range(start, start + n), tmp_path / "profile" / "trace_rank3.json", CPU)
    run_steps(steps, n_steps, interrupted_before=(start,))
    assert steps_in(tmp_path / "profile" / "trace_rank3.json") == profiled
    assert steps.account() == f"trace: {tmp_path}/profile/trace_rank3.json"


def test_a_run_that_ends_before(tmp_path):
    steps = ProfiledSteps("torch", range(4, 5), tmp_path / "trace.json", CPU)
    run_steps(steps, 4)
    assert steps.account() == "nothing was profiled: this run ended after 4 steps; lower --profile-start"
    assert not list(tmp_path.iterdir())


def test_nothing_is_done_where_nothing_was_asked_for(tmp_path):
    steps = ProfiledSteps(None, range(1), tmp_path / "trace.json", CPU)
    run_steps(steps, 2)
    assert steps.account() is None
    assert not list(tmp_path.iterdir())


def test_nsight_is_told_when_to_begin_and_to_end(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: told.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: told.append("stop"))

    @contextlib.contextmanager
    def emit_nvtx():
        told.append("names")
        yield
        told.append("no names")

    monkeypatch.setattr(torch.autograd.profiler, "emit_nvtx", emit_nvtx)
    steps = ProfiledSteps("cuda", range(1, 3), tmp_path / "trace.json", CPU)
    for _ in range(4):
        steps.begin_step()
        told.append("step")
        steps.end_step()
    steps.close()
    assert told == ["step", "start", "names", "step", "step", "no names", "stop", "step"]
