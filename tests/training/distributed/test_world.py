"""Real processes over gloo: they meet, work together, notice what goes wrong with one of them, and leave no trace."""

import ctypes
import os
import re
import signal
import threading
import time

import pytest
import torch
from ranks import free_port, run_ranks

from common.errors import UserError
from training.distributed.heartbeat import Heartbeat
from training.distributed.rendezvous import arrival_problems, meet, open_store
from training.distributed.world import World, connected, read_world

CPU = torch.device("cpu")
LIMIT = 1.2
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
REACHABLE = {**TORCHRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def connect(**arguments):
    return connected(read_world(), CPU, **{"startup_timeout": 30, "heartbeat_limit": LIMIT, **arguments})


@pytest.mark.parametrize(
    ("environ", "flag", "world"),
    [
        ({}, -1, World(0, 1, 0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, -1, World(0, 1, 0, 1)),
        (TORCHRUN, -1, World(3, 8, 1, 2)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, 1, World(3, 8, 1, 1)),
        ({}, 2, World(0, 1, 2, 1)),
    ],
)
def test_the_world_is_what_the_environment_says(monkeypatch, environ, flag, world):
    monkeypatch.setattr(os, "environ", {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", **environ})
    assert read_world(flag) == world
    assert not world.is_first or world.rank == 0


@pytest.mark.parametrize(
    ("environ", "flag", "use_env", "n_gpus"),
    [
        ({}, -1, False, 0),
        ({}, 0, False, 1),
        ({"MASTER_PORT": "tcp://10.0.0.1:80"}, -1, False, 0),  # as Kubernetes sets it for a service named master
        (REACHABLE, -1, True, 2),
        (REACHABLE, 1, True, 8),
        ({key: value for key, value in REACHABLE.items() if key != "LOCAL_RANK"}, 1, False, 2),
        ({key: value for key, value in REACHABLE.items() if key != "LOCAL_RANK"}, -1, False, 0),
    ],
)
def test_a_proper_environment_has_no_problems(monkeypatch, environ, flag, use_env, n_gpus):
    monkeypatch.setattr(os, "environ", environ)
    read_world(flag, use_env, n_gpus)


@pytest.mark.parametrize(
    ("environ", "flag", "use_env", "n_gpus", "named"),
    [
        ({**REACHABLE, "RANK": "first"}, -1, False, 0, ["RANK is 'first'"]),
        ({**REACHABLE, "WORLD_SIZE": "-8"}, -1, False, 0, ["WORLD_SIZE is '-8'"]),
        ({**REACHABLE, "LOCAL_RANK": ""}, -1, False, 0, ["LOCAL_RANK is ''"]),
        ({**REACHABLE, "MASTER_PORT": "http"}, -1, False, 0, ["MASTER_PORT is 'http'"]),
        ({**REACHABLE, "WORLD_SIZE": "0"}, -1, False, 0, ["WORLD_SIZE is 0"]),
        ({**REACHABLE, "LOCAL_WORLD_SIZE": "0"}, -1, False, 0, ["LOCAL_WORLD_SIZE is 0"]),
        ({"LOCAL_WORLD_SIZE": "9" * 5000}, -1, False, 0, ["LOCAL_WORLD_SIZE is '9999"]),
        ({**REACHABLE, "MASTER_PORT": "65536"}, -1, False, 0, ["MASTER_PORT is 65536"]),
        ({**REACHABLE, "RANK": "8"}, -1, False, 0, ["RANK is 8 and WORLD_SIZE 8"]),
        ({"RANK": "1"}, -1, False, 0, ["RANK is 1 and WORLD_SIZE 1"]),
        (TORCHRUN, -1, False, 0, ["MASTER_ADDR and MASTER_PORT"]),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, -1, False, 0, ["RANK and MASTER_ADDR and MASTER_PORT"]),
        (REACHABLE, -1, False, 1, ["process 1 of its host", "1 GPU;"]),
        ({}, 4, False, 4, ["process 4 of its host", "4 GPUs;"]),
        ({}, -1, True, 0, ["--use_env"]),
        (REACHABLE, 0, False, 0, ["--local_rank is 0, LOCAL_RANK in the environment 1"]),
        (
            {key: value for key, value in REACHABLE.items() if key != "LOCAL_RANK"},
            -1,
            False,
            2,
            ["WORLD_SIZE is 8, and LOCAL_RANK not set"],
        ),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_with_its_values(monkeypatch, environ, flag, use_env, n_gpus, named):
    monkeypatch.setattr(os, "environ", environ)
    with pytest.raises(UserError) as caught:
        read_world(flag, use_env, n_gpus)
    (sentence,) = caught.value.sentences
    assert all(part in sentence for part in named), sentence
    assert sentence.endswith(".")


def test_alone_everything_is_the_identity_and_nothing_is_connected():
    value, tensor = {"a": [1]}, torch.arange(3.0)
    threads = threading.active_count()
    with connected(World(), CPU, 30) as world:
        assert not torch.distributed.is_initialized()
        assert world.gather(value) == [value]
        assert world.broadcast(value) is value
        assert world.sum_(tensor) is tensor
        world.barrier()
        assert threading.active_count() == threads
    assert tensor.tolist() == [0, 1, 2]


def work_together():
    with connect(description="alike") as world:
        tensor = torch.tensor([1.0, 10.0**world.rank])
        assert world.sum_(tensor) is tensor
        assert tensor.tolist() == [3, 111]
        assert world.gather({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert world.broadcast(f"from {world.rank}") == "from 0"
        os.environ["MASTER_PORT"] = str(world.broadcast(free_port()))
    del world
    before = threads_and_sockets()  # with what torch starts once and keeps, on a machine with GPUs
    with connect() as world:
        time.sleep(0.4 * world.rank)
        begin = time.monotonic()
        world.barrier()
        assert world.rank != 0 or time.monotonic() - begin > 0.4
    del world
    assert not torch.distributed.is_initialized()
    assert threads_and_sockets() == before
    print("all held")


def threads_and_sockets():
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(path) for path in paths if os.path.lexists(path)]
    return len(os.listdir("/proc/self/task")), sum(target.startswith("socket") for target in targets)


def test_ranks_work_together_and_leave_no_thread_and_no_socket():
    for outcome in run_ranks(work_together, 3):
        assert (outcome.status, outcome.output) == (0, "all held\n")


def leave_apart():
    with connect() as world:
        end = time.monotonic() + 1.5 * LIMIT * world.rank
        while time.monotonic() < end:  # busy in Python, so that the heartbeat's thread must fight for its turn
            sum(range(1000))


def test_ranks_may_be_busy_and_leave_long_after_one_another():
    for outcome in run_ranks(leave_apart, 3):
        assert (outcome.status, outcome.output) == (0, "")
        assert outcome.seconds > 3 * LIMIT


def let_go_slowly():
    destroy = torch.distributed.destroy_process_group
    with connect() as world:
        if world.rank == 1:
            torch.distributed.destroy_process_group = lambda: (time.sleep(0.8), destroy())


def test_rank_0_and_its_store_outlive_a_rank_that_is_slow_to_leave():
    for outcome in run_ranks(let_go_slowly, 2):
        assert (outcome.status, outcome.output) == (0, "")


def only_connect(timeout, descriptions=("", "", "")):
    description = descriptions[int(os.environ["RANK"])]
    with connect(startup_timeout=timeout, description=description):
        print("connected")


def test_a_missing_rank_is_named_by_all_others_within_the_stated_time():
    outcomes = run_ranks(only_connect, 3, 2, ranks=(0, 2))
    for outcome in outcomes:
        assert outcome.status == 2
        assert re.match(r"error: rank 1 of 3 did not start within 2 seconds;", outcome.output)
        assert outcome.output.count("\n") == 1
        assert 2 < outcome.seconds < 7


def test_a_missing_rank_0_is_named():
    (outcome,) = run_ranks(only_connect, 2, 1, ranks=(1,))
    assert outcome.status == 2
    assert re.match(r"error: rank 1 on host .* found no rank 0 at 127\.0\.0\.1 .*within 1 seconds;", outcome.output)
    assert outcome.output.count("\n") == 1


def test_a_rank_with_another_description_is_named_with_what_differs():
    descriptions = ("--seed 1", "--seed 1", "--seed 2")
    for outcome in run_ranks(only_connect, 3, 30, descriptions):
        assert outcome.status == 2
        assert re.match(r"error: rank 2 on host .* rank 0 on .*: --seed 2, where rank 0 has --seed 1;", outcome.output)
        assert outcome.output.count("\n") == 1
        assert outcome.seconds < 10


def test_missing_ranks_are_told_with_the_hosts_that_are_there():
    arrivals = {rank: {"host": f"gpu{rank // 8}", "description": "", "gpu": None} for rank in (*range(8), 16)}
    (sentence,) = map(str, arrival_problems(arrivals, 17, 60))
    assert "rank 8, 9, 10, 11, 12, 13, 14, 15 of 17 did not start within 60 seconds" in sentence
    assert "gpu0, gpu2" in sentence


def test_ranks_that_share_a_gpu_are_named():
    arrivals = {r: {"host": "gpu0", "description": "", "gpu": uuid} for r, uuid in enumerate(["a", "b", "a", "c"])}
    (sentence,) = map(str, arrival_problems(arrivals, 4, 60))
    assert "ranks 0 and 2 on host gpu0 have the same GPU (a)" in sentence


def arrive_but_never_join():
    if os.environ["RANK"] == "1":
        store = open_store(1, 10)
        store.set("beat/1", "0")
        meet(store, 1, 2, None, "", 10)
        time.sleep(5)
        return
    with connect(startup_timeout=2, heartbeat_limit=30):
        print("connected")


def test_ranks_that_cannot_join_end_with_the_likely_cause():
    outcome, _ = run_ranks(arrive_but_never_join, 2)
    assert outcome.status == 1
    assert re.search(
        r"error: all 2 ranks started, but rank 0 on host \S+ could not join .* within 2 sec", outcome.output
    )
    assert "GLOO_SOCKET_IFNAME" in outcome.output
    assert 2 < outcome.seconds < 10  # its start counts too, which takes a while on a busy machine


def be_killed(victim, in_collective):
    with connect() as world:
        if world.rank == victim:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        while in_collective:
            world.sum_(torch.ones(1))
        time.sleep(60)


@pytest.mark.parametrize("in_collective", [True, False])
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_others_which_name_it(victim, in_collective):
    outcomes = run_ranks(be_killed, 3, victim, in_collective)
    for rank, outcome in enumerate(outcomes):
        if rank == victim:
            assert outcome.status == -signal.SIGKILL
            continue
        assert outcome.status in (1, 2)
        assert re.search(rf"^error: .*rank {victim} on host \S+ is gone", outcome.output, re.MULTILINE)
        assert outcome.output.count("error: ") == 1
        assert outcome.seconds - outcomes[victim].seconds < 8 * LIMIT  # generous: the machine may be busy


def lose_another_and_hold_pythons_lock():
    try:
        be_killed(1, in_collective=True)
    finally:
        ctypes.PyDLL(None).sleep(60)


def test_a_rank_that_lost_another_ends_although_no_thread_of_python_runs():
    """As where PyTorch frees memory that ranks share, and waits for a GPU that waits for the lost rank."""
    outcome, killed = run_ranks(lose_another_and_hold_pythons_lock, 2)
    assert killed.status == -signal.SIGKILL
    assert outcome.status == 1
    assert "lose_another_and_hold_pythons_lock" in outcome.output  # its stack
    assert outcome.seconds - killed.seconds < 30


def be_killed_and_then_ended_by_the_launcher():
    find_lost = Heartbeat.find_lost

    def find_lost_meanwhile(beats):
        os.kill(os.getpid(), signal.SIGTERM)
        return find_lost(beats)

    Heartbeat.find_lost = find_lost_meanwhile
    be_killed(0, in_collective=True)


def test_the_lost_rank_is_named_although_torchrun_noticed_it_first():
    """It sends SIGTERM to the processes of its host, when it finds that another is gone."""
    _, outcome = run_ranks(be_killed_and_then_ended_by_the_launcher, 2)
    assert outcome.status == 2, outcome.output
    assert re.search(r"^error: .*rank 0 on host \S+ is gone", outcome.output, re.MULTILINE)


def fail(rank, error):
    with connect() as world:
        if world.rank == rank:
            raise error
        world.sum_(torch.ones(1))
        time.sleep(60)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_others_which_refer_to_it(rank):
    outcomes = run_ranks(fail, 2, rank, ValueError("a bug"))
    failed, other = outcomes[rank], outcomes[1 - rank]
    assert failed.status == 1
    assert "ValueError: a bug" in failed.output
    assert other.status in (1, 2)
    assert re.search(rf"^error: .*rank {rank} on host \S+ ended with an error", other.output, re.MULTILINE)
    assert other.output.count("error: ") == 1


def test_an_error_that_only_reads_like_a_lost_connection_passes_as_it_is():
    failed, _ = run_ranks(fail, 2, 0, RuntimeError("the cache timed out, connection reset"))
    assert failed.status == 1
    assert "RuntimeError: the cache timed out, connection reset" in failed.output
    assert "lost contact" not in failed.output
