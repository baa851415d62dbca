"""Work spread over processes, of this machine or of a Dask cluster, in which no failure goes unnoticed.

`concurrent.futures` notices a worker that the kernel killed, which multiprocessing.Pool waits for for ever. What it
does not notice is that its own process was killed: workers would wait for tasks for ever. So each asks the kernel for a
signal when its parent dies.

Results come in the order of the tasks, whoever computed them, so the output does not depend on the workers.
"""

import concurrent.futures
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol, TypeVar

from errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough that results do not pile up
PR_SET_PDEATHSIG = 1  # prctl(2)


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
        from data.dask_workers import dask_workers

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
        pool = concurrent.futures.ProcessPoolExecutor(
            self.n_processes, initializer=_end_with_parent, initargs=(os.getpid(),)
        )
        with pool:
            tasks = iter(tasks)
            pending: deque[tuple[Task, concurrent.futures.Future]] = deque()
            try:
                while True:
                    while len(pending) < self.n_processes * TASKS_AHEAD and (task := next(tasks, None)) is not None:
                        pending.append((task, pool.submit(function, task)))
                    if not pending:
                        return
                    result = pending[0][1].result()
                    pending.popleft()
                    yield result
            except BrokenProcessPool as error:
                # The pool does not say which task died; they are begun in order, so it is among the first unfinished.
                begun = [task for task, future in pending if not _is_finished(future)][: self.n_processes]
                at_work = f" at work on {' or '.join(map(task_name, begun))}" if task_name else ""
                raise UserError(
                    f"A process of {stage}{at_work} was killed, most likely by the system for lack of memory; start it "
                    "again with a smaller --n_processes."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent(parent: int) -> None:
    # Ctrl-C reaches the whole group; the parent, who ends the workers, is to speak alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


def _is_finished(future: concurrent.futures.Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def map_in_processes(function, tasks, n_processes, stage, task_name=None):
    """As `Workers.map`, for callers that know a number only."""
    with workers(n_processes) as pool:
        yield from pool.map(function, tasks, stage, task_name)
