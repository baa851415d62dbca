"""Work spread over processes, of this machine or of a Dask cluster, in which no failure goes unnoticed.

Both pools of the standard library hang where a worker is killed: multiprocessing.Pool always, concurrent.futures where
the worker dies with a lock of the queues that all share, or halfway through a large result. Here each worker has a pipe
of its own, whose end the kernel closes whatever the worker dies of; so the task that it died at is known as well.

No worker outlives its parent, however that died: each asks the kernel for a signal then.

Results come in the order of the tasks, whoever computed them, so the output does not depend on the workers.
"""

import concurrent.futures
import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeVar

from common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough that results do not pile up
PR_SET_PDEATHSIG = 1  # prctl(2)


def usable_cores() -> int:
    """Those that this process may run on: a container or Slurm often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Protocol):
    """Those who work on tasks."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        stage: str,
        task_name: Callable[[Task], str] | None = None,
    ) -> Iterator[Result]:
        """`function` of each task, in the tasks' order.

        Tasks are taken as results are asked for, so neither is ever in memory as a whole.

        Args:
            stage: what is being done, for the message when a worker dies.
            task_name: what to call a task there; the message then names those that were being worked on.

        Raises:
            UserError: a worker was killed.
            Exception: what `function` raised; tasks not yet begun are dropped.
        """


@contextlib.contextmanager
def workers(n_processes: int, scheduler: str | None = None, shared_folder: Path | None = None) -> Iterator[Workers]:
    """Context of the workers: processes of this machine, 1 being this one, or those of the Dask scheduler named.

    Args:
        shared_folder: one that Dask's workers must see too; checked if given.
    """
    if scheduler is not None:
        from common.dask_workers import dask_workers

        with dask_workers(scheduler, shared_folder) as cluster:
            yield cluster
    elif n_processes == 1:
        yield _ThisProcess()
    else:
        yield _ProcessPool(n_processes)


class _ThisProcess:
    def map(self, function, tasks, stage, task_name=None):
        return map(function, tasks)


class _ProcessPool:
    """Processes that are started for each `map` and end with it."""

    def __init__(self, n_processes: int):
        self.n_processes = n_processes

    def map(self, function, tasks, stage, task_name=None):
        tasks = iter(tasks)
        processes = [_WorkerProcess(function, stage, task_name) for _ in range(self.n_processes)]
        idle = queue.SimpleQueue()
        for process in processes:
            idle.put(process)

        def work_on(task: Task) -> Result:
            process = idle.get()
            try:
                return process.work_on(task)
            finally:
                idle.put(process)

        threads = concurrent.futures.ThreadPoolExecutor(self.n_processes)
        pending: deque[concurrent.futures.Future] = deque()
        try:
            while True:
                while len(pending) < self.n_processes * TASKS_AHEAD and (task := next(tasks, None)) is not None:
                    pending.append(threads.submit(work_on, task))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.end()
            threads.shutdown(wait=True)


class _WorkerProcess:
    """A process that works on one task at a time; any thread may wait for it."""

    def __init__(self, function: Callable, stage: str, task_name: Callable | None):
        self.stage, self.task_name = stage, task_name
        self.connection, other_end = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=_work_on_tasks, args=(other_end, function, os.getpid()), daemon=True
        )
        self.process.start()
        other_end.close()  # now the worker alone holds it, and no worker started later inherits it

    def work_on(self, task):
        try:
            self.connection.send(task)
            result, error, trace = self.connection.recv()
        except (EOFError, OSError) as dead:
            at_work = f" at work on {self.task_name(task)}" if self.task_name else ""
            raise UserError(
                f"A process of {self.stage}{at_work} was killed, most likely by the system for lack of memory",
                "start it again with a smaller --n_processes",
            ) from dead
        if error is not None:
            raise error from _TracebackOfWorker(trace)
        return result

    def end(self) -> None:
        """Kill it: it is idle, or at work on what nobody wants any more."""
        self.process.kill()
        self.process.join()


class _TracebackOfWorker(Exception):
    """Where an exception was raised, in words: a traceback does not travel between processes."""


def _work_on_tasks(connection: Connection, function: Callable, parent: int) -> None:
    _end_with_parent(parent)
    while True:
        task = connection.recv()
        try:
            answer = function(task), None, None
        except Exception as error:
            answer = None, error, traceback.format_exc()
        connection.send(answer)


def _end_with_parent(parent: int) -> None:
    # Ctrl-C reaches the whole group; the parent, who ends the workers, is to speak alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)
