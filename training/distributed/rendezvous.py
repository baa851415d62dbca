"""Where the ranks meet before torch joins them: a key-value store that rank 0 hosts.

torch's process groups wait half an hour in silence for a rank that was never started. Here, the rank that is missing,
that has other flags or that would share a GPU is named within a stated time.

torchrun has a store of its own at MASTER_ADDR and MASTER_PORT. It outlives restarts with the keys of dead worlds in it,
under restart counts that can differ between hosts, so it only serves to tell the others the port of ours.
"""

import dataclasses
import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping

from torch.distributed import TCPStore

from common.errors import Problem, UserError

_PORT_KEY, _VERDICT = "bert/port", "startup/verdict"


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition comes to hold within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def connect(host: str, port: int, seconds: float, is_master: bool = False) -> TCPStore:
    """A connection, whose calls take `seconds` at most; `is_master` makes the store too, at any port for port 0."""
    timeout = datetime.timedelta(seconds=seconds)
    try:
        return TCPStore(host, port, is_master=is_master, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        raise UserError(
            f"MASTER_ADDR and MASTER_PORT cannot be used ({host}:{port}: {first_line(error)})",
            "if another run has this port, choose another",
        ) from error


def open_store(rank: int, seconds: float) -> TCPStore:
    """Rank 0's store, for MASTER_ADDR and MASTER_PORT of the environment; its calls take `seconds` at most.

    Raises:
        UserError: it cannot be made on rank 0, or is not found on another in so many seconds.
    """
    host, port, launcher = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        launcher, port = connect(host, port, seconds), 0
    if rank == 0:
        store = connect(host, port, seconds, is_master=True)
        if launcher is not None:
            launcher.set(_PORT_KEY, str(store.port))
        return store

    def answers() -> bool:
        """Asked first, as torch's own client prints a stack trace for every attempt, for twice its timeout."""
        nonlocal port
        if launcher is not None and launcher.check([_PORT_KEY]):
            port = int(launcher.get(_PORT_KEY))  # of a world before a restart, perhaps: then nobody answers there
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            return False
        return True

    if not wait_for(answers, seconds):
        own_name = f"rank {rank} on host {socket.gethostname()}"
        raise UserError(
            f"{own_name} found no rank 0 at {host} (MASTER_ADDR) within {seconds:g} seconds",
            "see whether it was started, and whether that host can be reached from this one",
        )
    return connect(host, port, seconds)


def meet(store: TCPStore, rank: int, size: int, gpu: str | None, description: str, seconds: float) -> list[str]:
    """What to call each rank, once all are here and fit together. Rank 0 judges for all, so that all tell the same.

    Args:
        gpu: UUID of this rank's; None on the CPU.
        description: what must be the same on all ranks.

    Raises:
        UserError: see `arrival_problems`; or rank 0 ended.
    """
    keys = [f"arrived/{number}" for number in range(size)]
    store.set(keys[rank], json.dumps({"host": socket.gethostname(), "description": description, "gpu": gpu}))
    try:
        if rank == 0:
            wait_for(lambda: store.check(keys), seconds)
            arrivals = {number: json.loads(store.get(key)) for number, key in enumerate(keys) if store.check([key])}
            found = list(map(dataclasses.astuple, arrival_problems(arrivals, size, seconds)))
            names = [f"rank {number} on host {arrival['host']}" for number, arrival in arrivals.items()]
            store.set(_VERDICT, json.dumps([found, names]))
        wait_for(lambda: store.check([_VERDICT]), 2 * seconds)
        problems, names = json.loads(store.get(_VERDICT))
    except RuntimeError as error:
        raise UserError(f"rank 0 ended before all ranks had met ({first_line(error)})", "see its output") from error
    if problems:
        if rank == 0:
            time.sleep(1)  # the store ends with this process, and the others are to read the verdict
        raise UserError(Problem(*each) for each in problems)
    return names


def arrival_problems(arrivals: Mapping[int, Mapping], size: int, seconds: float) -> Iterator[Problem]:
    """Why these ranks, those of `size` that came in so many seconds, cannot train together."""
    if missing := [str(rank) for rank in range(size) if rank not in arrivals]:
        hosts = sorted({arrival["host"] for arrival in arrivals.values()})
        yield Problem(
            f"rank {', '.join(missing)} of {size} did not start within {seconds:g} seconds; the others did, on host "
            f"{', '.join(hosts)}. Look for the cause in the missing ranks' output."
        )
        return
    first, users = arrivals[0], {}
    for rank, arrival in sorted(arrivals.items()):
        if arrival["description"] != first["description"]:
            yield Problem(
                f"rank {rank} on host {arrival['host']} differs from rank 0 on host {first['host']}, which would make "
                f"them train different things: {arrival['description']}, where rank 0 has {first['description']}",
                "start all ranks alike",
            )
        other = users.setdefault(arrival["gpu"], rank)
        if arrival["gpu"] is not None and other != rank:
            yield Problem(
                f"ranks {other} and {rank} on host {arrival['host']} have the same GPU ({arrival['gpu']})",
                "start one process per GPU, or check CUDA_VISIBLE_DEVICES",
            )


def first_line(error: Exception) -> str:
    """What torch's errors say before their stack traces."""
    return str(error).partition("\n")[0].rstrip(".")
