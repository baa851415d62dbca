"""Work spread over processes, of this machine or of a Dask cluster, in which no failure goes unnoticed.

Both pools of the standard library can hang where a worker is killed, and do not say at which task. Here each worker has
a pipe of its own, whose end the kernel closes whatever the worker dies of. No worker outlives its parent, however that
died: each asks the kernel for a signal then.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.lifetime import die_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough that results do not pile up


def usable_cores() -> int:
    """Those that this process may run on: a container or Slurm often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0))


class Workers:
    """Those who work on tasks: this process, or those that a subclass has."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        stage: str,
        task_name: Callable[[Task], str] | None = None,
    ) -> Iterator[Result]:
        """`function` of each task, in the tasks' order; these are taken as results are asked for.

        Args:
            stage, task_name: what is being done, and what to call a task, for the message when a worker dies.

        Raises:
            UserError: a worker was killed.
            Exception: what `function` raised; tasks not yet begun are dropped.
        """
        return map(function, tasks)


@contextlib.contextmanager
def workers(n_processes: int, scheduler: str | None = None, shared_folder: Path | None = None) -> Iterator[Workers]:
    """Context of the workers: processes of this machine, 1 being this one, or those of the Dask scheduler named.

    Dask's must see the `shared_folder` too.
    """
    if scheduler is not None:
        from common.dask_workers import dask_workers

        with dask_workers(scheduler, shared_folder) as cluster:
            yield cluster
    else:
        yield Workers() if n_processes == 1 else _ProcessPool(n_processes)


def in_order(submit: Callable[[Task], Result], tasks: Iterable[Task], n_ahead: int) -> Iterator[tuple[Task, Result]]:
    """Yields each task and what `submit` made of it, once `n_ahead` tasks or all have been submitted."""
    pending: deque[tuple[Task, Result]] = deque()
    for task in tasks:
        pending.append((task, submit(task)))
        if len(pending) == n_ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


class _ProcessPool(Workers):
    """Processes that are started for each `map` and end with it."""

    def __init__(self, n_processes: int):
        self.n_processes = n_processes

    def map(self, function, tasks, stage, task_name=None):
        context = multiprocessing.get_context("fork")
        processes, idle = [], queue.SimpleQueue()
        for _ in range(self.n_processes):
            connection, other_end = context.Pipe()
            process = context.Process(target=_work_on_tasks, args=(other_end, function, os.getpid()), daemon=True)
            process.start()
            other_end.close()  # now the worker alone holds it, and no worker started later inherits it
            processes.append(process)
            idle.put(connection)

        def work_on(task: Task) -> Result:
            connection = idle.get()
            try:
                connection.send(task)
                result, error = connection.recv()
            except (EOFError, OSError) as dead:
                at_work = f" at work on {task_name(task)}" if task_name else ""
                raise UserError(
                    f"A process of {stage}{at_work} was killed, most likely by the system for lack of memory",
                    "start it again with a smaller --n_processes",
                ) from dead
            finally:
                idle.put(connection)
            if error is not None:
                raise error
            return result

        threads = concurrent.futures.ThreadPoolExecutor(self.n_processes)
        try:
            submit = functools.partial(threads.submit, work_on)
            for _, future in in_order(submit, tasks, self.n_processes * TASKS_AHEAD):
                yield future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # idle, or at work on what nobody wants any more
                process.kill()
                process.join()
            threads.shutdown(wait=True)


def end_with(parent: int) -> None:
    """Tie this process to the one that forked it: it ends when that does, and leaves Ctrl-C to it."""
    # Ctrl-C reaches the whole group; the parent, who ends the workers, is to speak alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(0)


def _work_on_tasks(connection: Connection, function: Callable, parent: int) -> None:
    end_with(parent)
    while True:
        task = connection.recv()
        try:
            answer = function(task), None
        except Exception as error:
            error.add_note(traceback.format_exc())  # a traceback does not travel between processes
            answer = None, error
        connection.send(answer)
