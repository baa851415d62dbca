"""Work on unknown input: a task that takes too long, or too much memory, costs itself alone.

The kernel ends it, since nothing else ends it everywhere: a handler of a signal waits for a regular expression to come
to its end, and libraries catch exceptions that were not meant for them.
"""

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from common.workers import end_with

WAIT = 60  # seconds for each of processor time, and as many more: what waits for what never comes uses none

Task = TypeVar("Task")
Result = TypeVar("Result")


def within_limits(
    function: Callable[[Task], Result], tasks: Sequence[Task], seconds: int, n_bytes: int
) -> list[Result | None]:
    """`function` of each task, in their order; None where it raised an error or met a limit.

    Args:
        function: runs in a process of its own, the same for all tasks unless one meets a limit.
        seconds: of processor time, for one task; it may take a minute for each of them, and one more.
        n_bytes: of memory, beyond what this process has.
    """
    results: list[Result | None] = []
    while len(results) < len(tasks):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        parent, child = os.getpid(), os.fork()
        if child == 0:
            try:
                end_with(parent)
                receiver.close()
                _work(function, tasks[len(results) :], seconds, n_bytes, sender.send)
            finally:
                os._exit(0)  # without what the parent does at its end
        sender.close()
        try:
            with receiver, contextlib.suppress(EOFError, OSError):  # its end, between two results or within one
                while receiver.poll(WAIT * (1 + seconds)):
                    results.append(receiver.recv())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if len(results) < len(tasks):
            results.append(None)
    return results


def _work(function: Callable, tasks: Sequence, seconds: int, n_bytes: int, send: Callable) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    _limit(resource.RLIMIT_DATA, data_pages * resource.getpagesize() + n_bytes)
    for task in tasks:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
        result = None
        with contextlib.suppress(Exception):
            result = function(task)
        send(result)


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))
