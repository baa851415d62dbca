"""Where the ranks meet before torch joins them: a key-value store that rank 0 hosts.

torch's process groups wait half an hour in silence for a rank that was never started. Here, the rank that is missing,
that has other flags or that would share a GPU is named within a stated time.

torchrun has a store of its own at MASTER_ADDR and MASTER_PORT. It outlives restarts with the keys of dead worlds in it,
under restart counts that can differ between hosts, so it only serves to tell the others the port of ours.
"""

import datetime
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping

from torch.distributed import TCPStore

from common.errors import Problem, UserError

_POLL_SECONDS = 0.1
_PORT_KEY, _VERDICT = "bert/port", "startup/verdict"


class Deadline:
    """A moment this many seconds from now, on this process's clock."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left, 0 where none are."""
        return max(0.0, self._end - time.monotonic())


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def connect(host: str, port: int, seconds: float, is_master: bool = False) -> TCPStore:
    """A connection, whose calls take `seconds` at most; `is_master` makes the store too, at any port for port 0.

    Raises:
        ConnectionError: nobody answers there, or, for the master, it cannot listen there.
    """
    # Torch's own client prints a stack trace for every attempt, and keeps on for twice its timeout.
    if not is_master and not answers(host, port):
        raise ConnectionError(f"nobody answers at {host}:{port}")
    timeout = datetime.timedelta(seconds=seconds)
    try:
        return TCPStore(host, port, is_master=is_master, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        raise ConnectionError(f"{host}:{port}: {first_line(error)}") from error


def open_store(rank: int, deadline: Deadline) -> TCPStore:
    """Rank 0's store, for MASTER_ADDR and MASTER_PORT of the environment.

    Raises:
        UserError: it cannot be made on rank 0, or is not found on another by the deadline.
    """
    host, port, launcher = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            launcher, port = connect(host, port, deadline.seconds), 0
        if rank == 0:
            store = connect(host, port, deadline.seconds, is_master=True)
            if launcher is not None:
                launcher.set(_PORT_KEY, str(store.port))
            return store
    except ConnectionError as error:
        raise UserError(
            f"rank {rank} on host {socket.gethostname()} cannot use MASTER_ADDR and MASTER_PORT ({error})",
            "if another run has this port, choose another",
        ) from error
    while deadline.remaining:
        if launcher is not None and launcher.check([_PORT_KEY]):
            # The port of a world before a restart, perhaps: then nobody answers there, until the new one is known.
            port = int(launcher.get(_PORT_KEY))
        if port and answers(host, port):
            return connect(host, port, deadline.seconds)
        time.sleep(_POLL_SECONDS)
    raise UserError(
        f"rank {rank} on host {socket.gethostname()} found no rank 0 at {host} (MASTER_ADDR) within "
        f"{deadline.seconds:g} seconds",
        "see whether it was started, and whether that host can be reached from this one",
    )


def meet(
    store: TCPStore, rank: int, size: int, local_size: int, gpu: str | None, description: str, deadline: Deadline
) -> list[str]:
    """Host names of all ranks, once all are here and fit together.

    Rank 0 judges for all, so that all tell the same; a rank that has waited longer than it judges itself.

    Args:
        store: of `open_store`.
        local_size: ranks per node; 1: unknown.
        gpu: UUID of this rank's; None on the CPU.
        description: lines that must be the same on all ranks.

    Raises:
        UserError: see `arrival_problems`; or rank 0 ended.
    """
    arrival = {"host": socket.gethostname(), "description": description, "gpu": gpu}
    store.set(_arrived(rank), json.dumps(arrival))
    keys = [_arrived(other) for other in range(size)] if rank == 0 else [_VERDICT]
    try:
        while not (is_decided := store.check(keys)) and deadline.remaining:
            time.sleep(_POLL_SECONDS)
        if is_decided and rank != 0:
            problems = json.loads(store.get(_VERDICT))
        else:
            found = arrival_problems(_arrivals(store, size), size, local_size, deadline.seconds)
            problems = [(each.problem, each.remedy) for each in found]
        if rank == 0:
            store.set(_VERDICT, json.dumps(problems))
        hosts = [arrival["host"] for arrival in _arrivals(store, size).values()]
    except RuntimeError as error:
        raise UserError(f"rank 0 ended before all ranks had met ({first_line(error)})", "see its output") from error
    if problems:
        if rank == 0:
            time.sleep(10 * _POLL_SECONDS)  # the store ends with this process, and the others are to read the verdict
        raise UserError(Problem(*each) for each in problems)
    return hosts


def _arrived(rank: int) -> str:
    return f"arrived/{rank}"


def _arrivals(store: TCPStore, size: int) -> dict[int, dict]:
    here = [rank for rank in range(size) if store.check([_arrived(rank)])]
    return {rank: json.loads(store.get(_arrived(rank))) for rank in here}


def arrival_problems(arrivals: Mapping[int, Mapping], size: int, local_size: int, seconds: float) -> Iterator[Problem]:
    """Why these ranks cannot train together.

    Args:
        arrivals: by rank, of those that came: `host`, `description` (lines) and `gpu` (a UUID, or None).
        size: ranks that should have come, `local_size` per node (1: unknown).
        seconds: that were waited.
    """
    missing = [rank for rank in range(size) if rank not in arrivals]
    if missing:
        nodes = sorted({rank // local_size for rank in missing})
        where = f" (of node {_listed(nodes)}, counted from 0)" if local_size > 1 else ""
        hosts = sorted({arrival["host"] for arrival in arrivals.values()})
        yield Problem(
            f"rank {_listed(missing)} of {size}{where} did not start within {seconds:g} seconds; the "
            f"others did, on host {', '.join(hosts)}. Look for the cause in the missing ranks' output."
        )
        return
    first = arrivals[0]
    own_lines = first["description"].splitlines()
    users: dict[str | None, int] = {}
    for rank, arrival in sorted(arrivals.items()):
        host, lines = arrival["host"], arrival["description"].splitlines()
        if lines != own_lines:
            theirs = "; ".join(line for line in lines if line not in own_lines) or "nothing more"
            ours = "; ".join(line for line in own_lines if line not in lines) or "nothing more"
            yield Problem(
                f"rank {rank} on host {host} differs from rank 0 on host {first['host']}, which would "
                f"make them train different things: {theirs}, where rank 0 has {ours}",
                "start all ranks alike",
            )
        other = users.setdefault(arrival["gpu"], rank)
        if arrival["gpu"] is not None and other != rank:
            yield Problem(
                f"ranks {other} and {rank} on host {host} have the same GPU ({arrival['gpu']})",
                "start one process per GPU, or check CUDA_VISIBLE_DEVICES",
            )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def first_line(error: Exception) -> str:
    """What torch's errors say before their stack traces."""
    return str(error).partition("\n")[0].rstrip(".")
