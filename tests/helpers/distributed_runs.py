"""Runs of run_pretraining on several ranks of this machine: what is done to them, how they end, and what they leave.

Most ranks are forked from a server that has everything loaded (ranks.py), under the plain variables RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT. A `Job` starts commands anew, torchrun among them, as users do. After either it is asserted
that neither processes nor shared memory are left.
"""

import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import ranks
from paths import ROOT
from tqdm import TMonitor

import run_pretraining
from training import entry
from training.run import TrainingRun

PYTHON = [sys.executable, str(ROOT / "run_pretraining.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
PATIENCE = ranks.PATIENCE
HEARTBEAT_LIMIT = 4.0
"""Seconds, in forked ranks, instead of the 20 of a user's run, which `Job`s have."""

_PIDS = "BERT_TEST_PIDS"
_MARKER = "BERT_TEST_JOB"
_SHARED_MEMORY = Path("/dev/shm")
_SETTLE_SECONDS = 60.0  # which the kernel may take


# In the ranks.


def train(arguments: list[str], fault: tuple[str, int, int] | None = None) -> None:
    """Run the command line; no thread may be left after it, whether it returns or raises.

    Args:
        fault: see `inject`.
    """
    connected = entry.connected
    entry.connected = lambda *values: connected(*values, heartbeat_limit=HEARTBEAT_LIMIT)
    if fault is not None:
        inject(*fault)
    before = set(threading.enumerate())
    try:
        run_pretraining.main(arguments)
    finally:
        if left := threads_since(before):
            print(f"threads are left: {left}", file=sys.stderr, flush=True)
            os._exit(3)


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that have come since; tqdm's, which all bars of a process share for ever, is a daemon and not counted."""
    return {thread for thread in set(threading.enumerate()) - before if not isinstance(thread, TMonitor)}


def inject(kind: str, rank: int, micro_batch: int) -> None:
    """On this rank, after so many micro-batches of its process: `kill` it, `kill all`, or send it the signal `kind`.

    Under torchrun, only before the first restart. The rank prints at its end how many micro-batches it made.
    """
    if int(os.environ["RANK"]) != rank or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return
    losses, phase = TrainingRun.losses, entry.run_prepared
    calls = itertools.count(1)

    def losses_then_strike(run, batch):
        values = losses(run, batch)
        if next(calls) == micro_batch:
            _strike(kind)
        return values

    def counted(*values):
        result = phase(*values)
        print("micro-batches:", next(calls) - 1, flush=True)
        return result

    TrainingRun.losses = losses_then_strike
    entry.run_prepared = counted


def _strike(kind: str) -> None:
    if kind == "kill all":
        for pid in _noted_pids(os.environ[_PIDS]):
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL if kind.startswith("kill") else signal.Signals[kind])


def _noted_pids(folder: str) -> list[int]:
    return [int(path.name) for path in Path(folder).iterdir()]


def _lead_session(pids: str, file: str, name: str, arguments: tuple) -> None:
    """Call a file's function in a session of this process's own, to which belongs whatever it starts; note its id."""
    os.environ[_PIDS] = pids
    os.setsid()
    # As in a process that a user starts, where locks have no names that a kill would leave behind.
    multiprocessing.set_start_method("fork", force=True)
    (Path(pids) / str(os.getpid())).touch()
    runpy.run_path(file)[name](*arguments)


# Around them.


def run_forked(
    arguments: list[str], size: int, *more, function: Callable = train, seconds: float = PATIENCE
) -> list[ranks.Outcome]:
    """How `size` ranks end that call `function`, of module level, with `arguments` and `more`.

    Asserts that all ended within `seconds`, and that nothing is left of them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "pytest", "run_pretraining"])
    multiprocessing.forkserver.ensure_running()
    function_place = function.__code__.co_filename, function.__name__
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as pids, nothing_left(lambda: _processes_of_sessions(_noted_pids(pids))):
        outcomes = ranks.run_ranks(_lead_session, size, pids, *function_place, (arguments, *more), seconds=seconds)
        for rank, outcome in enumerate(outcomes):
            assert outcome.seconds < seconds, f"rank {rank} still ran after {seconds} seconds:\n{outcome.output}"
        return outcomes


def finish(arguments: list[str], size: int, *more, **options) -> list[ranks.Outcome]:
    """`run_forked`, of ranks that must all succeed."""
    outcomes = run_forked(arguments, size, *more, **options)
    for rank, outcome in enumerate(outcomes):
        assert outcome.status == 0, f"rank {rank} ended with {outcome.status}:\n{outcome.output}"
    return outcomes


class Job:
    """Commands that run beside the test, in a context that kills what is left of them and asserts that nothing was.

    Args:
        command: started once per environment.
        environments: variables beside the test's own.
        folder: for their output.
    """

    def __init__(self, command: list, folder: Path, environments: tuple[dict, ...] = ({},)):
        self._marker = uuid.uuid4().hex
        self._command = [str(part) for part in command]
        self._environments = environments
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Job":
        self._stack.enter_context(nothing_left(lambda: _processes_with(f"{_MARKER}={self._marker}")))
        for index, variables in enumerate(self._environments):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), _MARKER: self._marker}
            environment |= {name: str(value) for name, value in variables.items()}
            with open(self._folder / f"{self._marker}.{index}", "w", encoding="utf-8") as log:
                self._processes.append(
                    subprocess.Popen(
                        self._command, env=environment, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
                    )
                )
        return self

    def __exit__(self, error_type, *error) -> None:
        if error_type is not None:
            for pid in _processes_with(f"{_MARKER}={self._marker}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._stack.__exit__(error_type, *error)

    def output(self, index: int = 0) -> str:
        """What a command printed until now, on both streams."""
        return (self._folder / f"{self._marker}.{index}").read_text(encoding="utf-8")

    def wait_until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait for something that the commands do."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.output()
            time.sleep(0.05)

    def wait(self, seconds: float) -> list[int]:
        """The exit statuses of all commands; where they take longer, fails with what each printed."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(0.0, end - time.monotonic())) for process in self._processes]
        except subprocess.TimeoutExpired:
            printed = "\n".join(f"== command {i}\n{self.output(i)}" for i in range(len(self._processes)))
            raise AssertionError(f"after {seconds} seconds some still ran:\n{printed}") from None

    def pid(self, index: int = 0) -> int:
        """The process of a command."""
        return self._processes[index].pid

    def pid_of_rank(self, rank: int) -> int:
        """The process of a rank, also where torchrun started it."""
        (pid,) = _processes_with(f"{_MARKER}={self._marker}", f"RANK={rank}")
        return pid


@contextlib.contextmanager
def nothing_left(find_processes: Callable[[], list[int]]) -> Iterator[None]:
    """Asserts after the block that these processes are gone, and that they left no shared memory."""
    before = set(_SHARED_MEMORY.iterdir())
    yield
    end = time.monotonic() + _SETTLE_SECONDS
    while (left := (find_processes(), _abandoned(set(_SHARED_MEMORY.iterdir()) - before))) != ([], set()):
        assert time.monotonic() < end, f"processes and shared memory are left: {left}"
        time.sleep(0.05)


def _abandoned(files: set[Path]) -> set[Path]:
    """Those that no process has mapped or gave its number to; the others belong to what runs beside this test."""
    files = {file for file in files if not any(map(_is_alive, re.findall(r"\d+", file.name)))}
    for maps in Path("/proc").glob("[0-9]*/maps") if files else ():
        with contextlib.suppress(OSError):
            text = maps.read_text(errors="replace")
            files = {file for file in files if str(file) not in text}
    return {file for file in files if file.exists()}


def _is_alive(number: str) -> bool:
    return Path("/proc", number).exists()


def _processes_of_sessions(leaders: list[int]) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, group, session.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[3]) in leaders:
                found.append(int(stat.parent.name))
    return found


def _processes_with(*variables: str) -> list[int]:
    """Processes that were started with all of these in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if set(variables) <= set(environ.read_text(errors="replace").split("\0")):
                found.append(int(environ.parent.name))
    return found


if __name__ == "__main__":  # as torchrun starts it: the fault as JSON, then the command line
    from common.errors import run_main

    run_main(lambda: train(sys.argv[2:], json.loads(sys.argv[1])))
