"""Work spread over processes, in which no failure goes unnoticed.

`concurrent.futures` notices a worker that the kernel killed, which multiprocessing.Pool waits for for ever.
"""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough that results do not pile up


def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    n_processes: int,
    stage: str,
    task_name: Callable[[Task], str] | None = None,
) -> Iterator[Result]:
    """`function` of each task, in the tasks' order, whatever the number of processes; 1 computes in this one.

    Tasks are taken as results are asked for, so neither is ever in memory as a whole.

    Args:
        stage: what is being done, for the message when a worker dies.
        task_name: what to call a task there; the message then names those that were being worked on.

    Raises:
        UserError: a worker was killed.
        Exception: what `function` raised; tasks not yet begun are dropped.
    """
    if n_processes == 1:
        yield from map(function, tasks)
        return
    with concurrent.futures.ProcessPoolExecutor(n_processes) as pool:
        tasks = iter(tasks)
        pending: list[tuple[Task, concurrent.futures.Future]] = []
        try:
            while True:
                while len(pending) < n_processes * TASKS_AHEAD and (task := next(tasks, None)) is not None:
                    pending.append((task, pool.submit(function, task)))
                if not pending:
                    return
                result = pending[0][1].result()
                del pending[0]
                yield result
        except BrokenProcessPool as error:
            # The pool does not say which task died; tasks are begun in order, so it is among the first unfinished.
            begun = [task for task, future in pending if not _is_finished(future)][:n_processes]
            at_work = f" at work on {' or '.join(map(task_name, begun))}" if task_name else ""
            raise UserError(
                f"A process of {stage}{at_work} was killed, most likely by the system for lack of memory; start it "
                "again with a smaller --n_processes."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _is_finished(future: concurrent.futures.Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
