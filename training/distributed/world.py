"""The processes of a run: who they are, how they find each other, and how they end together.

torchrun's environment says who is who. The ranks meet (rendezvous.py), then join in torch's process groups, and from
the one to the end of the other a heartbeat watches over them (heartbeat.py), as torch itself lets them wait for a lost
rank in silence. Whatever goes wrong, the rank and its host are named.
"""

import contextlib
import dataclasses
import datetime
import faulthandler
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store

from common.errors import Problems, UserError
from common.words import counted
from training.distributed import heartbeat
from training.distributed.heartbeat import Heartbeat
from training.distributed.rendezvous import first_line, meet, open_store
from training.environment.gpu_uuid import gpu_uuid

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""A dead rank is the heartbeat's to notice; this is for one that hangs, and must let rank 0 write or evaluate alone."""

BY_TORCHRUN = "start with torchrun"


@dataclasses.dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them. Alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # processes on this host; 1 also where the launcher does not say
    control_group: dist.ProcessGroup | None = None  # over gloo: Python values and votes wait for no GPU

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


def read_world(local_rank: int = -1, use_env: bool = False, n_gpus: int = 0) -> World:
    """The world that the launcher's environment describes, of one process where it describes none.

    Args:
        local_rank: `--local_rank`, which older launchers pass in place of LOCAL_RANK; -1: not given.
        use_env: `--use_env` was given, which says that LOCAL_RANK counts.
        n_gpus: GPUs this process sees; 0 for a run on the CPU.

    Raises:
        UserError: every problem with RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    """
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": max(local_rank, 0), "LOCAL_WORLD_SIZE": 1}
    values = {name: os.environ.get(name, str(default)) for name, default in defaults.items()}
    if values["WORLD_SIZE"] != "1":
        values["MASTER_PORT"] = os.environ.get("MASTER_PORT") or "0"
    problems = Problems()
    for name, value in values.items():
        is_number = re.fullmatch("[0-9]{1,9}", value)
        problems.check(is_number, f"{name} is {value[:40]!r} in the environment, not a number", BY_TORCHRUN)
        is_none = is_number and "SIZE" in name and int(value) == 0
        problems.check(not is_none, f"{name} is 0 in the environment, and counts this process too", BY_TORCHRUN)
    problems.raise_if_any()
    world = World(*(int(values[name]) for name in defaults))
    port = int(values.get("MASTER_PORT", 0))
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT"] if world.size > 1 else []
    if use_env or (n_gpus and world.size > 1 and local_rank < 0):
        needed.append("LOCAL_RANK")
    missing = [name for name in needed if not os.environ.get(name)]
    given = f"WORLD_SIZE is {world.size}{' and --use_env given' if use_env else ''}"
    for is_wrong, problem, remedy in (
        (missing, f"{given}, and {' and '.join(missing)} not set in the environment", BY_TORCHRUN),
        (port > 65535, f"MASTER_PORT is {port} in the environment", "choose a port from 1024 to 65535"),
        (world.rank >= world.size, f"RANK is {world.rank} and WORLD_SIZE {world.size}", "ranks count from 0"),
        (
            "LOCAL_RANK" in os.environ and local_rank not in (-1, world.local_rank),
            f"--local_rank is {local_rank}, LOCAL_RANK in the environment {world.local_rank}",
            "leave out the flag",
        ),
        (
            0 < n_gpus <= world.local_rank,
            f"this is process {world.local_rank} of its host (LOCAL_RANK), counted from 0, and it sees "
            f"{counted(n_gpus, 'GPU')}",
            "start one process per GPU, or check CUDA_VISIBLE_DEVICES",
        ),
    ):
        problems.check(not is_wrong, problem, remedy)
    problems.raise_if_any()
    return world


