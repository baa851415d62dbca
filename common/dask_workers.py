"""Workers of a Dask cluster, behind the same interface as the processes of this machine.

Dask gives a task to another worker when its own is killed, so one machine that fails does not end the stage. What it
does not notice, a worker that has another file system or no copy of this project, is looked for before the first task.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import CancelledError
from importlib.machinery import ModuleSpec
from pathlib import Path

from common.errors import Problems, UserError
from common.workers import TASKS_AHEAD, Workers, in_order

SECONDS_TO_WAIT = 60  # for the scheduler, for a first worker, and for a worker when all have gone


def scheduler_problem(scheduler: str) -> str | None:
    """Why this cannot name a scheduler, a sentence; None where it can."""
    if re.fullmatch(r"\w+://.+:\d+", scheduler) or os.path.isfile(scheduler):
        return None
    return f"--scheduler {scheduler} is no file, and no address like tcp://HOST:PORT."


@contextlib.contextmanager
def dask_workers(scheduler: str, shared_folder: Path | None = None) -> Iterator[Workers]:
    """Context of the workers of `scheduler`, tcp://HOST:PORT or the path of its scheduler file; see `workers`.

    Raises:
        UserError: distributed is not installed, the scheduler or its workers are out of reach, a worker has several
            threads, cannot import the project, or does not see the shared folder.
    """
    try:
        import distributed
    except ImportError as error:
        raise UserError("--scheduler needs Dask", "install it with pip install distributed") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in our sentences
    where = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    with contextlib.ExitStack() as stack:
        try:
            client = distributed.Client(**where, timeout=SECONDS_TO_WAIT, set_as_default=False)
            stack.enter_context(client).wait_for_workers(1, timeout=SECONDS_TO_WAIT)
        except (OSError, ValueError) as error:
            out_of_reach = f"The Dask scheduler {scheduler} or its workers are out of reach ({error})"
            raise UserError(out_of_reach, "check that they run") from error
        threads = client.nthreads()
        _check_workers(client, threads, shared_folder)
        print(f"Dask scheduler {scheduler}: {len(threads)} workers of one thread each", flush=True)
        yield _DaskCluster(client, len(threads))


def _check_workers(client, threads: dict[str, int], shared_folder: Path | None) -> None:
    # Functions of the standard library, which workers have even where they lack the project.
    found = client.run(importlib.util.find_spec, "common.workers", on_error="return")
    with tempfile.NamedTemporaryFile(dir=shared_folder, prefix=".probe.") as probe:
        sees = client.run(os.path.exists, os.path.abspath(probe.name))
    problems = Problems()
    # One that left meanwhile is the scheduler's to replace.
    for worker, n_threads in ((each, n) for each, n in threads.items() if each in found and each in sees):
        problems.check(
            n_threads == 1,
            f"The Dask worker {worker} has {n_threads} threads, which would share one tokenizer and one HDF5 library",
            "start workers with --nthreads 1, and more of them",
        )
        can_import = isinstance(found[worker], ModuleSpec)
        problems.check(can_import, f"The Dask worker {worker} cannot import the project", "set PYTHONPATH to it there")
        problem = f"The Dask worker {worker} does not see {shared_folder}"
        problems.check(sees[worker], problem, "use a shared file system")
    problems.raise_if_any()


class _DaskCluster(Workers):
    def __init__(self, client, n_workers: int):
        self.client = client
        self.n_workers = n_workers

    def map(self, function, tasks, stage, task_name=None):
        # Not pure: a task's result is also the file that it writes.
        submit = functools.partial(self.client.submit, function, pure=False)
        for task, future in in_order(submit, tasks, self.n_workers * TASKS_AHEAD):
            yield self._result(future, f"{stage} at work on {task_name(task)}" if task_name else stage)

    def _result(self, future, work: str):
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        while True:
            try:
                return future.result(timeout=SECONDS_TO_WAIT)
            except (KilledWorker, CommClosedError, CancelledError) as error:
                raise UserError(
                    f"Several Dask workers of {work} were killed one after the other, or the scheduler was ({error})",
                    "give each worker more memory, and start this stage again",
                ) from error
            except TimeoutError as error:
                if future.done():
                    raise
                if not self._has_workers(work):
                    raise UserError(
                        f"All Dask workers of {work} are gone", "start some, and this stage again"
                    ) from error

    def _has_workers(self, work: str) -> bool:
        try:  # as client.nthreads() does, which waits for a frozen scheduler without an end
            return bool(self.client.sync(self.client.scheduler.ncores, callback_timeout=SECONDS_TO_WAIT))
        except (TimeoutError, OSError) as error:
            silent = f"The Dask scheduler of {work} has not answered for {SECONDS_TO_WAIT} seconds"
            raise UserError(silent, "see whether it is frozen, and start this stage again") from error
