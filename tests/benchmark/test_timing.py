"""Measurements in turns, and calls in processes of their own."""

import os

from benchmark.timing import in_fresh_process, in_turns, spread


def test_all_are_measured_once_before_one_is_measured_again():
    called = []
    measurements = {name: lambda name=name: called.append(name) or len(called) for name in "ab"}
    assert in_turns(measurements, 2) == {"a": [1, 3], "b": [2, 4]}
    assert called == ["a", "b", "a", "b"]


def test_the_spread_is_that_of_the_least_steady():
    assert spread({"a": [1.0, 1.1], "b": [2.0, 3.0]}) == 0.5


def test_a_fresh_process_is_another_one():
    assert in_fresh_process(os.getpid) != os.getpid()
