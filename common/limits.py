"""Work on input that nobody has looked at: a task that takes too long, or too much memory, costs itself alone.

The kernel ends it, since nothing else ends it everywhere: a handler of a signal waits until a regular expression has
come to its end, and libraries catch exceptions that were not meant for them.
"""

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from common.workers import end_with

Task = TypeVar("Task")
Result = TypeVar("Result")


def within_limits(
    function: Callable[[Task], Result], tasks: Sequence[Task], seconds: int, n_bytes: int
) -> list[Result | None]:
    """`function` of each task, in their order; None where it raised an error or met a limit.

    Args:
        function: runs in a process of its own, the same for all tasks unless one meets a limit.
        seconds: of processor time, for one task.
        n_bytes: of memory, beyond what this process has.
    """
    results: list[Result | None] = []
    while len(results) < len(tasks):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            receiver.close()
            _work(function, tasks[len(results) :], seconds, n_bytes, sender, parent)
        sender.close()
        try:
            with receiver, contextlib.suppress(EOFError, OSError):  # its end, between two results or within one
                while True:
                    results.append(receiver.recv())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if len(results) < len(tasks):
            results.append(None)
    return results


def _work(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    seconds: int,
    n_bytes: int,
    sender: Connection,
    parent: int,
) -> None:
    """Send the results and end this process, without what a parent does at its end."""
    try:
        end_with(parent)
        _limit(resource.RLIMIT_CORE, 0)
        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        _limit(resource.RLIMIT_DATA, data_pages * resource.getpagesize() + n_bytes)
        for task in tasks:
            _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
            try:
                result = function(task)
            except Exception:
                result = None
            sender.send(result)
    finally:
        os._exit(0)


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))
