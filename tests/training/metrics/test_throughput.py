"""The meter with a clock that the test turns, by hand-worked numbers; and once with real time."""

import time

import pytest
import torch

from common.work import Work
from training.metrics.throughput import ThroughputMeter

CPU = torch.device("cpu")


class Device:
    """A clock and a queue: queued work costs no host time, and synchronizing waits for it."""

    def __init__(self):
        self.now, self.queued, self.synchronizations = 0.0, 0.0, 0

    def clock(self):
        return self.now

    def synchronize(self, device):
        self.synchronizations += 1
        self.now += self.queued
        self.queued = 0.0

    def meter(self, start, stop, flops=None):
        return ThroughputMeter(start, stop, flops, CPU, self.clock, self.synchronize)


def run_steps(meter, device, n_steps, seconds=2.0):
    for _ in range(n_steps):
        device.queued += seconds
        meter.end_step(Work(8, 200, 6000, 30))


def test_window_counts_the_steps_after_start_up_to_stop():
    device = Device()
    meter = device.meter(3, 8)
    run_steps(meter, device, 3, seconds=50.0)  # compilation and warm-up
    run_steps(meter, device, 5, seconds=2.0)
    run_steps(meter, device, 4, seconds=9.0)
    result = meter.result()
    timed = {"step_seconds_percentiles", "part_seconds"}
    assert {name: value for name, value in result.items() if name not in timed} == {
        "measured_steps": 5,
        "seconds": 10.0,
        "step_seconds": 2.0,
        "sequences": 40,
        "tokens": 1000,
        "masked_tokens": 150,
        "sequences_per_second": 4.0,
        "tokens_per_second": 100.0,
    }
    assert device.synchronizations == 2
    assert meter.result() == result


def test_window_without_stop_ends_with_the_run():
    device = Device()
    meter = device.meter(1, None, lambda work: 10 * work.sum_lengths + work.sum_squared_lengths + 7 * work.n_masked)
    run_steps(meter, device, 5)
    result = meter.result()
    assert (result["measured_steps"], result["seconds"]) == (4, 8.0)
    # Per step: 200 tokens, squares of 6,000 together, 30 masked
    assert result["model_tflops_per_second"] == pytest.approx((2000 + 6000 + 210) / 2.0 / 1e12)


def test_window_from_the_start():
    device = Device()
    meter = device.meter(0, None)
    run_steps(meter, device, 3)
    assert (meter.result()["measured_steps"], meter.result()["seconds"]) == (3, 6.0)


def test_pauses_stop_the_clock_and_wait_for_the_device_on_both_sides():
    device = Device()
    meter = device.meter(1, 3)
    with meter.paused():  # before the window: nothing to stop
        device.now += 1000
    run_steps(meter, device, 2)
    with meter.paused():
        device.now += 500  # a checkpoint
        device.queued += 70  # an evaluation, still queued on the device
    run_steps(meter, device, 1)
    with meter.paused():  # after the window
        device.now += 1000
    result = meter.result()
    assert (result["measured_steps"], result["seconds"]) == (2, 4.0)


@pytest.mark.parametrize(
    ("window", "left_out", "measured"),
    [
        ((2, 8), range(4, 6), [3, 4, 7, 8]),  # steps counted from 1: 5 and 6 are left out
        ((2, 8), range(3), [4, 5, 6, 7, 8]),
        ((2, 8), range(6, 9), [3, 4, 5, 6]),
        ((0, None), range(1), [2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ((0, 3), range(5, 9), [1, 2, 3]),
    ],
)
def test_profiled_steps_are_left_out(window, left_out, measured):
    device = Device()
    meter = ThroughputMeter(*window, None, CPU, device.clock, device.synchronize, left_out=left_out)
    for step in range(1, 11):
        if step - 1 in left_out:
            device.now += 1000  # a profiler starts, and writes
        with meter.paused():
            device.now += 500
        device.queued += 2.0**step
        meter.end_step(Work(step, step, step, step))
    result = meter.result()
    assert result["measured_steps"] == len(measured)
    assert result["sequences"] == sum(measured)
    assert result["seconds"] == sum(2.0**step for step in measured)


def test_a_window_of_profiled_steps_alone_is_a_sentence():
    device = Device()
    meter = ThroughputMeter(1, 3, None, CPU, device.clock, device.synchronize, left_out=range(5))
    run_steps(meter, device, 6)
    assert "of 6 steps of this run, none after step 1 ran unprofiled" in meter.result()["not_measured"]


@pytest.mark.parametrize("n_steps", [0, 3, 5])
def test_a_window_that_never_opened_is_a_sentence(n_steps):
    device = Device()
    meter = device.meter(5, 9)
    run_steps(meter, device, n_steps)
    result = meter.result()
    assert result["measured_steps"] == 0
    assert f"of {n_steps} steps of this run, none after step 5" in result["not_measured"]


def test_real_sleeps():
    meter = ThroughputMeter(1, 4, None, CPU)
    for step in range(5):
        time.sleep(0.15 if step == 0 else 0.03)
        meter.end_step(Work(2, 20, 200, 3))
        if step == 2:
            with meter.paused():
                time.sleep(0.15)
    result = meter.result()
    assert result["measured_steps"] == 3
    assert 0.09 <= result["seconds"] < 0.15  # had a pause or the warm-up been counted, it would be above
    assert result["sequences_per_second"] == pytest.approx(6 / result["seconds"])


@pytest.mark.gpu
def test_against_device_events():
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    meter = ThroughputMeter(3, 23, None, device)
    for step in range(23):
        matrix = (matrix @ matrix).clamp(-1, 1)
        meter.end_step(Work(1, 1, 1, 1))
        if step == 2:
            start.record()
    end.record()
    result = meter.result()
    torch.cuda.synchronize()
    assert result["seconds"] == pytest.approx(start.elapsed_time(end) / 1e3, rel=0.02)
    assert result["peak_memory_reserved_bytes"] >= result["peak_memory_allocated_bytes"] >= 4096 * 4096 * 4