@contextlib.contextmanager
def connected(
    world: World, device: torch.device, startup_timeout: float, description: str = "", heartbeat_limit: float = 20.0
) -> Iterator[World]:
    """Connect the ranks; inside, the yielded world's methods and torch.distributed work. Alone, it does nothing.

    Rank 0 is looked for at MASTER_ADDR and MASTER_PORT of the environment. When the block ends without an exception,
    all ranks leave together; with one (SystemExit too), this rank leaves at once, and the others end soon after. This
    process must then end within `heartbeat_limit`, and is ended if it does not.

    Args:
        world: of `read_world`.
        device: this rank's, with its index where it is a GPU: NCCL there, gloo on the CPU.
        startup_timeout: seconds in which all ranks must meet, and again in which they must do their first all-reduce.
        description: what must be the same on all ranks.
        heartbeat_limit: seconds without a sign of life after which a rank counts as lost. This process then prints
            which and ends with status 1, wherever its main thread is.

    Raises:
        UserError: a rank is missing, differs, shares a GPU or could not join; or, in the block, contact was lost.
    """
    if world.size == 1:
        yield world
        return
    silent = (  # of those who wait for an answer: rank 0 waits for others at most as long, and they for it
        f"rank {world.rank} on host {socket.gethostname()} met no other within {3 * startup_timeout:g} seconds: rank 0 "
        "or its launcher is frozen, or cannot be reached any more. See whether its host is alive."
    )
    with ending_after(3 * startup_timeout, silent):
        store = open_store(world.rank, startup_timeout)
        heartbeat.prepare(store, world.rank)
        names = meet(store, world.rank, world.size, gpu_uuid(device), description, startup_timeout)
        beats = Heartbeat(store, world.rank, names, heartbeat_limit)
    try:
        world = _join(store, world, device, names[world.rank], startup_timeout)
        try:
            yield world
            world.barrier()
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
                raise
            # Torchrun, which may notice a lost host first, would end this process without a word about who is lost.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if lost := beats.find_lost():
                raise UserError(f"{names[world.rank]} lost contact with another rank: {lost}") from error
            raise
    except BaseException as error:
        beats.end(heartbeat.FAILED)
        with ending_after(heartbeat_limit, f"{type(error).__name__}: {error}"):
            if dist.is_initialized() and device.type == "cuda":
                # Destroying would wait for the collective that the lost rank has left.
                dist.distributed_c10d._abort_process_group()
            elif dist.is_initialized():
                dist.destroy_process_group()
        beats.await_others(heartbeat_limit / 3)
        # By a thread without Python's lock: PyTorch holds it while it frees memory that ranks share, and waits for the
        # GPU, which may wait for a lost rank.
        faulthandler.dump_traceback_later(heartbeat_limit, exit=True)
        raise
    dist.destroy_process_group()
    beats.end(heartbeat.FINISHED)  # after the groups, which use the store until their end
    beats.await_others(heartbeat_limit)


def _join(store: Store, world: World, device: torch.device, own_name: str, seconds: float) -> World:
    """Make the process groups and prove them by an all-reduce."""
    is_gpu = device.type == "cuda"
    sentence = (
        f"all {world.size} ranks started, but {own_name} could not join the others within {seconds:g} seconds. See "
        "their output, and that the hosts reach each other (NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network "
        "interface to use)."
    )
    try:
        with ending_after(seconds, sentence):
            dist.init_process_group(
                "nccl" if is_gpu else "gloo",
                store=PrefixStore("groups", store),
                rank=world.rank,
                world_size=world.size,
                timeout=COLLECTIVE_TIMEOUT,
                device_id=device if is_gpu else None,
            )
            control_group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
            world = dataclasses.replace(world, control_group=control_group)
            total = world.sum_(torch.ones(1, device=device)).item()
            if total != world.size:
                raise RuntimeError(f"the first all-reduce gave {total} in a world of {world.size}")
    except RuntimeError as error:
        raise UserError(f"{sentence} Torch says: {first_line(error)}.") from error
    store.set_timeout(COLLECTIVE_TIMEOUT)
    return world


@contextlib.contextmanager
def ending_after(seconds: float, sentence: str) -> Iterator[None]:
    """Print the sentence and end the process with status 1 where the block, in which torch may hang, takes longer."""
    timer = threading.Timer(seconds, heartbeat.end_process, [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
