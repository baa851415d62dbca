"""The processes of a run: who they are, how they find each other, and how they end together.

torchrun's environment says who is who. The ranks meet (rendezvous.py), then join in torch's process groups, and from
the one to the end of the other a heartbeat watches over them (heartbeat.py), as torch itself lets them wait for a lost
rank in silence. Whatever goes wrong, the rank and its host are named.
"""

import contextlib
import dataclasses
import datetime
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore

from common.errors import Problem, Problems, UserError
from training.distributed import heartbeat
from training.distributed.heartbeat import Heartbeat
from training.distributed.rendezvous import Deadline, connect, first_line, meet, open_store

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""A dead rank is the heartbeat's to notice; this is for one that hangs, and must let rank 0 write or evaluate alone."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

_ARRIVED, _JOINING, _JOINED = "has not begun to join", "waits for the first all-reduce", "has joined"

# What gloo and NCCL say when a peer is gone. Their other errors, such as tensors that do not match, are bugs.
_LOST_CONTACT = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|timeout"
    r"|remote process exited|network error|unhandled system error|aborted",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them. Alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this host; 1 also where the launcher does not say."""
    control_group: dist.ProcessGroup | None = None
    """Over gloo, for Python values and votes, so that neither waits for a GPU; `connected` makes it."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace the tensor, on the ranks' device, by its sum over all ranks; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list:
        """Every rank's value (any that pickles), in rank order, on every rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control_group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (any that pickles); the others' arguments are ignored."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.control_group)
        return values[0]

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier(self.control_group)


def world_problems(environ: Mapping[str, str], local_rank_flag: int, use_env: bool, n_gpus: int) -> list[Problem]:
    """What is wrong with the launcher's environment.

    Args:
        environ: of this process; RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT count.
        local_rank_flag: `--local_rank`, which older launchers pass; -1: not given.
        use_env: `--use_env` was given, which says that LOCAL_RANK counts.
        n_gpus: GPUs this process sees; 0 for a run on the CPU.
    """
    problems = Problems()
    by_torchrun = "start with torchrun"
    for name in _VARIABLES:
        value = environ.get(name, "0")
        problems.check(value.isdecimal(), f"{name} is {value!r} in the environment, not a number", by_torchrun)
    if problems.found:
        return problems.found
    world = read_world(environ, local_rank_flag)
    if world.size < 1:
        problems.add("WORLD_SIZE is 0 in the environment", "start at least one process")
    elif world.rank >= world.size:
        problems.add(f"RANK is {world.rank} and WORLD_SIZE {world.size}", f"ranks count from 0, so {by_torchrun}")
    if world.size > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
        problems.check(not missing, f"WORLD_SIZE is {world.size} and {' and '.join(missing)} not set", by_torchrun)
        port = environ.get("MASTER_PORT") or "0"
        problems.check(port.isdecimal(), f"MASTER_PORT is {port!r}, not a number", "give a free port")
    has_local_rank = "LOCAL_RANK" in environ
    if use_env and not has_local_rank:
        problems.add("--use_env says that LOCAL_RANK is in the environment, and it is not", by_torchrun)
    if has_local_rank and local_rank_flag not in (-1, world.local_rank):
        problems.add(
            f"--local_rank is {local_rank_flag}, LOCAL_RANK in the environment {world.local_rank}", "leave out the flag"
        )
    if n_gpus and world.size > 1 and not has_local_rank and local_rank_flag < 0 and not use_env:
        problems.add(
            f"WORLD_SIZE is {world.size}, and neither LOCAL_RANK in the environment nor --local_rank says which GPU is "
            "this process's",
            by_torchrun,
        )
    if n_gpus and world.local_rank >= n_gpus:
        problems.add(
            f"this is process {world.local_rank} of its host (LOCAL_RANK), counted from 0, and it sees {n_gpus} "
            f"GPU{'s' if n_gpus > 1 else ''}",
            "start one process per GPU, or check CUDA_VISIBLE_DEVICES",
        )
    return problems.found


def read_world(environ: Mapping[str, str], local_rank_flag: int = -1) -> World:
    """The world that the launcher's environment describes, of one process where it describes none.

    LOCAL_RANK counts; `--local_rank` fills in where it is absent. `world_problems` says what cannot be read.
    """
    local_rank = environ.get("LOCAL_RANK", max(local_rank_flag, 0))
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    rank, size, local_size = (int(environ.get(name, name != "RANK")) for name in names)
    return World(rank, size, int(local_rank), local_size)


@contextlib.contextmanager
def connected(
    world: World,
    device: torch.device,
    startup_timeout: float = 120.0,
    description: str = "",
    heartbeat_limit: float = 20.0,
) -> Iterator[World]:
    """Connect the ranks; inside, the yielded world's methods and torch.distributed work. Alone, it does nothing.

    Rank 0 is looked for at MASTER_ADDR and MASTER_PORT of the environment. When the block ends without an exception,
    all ranks leave together; with one (SystemExit too), this rank leaves at once, and the others end soon after.

    Args:
        world: what `read_world` found in an environment without `world_problems`.
        device: this rank's, with its index where it is a GPU: NCCL there, gloo on the CPU.
        startup_timeout: seconds until all ranks must have met and done their first all-reduce.
        description: lines that must be the same on all ranks; those that differ are quoted.
        heartbeat_limit: seconds without a sign of life after which a rank counts as lost. This process then prints
            which and ends with status 1, wherever its main thread is.

    Raises:
        UserError: a rank is missing, differs, shares a GPU or could not join; or, in the block, contact was lost.
    """
    if world.size == 1:
        yield world
        return
    deadline = Deadline(startup_timeout)
    store = open_store(world.rank, deadline)
    heartbeat.prepare(store, world.rank)
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    ranks = (world.rank, world.size, world.local_size)
    hosts = meet(store, *ranks, gpu, description, deadline)
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    beats = Heartbeat(
        connect(store.host, store.port, heartbeat_limit), world.rank, hosts, heartbeat_limit, launcher=launcher
    )
    try:
        with _joining(store, hosts, deadline):
            world = _join(store, world, device)
        with _naming_the_lost(beats, world.rank, hosts):
            yield world
            world.barrier()
    except BaseException as error:
        sentence = f"{type(error).__name__}: {error}"
        beats.end(heartbeat.FAILED)
        with _ending_after(heartbeat_limit, lambda: sentence):
            _abort_groups(device)
        beats.await_others(heartbeat_limit / 3)
        raise
    dist.destroy_process_group()
    beats.end(heartbeat.FINISHED)  # after the groups, which use the store until their end
    beats.await_others(heartbeat_limit)


def _join(store: Store, world: World, device: torch.device) -> World:
    """Make the process groups and prove them by an all-reduce."""
    store.set(_stage(world.rank), _JOINING)
    is_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_gpu else "gloo",
        store=PrefixStore("groups", store),
        rank=world.rank,
        world_size=world.size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if is_gpu else None,
    )
    world = dataclasses.replace(world, control_group=dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
    total = world.sum_(torch.ones(1, device=device)).item()
    if total != world.size:
        raise RuntimeError(f"the first all-reduce gave {total} in a world of {world.size}")
    store.set(_stage(world.rank), _JOINED)
    store.set_timeout(COLLECTIVE_TIMEOUT)
    return world


def _stage(rank: int) -> str:
    return f"stage/{rank}"


@contextlib.contextmanager
def _joining(store: TCPStore, hosts: list[str], deadline: Deadline) -> Iterator[None]:
    """Say what each rank does when joining fails here or, by ending the process, when it takes too long."""

    def sentence() -> str:
        stages: dict[str, list[str]] = {}
        try:
            asking = connect(store.host, store.port, 5.0)  # as torch may hang in a call that holds the other
            for rank, host in enumerate(hosts):
                stage = asking.get(_stage(rank)).decode() if asking.check([_stage(rank)]) else _ARRIVED
                stages.setdefault(stage, []).append(f"{rank} on host {host}")
        except (ConnectionError, RuntimeError):
            stages = {"is gone": [f"0 on host {hosts[0]}"]}
        each = "; ".join(f"rank {', '.join(names)} {stage}" for stage, names in sorted(stages.items()))
        return (
            f"all {len(hosts)} ranks started, but did not join within {deadline.seconds:g} seconds: {each}. See their "
            "output, and that the hosts reach each other (NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network "
            "interface to use)."
        )

    try:
        with _ending_after(deadline.remaining, sentence):
            yield
    except RuntimeError as error:
        raise UserError(f"{sentence()} Torch says: {first_line(error)}.") from error


@contextlib.contextmanager
def _ending_after(seconds: float, sentence: Callable[[], str]) -> Iterator[None]:
    """Print the sentence and end the process with status 1 where the block, in which torch may hang, takes longer."""
    timer = threading.Timer(seconds, lambda: heartbeat.end_process(sentence()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def _naming_the_lost(beats: Heartbeat, rank: int, hosts: list[str]) -> Iterator[None]:
    """Turn torch's error about a peer that is gone into a UserError that says which; all other errors pass."""
    try:
        yield
    except RuntimeError as error:
        is_connection = isinstance(error, dist.DistError) or "gloo/transport" in str(error)
        symptom = _LOST_CONTACT.search(str(error))
        if not (is_connection and symptom):
            raise
        _outlive_launcher()
        lost = beats.find_lost() or "all that are left show signs of life; see the output of each."
        raise UserError(
            f"rank {rank} on host {hosts[rank]} lost contact with another rank ({symptom.group().lower()}): {lost}"
        ) from error


def _outlive_launcher() -> None:
    """Go on after a SIGTERM from now on: torchrun, which may notice a lost host first, sends one to its processes.

    This one ends by itself within seconds, and would otherwise do so without a word about who is lost.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _abort_groups(device: torch.device) -> None:
    if not dist.is_initialized():
        return
    if device.type == "cuda":
        # Destroying would wait for the collective that the lost rank has left.
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
