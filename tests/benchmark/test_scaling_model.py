"""The arithmetic of many GPUs: against numbers worked out by hand, two GPUs, and what gloo sends over real links."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest

from benchmark.scaling_model import Model, main, parse_arguments
from common.errors import UserError

NO_LOADER = Model(loader_rate=1e12, buckets=38)


@pytest.mark.parametrize(
    ("n_gpus", "ring", "tree"),
    [
        # In ms. Hops: 14 of 4 us. Bytes: 14/8 of 1,345 MB at 450 GB/s; of the tree, twice.
        (8, 14 / 8 * 2.98889 + 38 * 0.056, 2 * 2.98889 + 38 * 0.056),
        # 14 hops between nodes of 14 us, 112 within; three levels of nodes; at 8 x 50 GB/s.
        (64, 126 / 64 * 3.3625 + 38 * 0.644, 2 * 3.3625 + 38 * 0.140),
        (1024, 2046 / 1024 * 3.3625 + 38 * 10.724, 2 * 3.3625 + 38 * 0.252),
    ],
)
def test_reductions_are_those_worked_out_by_hand(n_gpus, ring, tree):
    assert 1e3 * NO_LOADER.ring(n_gpus) == pytest.approx(ring, rel=1e-4)
    assert 1e3 * NO_LOADER.tree(n_gpus) == pytest.approx(tree, rel=1e-4)


def test_one_gpu_reduces_nothing():
    seconds = 65536 / 2090 + 0.005
    assert NO_LOADER.step(1) == pytest.approx((seconds, seconds))


def test_a_step_of_1024_gpus_is_that_worked_out_by_hand():
    # 64 sequences are 30.622 ms, of which 20.4 are the backward pass; the tree takes 16.301 ms, a bucket of it 0.429.
    best, worst = NO_LOADER.step(1024)
    assert 1e3 * best == pytest.approx(30.622 + 5 + 0.429, abs=2e-3)
    assert 1e3 * worst == pytest.approx(68 + 5 + 16.301 + 12.5, abs=2e-3)
    # What does not fit beside the backward pass is left: 8 sequences have one of 2.552 ms.
    best, _ = dataclasses.replace(NO_LOADER, global_batch=8192).step(1024)
    assert 1e3 * best == pytest.approx(3.828 + 5 + 16.301 - 2.552, abs=2e-3)


def test_within_a_node_no_reduction_hides():
    # 8,192 sequences are 3,919.617 ms; the ring takes 7.359.
    best, worst = NO_LOADER.step(8)
    assert 1e3 * best == pytest.approx(3919.617 + 5 + 7.359, abs=2e-3)
    assert worst == pytest.approx(best + 0.0125)


def test_no_step_is_faster_than_the_loader():
    assert Model(loader_rate=65536.0).step(1024) == (1.0, 1.0)


@pytest.mark.parametrize(("n_gpus", "micro_batches"), [(1, 128), (8, 16), (64, 2), (128, 1), (1024, 1)])
def test_accumulation_shrinks_as_gpus_grow(n_gpus, micro_batches):
    assert NO_LOADER.micro_batches(n_gpus) == micro_batches


@pytest.mark.parametrize(("one", "two", "gigabytes"), [(2150, 4071, 1.345), (2561, 4773, 0.672)])
def test_two_measured_gpus_lie_between_best_and_worst(one, two, gigabytes):
    """Section 18 of the performance log: an update and a reduction for every 512 sequences of each of two H100.

    The second one is at worst, as NCCL's kernels slowed the backward pass by more than all of the reduction took.
    """
    rate = 512 / (512 / one - 0.005)  # without the update
    model = dataclasses.replace(NO_LOADER, global_batch=1024, rate=rate, gigabytes=gigabytes)
    best, worst = model.step(2)
    assert best < 1024 / two < 1.005 * worst


def test_small_micro_batches_are_as_fast_as_they_were_measured():
    """Section 17: sequences/s of one H100 with an update for each of these micro-batches."""
    for size, rate in ((64, 1804), (256, 2010), (384, 2040)):
        assert size / Model(global_batch=size, loader_rate=1e12).step(1)[0] == pytest.approx(rate, rel=0.005)


def test_the_table_is_printed_and_every_field_is_a_flag(capsys):
    main(["--num_gpus", "64", "--loader_rate", "1e9", "--steps", "3600"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["64", "2", "22.7", "10.2"]
    assert row.split("|")[-2].strip() == "0.50 to 0.52"
    assert vars(parse_arguments([])).keys() == vars(Model()).keys() | {"num_gpus"}


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(UserError) as error:
        main(["--num_gpus", "8", "0", "--network", "0"])
    assert str(error.value).count("must be greater than zero") == 2


def ip(*words):
    subprocess.run(["ip", *words], capture_output=True, check=True)


@pytest.fixture
def hosts():
    """Three network namespaces, each with eth0 to a bridge, and their addresses; all in one that is their own."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces needs root and iproute2")
    number = os.getpid() % 2**12
    names, bridge = [f"reduce-{number}-{host}" for host in range(3)], f"rb{number}"
    try:
        ip("link", "add", bridge, "up", "type", "bridge")
        for host, name in enumerate(names):
            ip("netns", "add", name)
            ip(
                "link",
                "add",
                f"rv{number}{host}",
                "master",
                bridge,
                "up",
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                name,
            )
            ip("-netns", name, "address", "add", f"10.212.{number % 256}.{host + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-netns", name, "link", "set", device, "up")
        yield dict(zip(names, (f"10.212.{number % 256}.{host + 1}" for host in range(3)), strict=True))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"bridged network namespaces cannot be made here ({error.stderr.decode().strip()})")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)


REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
for _ in range(3):
    dist.all_reduce(torch.ones(1_000_000))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_each_rank_of_gloo_sends_what_a_ring_sends(hosts):
    """As many bytes as the arithmetic says, and a tenth more at most, as packets have headers."""
    common = {"WORLD_SIZE": "3", "MASTER_ADDR": next(iter(hosts.values())), "MASTER_PORT": "29555"}
    common |= {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", REDUCE], env=os.environ | common | {"RANK": str(rank)}
        )
        for rank, name in enumerate(hosts)
    ]
    try:
        assert [process.wait(100) for process in processes] == [0] * 3
    finally:
        for process in processes:
            process.kill()
    link = Model(gigabytes=0.004, buckets=1, gpus_per_node=1, network=1.0, network_us=1e-9)
    expected = 3 * 1e9 * link.ring(3)  # at one byte per nanosecond
    for name in hosts:
        counter = ["ip", "netns", "exec", name, "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
        sent = int(subprocess.run(counter, capture_output=True, check=True).stdout)
        assert expected < sent < 1.1 * expected
