"""Tasks that never end, that take all memory or that die cost themselves alone."""

import contextlib
import os
import re
import signal

import pytest

from common.limits import within_limits


def endless(_):
    while True:
        with contextlib.suppress(BaseException):  # as libraries do
            re.search("<ref.*>", "<ref" * 50_000)


TASKS = {
    "endless": endless,
    "greedy": lambda _: bytearray(2**30),
    "failing": lambda _: [][0],
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "larger than a pipe": lambda _: "x" * 2**20,
    "leaving": lambda _: os._exit(0),
}


@pytest.mark.slow
def test_what_meets_a_limit_or_fails_costs_itself_alone():
    names = ["first", *(each for name in TASKS for each in (name, f"after {name}"))]
    results = within_limits(lambda name: TASKS.get(name, str.upper)(name), names, 0, 2**26)
    assert results == [
        "FIRST",
        *(each for name in TASKS for each in ("x" * 2**20 if "pipe" in name else None, f"AFTER {name.upper()}")),
    ]
    assert within_limits(str.upper, [], 1, 2**26) == []
