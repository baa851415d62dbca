"""Times of steps and parts against a clock that the test turns; on a GPU against kernels of known length."""

import time

import pytest
import torch

from training.metrics.step_times import StepTimes, mean_of_ranks

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run_step(times, clock, seconds, between=0.0):
    """Run the parts for so many seconds each, with some time behind each."""
    for name, part_seconds in seconds:
        with times.part(name):
            clock.now += part_seconds
        clock.now += between
    times.end_step()


def test_parts_and_steps_by_hand():
    clock = Clock()
    times = StepTimes(CPU, clock)
    run_step(times, clock, [("forward", 50.0)])  # before the window
    times.start()
    run_step(times, clock, [("data", 1), ("forward", 2), ("backward", 4), ("data", 1), ("forward", 2)], between=0.5)
    clock.now += 0.25
    run_step(times, clock, [("data", 3), ("forward", 4)])
    # steps: 10 + 5 * 0.5 = 12.5, and 0.25 + 7 = 7.25
    assert times.mean_parts() == {"data": 2.5, "forward": 4.0, "backward": 2.0}
    found = times.percentiles()
    assert (found["min"], found["p50"], found["max"]) == (7.25, (7.25 + 12.5) / 2, 12.5)
    assert found["p5"] == pytest.approx(7.25 + 0.05 * 5.25)


def test_what_is_not_in_the_window_is_not_timed():
    clock = Clock()
    times = StepTimes(CPU, clock)
    times.start()
    run_step(times, clock, [("forward", 1)])
    times.stop()
    clock.now += 1000  # a checkpoint
    run_step(times, clock, [("forward", 1000)])
    times.start()
    run_step(times, clock, [("forward", 3)])
    run_step(times, clock, [("forward", 2)])
    assert times.mean_parts() == {"forward": 2.0}
    assert times.percentiles()["max"] == 3.0


def test_the_reduction_is_what_remains_after_the_last_gradient():
    clock = Clock()
    times = StepTimes(CPU, clock)
    times.start()
    with times.part("backward"):
        clock.now += 5
        times.begin_reduction()
        clock.now += 2
    with times.part("backward"):  # of a micro-batch that is not reduced
        clock.now += 7
    times.end_step()
    assert times.mean_parts() == {"backward": 12.0, "reduction": 2.0}


def test_nothing_was_timed():
    times = StepTimes(CPU)
    assert times.percentiles() == times.mean_parts() == {}


def test_the_mean_of_ranks_counts_a_missing_part_as_none():
    assert mean_of_ranks([{"data": 1.0, "forward": 2.0}, {"forward": 4.0, "reduction": 1.0}]) == {
        "data": 0.5,
        "forward": 3.0,
        "reduction": 0.5,
    }


def test_an_exception_passes_through():
    times = StepTimes(CPU)
    times.start()
    with pytest.raises(StopIteration), times.part("data"):
        next(iter(()))


def test_real_sleeps():
    times = StepTimes(CPU)
    times.start()
    for _ in range(3):
        with times.part("data"):
            time.sleep(0.02)
        with times.part("forward"):
            time.sleep(0.06)
        times.end_step()
    parts = times.mean_parts()
    assert 0.02 <= parts["data"] < 0.04
    assert 0.06 <= parts["forward"] < 0.1
    assert times.percentiles()["min"] >= 0.08


def test_parts_have_names_for_profilers():
    times = StepTimes(CPU)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, times.part("forward"):
        torch.ones(2).sum()
    assert "forward" in {event.key for event in profile.key_averages()}


@pytest.mark.gpu
def test_on_a_gpu_the_time_is_the_devices():
    device = torch.device("cuda", torch.cuda.current_device())
    times = StepTimes(device)
    cycles = 20_000_000  # some 10 ms; torch.cuda._sleep returns at once
    torch.cuda._sleep(cycles)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(cycles)
    end.record()
    torch.cuda.synchronize()
    once = start.elapsed_time(end) / 1e3
    times.start()
    began = time.perf_counter()
    for _ in range(4):
        with times.part("forward"):
            torch.cuda._sleep(cycles)
        with times.part("backward"):
            torch.cuda._sleep(2 * cycles)
            times.begin_reduction()
            torch.cuda._sleep(cycles)
        times.end_step()
    assert time.perf_counter() - began < 4 * once  # nobody waited
    parts = times.mean_parts()
    shared = 0.3  # other processes of the tests may take some of the GPU's time
    assert parts["forward"] == pytest.approx(once, rel=shared)
    assert parts["backward"] == pytest.approx(2 * once, rel=shared)
    assert parts["reduction"] == pytest.approx(once, rel=shared)
    assert times.percentiles()["p50"] == pytest.approx(4 * once, rel=shared)
