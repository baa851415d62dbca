"""Workers of a Dask cluster, behind the same interface as the processes of this machine.

Dask gives a task to another worker when its own is killed, so one machine that fails does not end the stage. What it
does not notice, a worker that has another file system or no copy of this project, is looked for before the first task.
"""

import contextlib
import importlib.util
import logging
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

TASKS_AHEAD = 4  # per worker
SECONDS_TO_WAIT = 60  # for the scheduler, for a first worker, and for a worker when all have gone


def scheduler_problem(scheduler: str) -> str | None:
    """Why this cannot name a scheduler, a sentence; None where it can."""
    if re.fullmatch(r"\w+://.+:\d+", scheduler) or os.path.isfile(scheduler):
        return None
    return f"--scheduler {scheduler} is no file, and no address like tcp://HOST:PORT."


@contextlib.contextmanager
def dask_workers(scheduler: str, shared_folder: Path | None = None) -> Iterator["_DaskCluster"]:
    """Context of the workers of `scheduler`, tcp://HOST:PORT or the path of its scheduler file.

    Args:
        shared_folder: a folder that all workers must see, as the working folder; not checked if None.

    Raises:
        UserError: distributed is not installed, the scheduler or its workers are out of reach, a worker has several
            threads, cannot import the project, or does not see the shared folder.
    """
    try:
        import distributed
    except ImportError as error:
        raise UserError("--scheduler needs Dask", "install it with pip install distributed") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in our sentences
    if problem := scheduler_problem(scheduler):
        raise UserError(problem)
    where = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    try:
        client = distributed.Client(**where, timeout=SECONDS_TO_WAIT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"The Dask scheduler {scheduler} is out of reach ({error})", "check that it runs") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_WAIT)
        except TimeoutError as error:
            raise UserError(f"The Dask scheduler {scheduler} has had no worker for {SECONDS_TO_WAIT} s.") from error
        threads = client.nthreads()
        _check_workers(client, threads, shared_folder)
        print(f"Dask scheduler {scheduler}: {len(threads)} workers of one thread each", flush=True)
        yield _DaskCluster(client, len(threads))


def _check_workers(client, threads: dict[str, int], shared_folder: Path | None) -> None:
    for worker, n_threads in threads.items():
        if n_threads != 1:
            raise UserError(
                f"The Dask worker {worker} has {n_threads} threads, which would share one tokenizer and one HDF5 "
                "library",
                "start workers with --nthreads 1, and more of them",
            )
    # Functions of the standard library, which workers have even where they lack the project.
    for worker, found in client.run(importlib.util.find_spec, "common.workers", on_error="return").items():
        if found is None or isinstance(found, Exception):
            raise UserError(
                f"The Dask worker {worker} cannot import the project", "set PYTHONPATH to it where it starts"
            )
    if shared_folder is None:
        return
    with tempfile.NamedTemporaryFile(dir=shared_folder, prefix=".probe.") as probe:
        for worker, sees in client.run(os.path.exists, _where_workers_look(probe.name)).items():
            if not sees:
                raise UserError(f"The Dask worker {worker} does not see {shared_folder}", "use a shared file system")


def _where_workers_look(path: str) -> str:
    return os.path.abspath(path)


class _DaskCluster:
    def __init__(self, client, n_workers: int):
        self.client = client
        self.n_workers = n_workers

    def map(self, function, tasks, stage, task_name=None):
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        tasks = iter(tasks)
        pending = deque()
        try:
            while True:
                while len(pending) < self.n_workers * TASKS_AHEAD and (task := next(tasks, None)) is not None:
                    # Not pure: a task's result is also the file that it writes.
                    pending.append((task, self.client.submit(function, task, pure=False)))
                if not pending:
                    return
                result = self._result(pending[0][1], stage)
                pending.popleft()
                yield result
        except KilledWorker as error:
            at_work = f" at work on {task_name(pending[0][0])}" if task_name else ""
            raise UserError(
                f"Several Dask workers of {stage}{at_work} were killed one after the other, most likely for lack of "
                "memory",
                "give each worker more",
            ) from error
        except CommClosedError as error:
            raise UserError(f"The Dask scheduler went away during {stage}", "start it and this stage again") from error
        finally:
            with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to cancel
                self.client.cancel([future for _, future in pending], force=True)

    def _result(self, future, stage):
        while True:
            try:
                return future.result(timeout=SECONDS_TO_WAIT)
            except TimeoutError:
                if future.done():
                    raise
                if not self.client.nthreads():
                    raise UserError(
                        f"All Dask workers of {stage} are gone", "start some, and this stage again"
                    ) from None
