"""Averages in shares, by threads that share memory in place of GPUs; and by copy engines, where there are two GPUs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks

from training.distributed import copy_engines
from training.distributed.bucket_reduction import ALIGNMENT
from training.distributed.copy_engines import CopyEngines, average_in_shares, others, work_between
from training.distributed.world import World, connected, read_world


@given(
    size=st.integers(2, 8),
    n_blocks=st.integers(1, 20),
    first_block=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_rank_has_the_average_and_the_same_bits(size, n_blocks, first_block, dtype):
    """Each rank in a thread of its own. What lies around the bucket stays as it is."""
    first, n = first_block * ALIGNMENT, n_blocks * ALIGNMENT
    torch.manual_seed(n_blocks)
    buffers = [torch.randn(first + n + 5).to(dtype) for _ in range(size)]
    before = torch.stack(buffers).clone()
    barrier = threading.Barrier(size)

    def take_part(rank):
        average_in_shares(buffers[rank][first : first + n], buffers, rank, lambda: barrier.wait(timeout=60))

    with ThreadPoolExecutor(size) as threads:
        list(threads.map(take_part, range(size)))
    expected = before.double().mean(0)
    bound = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]  # in bf16 each of the additions rounds
    for buffer, own in zip(buffers, before, strict=True):
        inside = slice(first, first + n)
        assert torch.equal(buffer[inside], buffers[0][inside])
        torch.testing.assert_close(buffer[inside].double(), expected[inside], rtol=bound, atol=bound)
        assert torch.equal(buffer[:first], own[:first])
        assert torch.equal(buffer[first + n :], own[first + n :])


def test_others_begin_with_the_next():
    assert [others(rank, 4) for rank in range(4)] == [[1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]]


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("local_size", "n_visible", "reaches", "others_say", "expected"),
    [
        (2, 2, True, True, True),
        (1, 2, True, True, False),  # on two hosts
        (2, 1, True, True, False),  # each process sees its own GPU alone
        (2, 2, False, True, False),
        (2, 2, True, False, False),
    ],
)
def test_they_are_tried_where_each_gpu_reaches_all(monkeypatch, local_size, n_visible, reaches, others_say, expected):
    class Ranks(World):
        def gather(self, value):
            return [value, others_say]

    monkeypatch.setattr(copy_engines, "_has_bindings", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_visible)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, other: reaches)
    monkeypatch.setattr(copy_engines, "_is_right", lambda world, device: True)
    assert work_between(Ranks(size=2, local_size=local_size), GPU) is expected


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_where_the_trial_fails_they_do_not_work(monkeypatch, error):
    def fail(world, device):
        raise error

    monkeypatch.setattr(copy_engines, "_reaches_all", lambda world, device: True)
    monkeypatch.setattr(copy_engines, "CopyEngines", fail)
    assert not work_between(World(), GPU)


def average_on_gpus(n_elements, bucket_elements):
    """What each rank checks: averages of random numbers, with pauses of the GPUs between, are those of NCCL."""
    world = read_world(n_gpus=torch.cuda.device_count())
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    with connected(world, device, 60) as world:
        assert work_between(world, device)
        for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
            engines = CopyEngines(world, device)
            memory = engines.allocate(n_elements, dtype)
            assert not memory.any()
            side = torch.cuda.Stream(device)
            for turn in range(20):
                torch.manual_seed(100 * turn + world.rank)
                torch.cuda._sleep(int(torch.randint(2_000_000, ())))
                memory.normal_()
                expected = memory.float()
                dist.all_reduce(expected, dist.ReduceOp.AVG)
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for bucket in memory.split(bucket_elements):
                        engines.average(bucket)
                torch.cuda.current_stream().wait_stream(side)
                torch.testing.assert_close(memory.float(), expected, rtol=bound, atol=bound)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_copy_engines_average():
    outcomes = run_ranks(average_on_gpus, 2, 10_000 * ALIGNMENT, 999 * ALIGNMENT)
    assert [outcome.status for outcome in outcomes] == [0, 0], "\n".join(outcome.output for outcome in outcomes)
