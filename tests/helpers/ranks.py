"""Real processes as the ranks of a world on this machine, for tests: what they print, how they end, and when.

They are forked from a server that has torch loaded, since importing it takes longer than most of what is tested.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common.errors import run_main

PATIENCE = 300.0
"""Seconds to wait for what must come, on a machine that is slow and busy; no test says anything by it."""


@dataclasses.dataclass
class Outcome:
    """How a rank ended."""

    status: int
    """Exit status; negative: the signal that killed it."""
    output: str
    """Standard output and error."""
    seconds: float
    """From the start of all ranks to its end."""


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_ranks(
    function: Callable, size: int, *arguments, ranks: tuple[int, ...] | None = None, seconds: float = PATIENCE
) -> list[Outcome]:
    """Call a module-level function of the caller's file in `size` processes under torchrun's variables.

    Args:
        function: called with `arguments`; a UserError ends its rank as `run_main` ends an entry point.
        size: of the world.
        ranks: those that are started; all by default.
        seconds: after which what still runs is killed, and its status so -9.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "pytest", "run_pretraining"])
    ready = context.Process(target=int)  # the server imports its modules before it starts its first process
    ready.start()
    ready.join()
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        started = {}
        begin = time.monotonic()
        for rank in ranks or range(size):
            variables = {**environment, "RANK": rank, "LOCAL_RANK": rank}
            target = (function.__code__.co_filename, function.__name__, arguments, variables, f"{folder}/{rank}")
            started[rank] = context.Process(target=_run, args=target)
            started[rank].start()
            processes.callback(started[rank].kill)
        ends: dict[int, float] = {}
        while len(ends) < len(started) and time.monotonic() < begin + seconds:
            ends |= {r: time.monotonic() - begin for r, p in started.items() if r not in ends and not p.is_alive()}
            time.sleep(0.02)
        for process in started.values():
            process.kill()
            process.join()
        return [
            Outcome(process.exitcode, Path(f"{folder}/{rank}").read_text(encoding="utf-8"), ends.get(rank, seconds))
            for rank, process in started.items()
        ]


def _run(file: str, name: str, arguments: tuple, variables: dict, output: str) -> None:
    with open(output, "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update({key: str(value) for key, value in variables.items()})
    torch.set_num_threads(1)
    function = runpy.run_path(file)[name]
    run_main(lambda: function(*arguments))
