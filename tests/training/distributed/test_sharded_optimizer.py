"""Sharded over real processes, the optimizer gives the weights and the state of the unsharded one, bit for bit."""

import concurrent.futures
import copy
import datetime
import math
import multiprocessing
import pickle

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from optimization import build_optimizer, clip_and_step, gradient_norm
from training.distributed import sharded_optimizer
from training.distributed.sharded_optimizer import ShardedOptimizer, partition

MANY = [  # shape, weight decay, blocks: not in the order of their sizes, several per rank, one of a single number
    [((7, 5), 0.01, 1), ((11, 13), 0.01, 1), ((3,), 0.01, 1), ((8, 8), 0.01, 1)],
    [((6, 4), 0.01, 3), ((9, 9), 0.01, 3)],
    [((13,), 0.0, 1), ((1,), 0.0, 1), ((5,), 0.0, 1)],
]
FEW = [[((4, 4), 0.01, 1)], [((4,), 0.0, 1)]]
WITHOUT_GRADIENT = (0, 2)  # group and place of a parameter that never gets one
SMALL_BUCKET = 300  # bytes: some hold several tensors, some one


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "optimization", "hypothesis", "pytest"])  # once, not in each process
    with concurrent.futures.ProcessPoolExecutor(4, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def on_ranks(processes, tmp_path, n_ranks, function, *arguments):
    """What `function(rank, n_ranks, *arguments)` returns on each rank of a new group of processes."""
    store = tmp_path / f"store_{len(list(tmp_path.iterdir()))}"
    store.touch()
    # Whoever waits for the others takes no second task, so each rank gets a process.
    calls = [
        processes.submit(in_group, str(store), rank, n_ranks, function, pickle.dumps(arguments))
        for rank in range(n_ranks)
    ]
    return [pickle.loads(call.result(timeout=60)) for call in calls]


def in_group(store, rank, n_ranks, function, arguments):
    timeout = datetime.timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n_ranks, timeout=timeout)
    try:
        return pickle.dumps(function(rank, n_ranks, *pickle.loads(arguments)))
    finally:
        dist.destroy_process_group()


def new_groups(layout):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "params": [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape, _, _ in group],
            "weight_decay": group[0][1],
            "n_blocks": group[0][2],
        }
        for group in layout
    ]


def new_optimizer(name, layout, rank=None, n_ranks=None):
    def build(groups):
        kernels = "triton" if name == "lamb_of_triton" else "torch"
        return build_optimizer(name.removesuffix("_of_triton"), groups, 0.05, kernels=kernels)

    groups = new_groups(layout)
    return build(groups) if rank is None else ShardedOptimizer(build, groups, rank, n_ranks)


def train(optimizer, first_step, last_step):
    """As a schedule and a change of phase do it: rates and, at step 4, decay and step count are set from outside."""
    for step in range(first_step, last_step + 1):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / step
            if step == 4:
                group["weight_decay"] *= 2
                group["step"] = 0
        generator = torch.Generator().manual_seed(step)
        for group_place, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                gradient = torch.randn(parameter.shape, generator=generator)
                if (group_place, place) != WITHOUT_GRADIENT:
                    parameter.grad = gradient
        clip_and_step(optimizer, gradient_norm(optimizer.param_groups) / 4, 0.5, loss_scale=4.0)
        optimizer.zero_grad(set_to_none=True)
        assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


def train_sharded(rank, n_ranks, name, layout, first_step, last_step, state=None, bucket_bytes=SMALL_BUCKET):
    sharded_optimizer.BUCKET_BYTES = bucket_bytes  # in this process of the test's own
    optimizer = new_optimizer(name, layout, rank, n_ranks)
    if state is not None:
        weights, optimizer_state = state
        set_weights(optimizer, weights)
        optimizer.load_state_dict(optimizer_state)
    weights = train(optimizer, first_step, last_step)
    states = optimizer._inner.state.values() if optimizer._inner else []
    n_moments = sum(moment.numel() for state in states for key, moment in state.items() if key != "step")
    return weights, optimizer.state_dict(), n_moments


def set_weights(optimizer, weights):
    with torch.no_grad():
        for parameter, weight in zip([p for g in optimizer.param_groups for p in g["params"]], weights, strict=True):
            parameter.copy_(weight)


def train_unsharded(name, layout, first_step, last_step, state=None):
    optimizer = new_optimizer(name, layout)
    if state is not None:
        set_weights(optimizer, state[0])
        optimizer.load_state_dict(copy.deepcopy(state[1]))
    return train(optimizer, first_step, last_step), optimizer.state_dict()


def assert_identical(ours, theirs, where="state"):
    """Same types, same keys, same dtypes and bits."""
    assert type(ours) is type(theirs), where
    if torch.is_tensor(ours):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_identical(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_identical(*pair, f"{where}[{index}]")
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("name", ["lamb", "adamw"])
@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_weights_and_state_are_those_of_the_unsharded_optimizer(processes, tmp_path, name, n_ranks):
    weights, state = train_unsharded(name, MANY, 1, 6)
    assert not torch.equal(weights[0], train_unsharded(name, MANY, 1, 5)[0][0])
    results = on_ranks(processes, tmp_path, n_ranks, train_sharded, name, MANY, 1, 6)
    for rank_weights, _, _ in results:
        assert_identical(rank_weights, weights)
    assert_identical(results[0][1], state)
    assert list(results[0][1]["state"]) == list(state["state"])
    assert [rank_state for _, rank_state, _ in results[1:]] == [None] * (n_ranks - 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants Triton's interpreter: the parameters lie on the CPU")
@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_the_same_with_kernels_of_our_own(processes, tmp_path, name):
    weights, state = train_unsharded(f"{name}_of_triton", FEW, 1, 3)
    torch.testing.assert_close(weights, train_unsharded(name, FEW, 1, 3)[0], rtol=1e-5, atol=1e-6)
    results = on_ranks(processes, tmp_path, 2, train_sharded, f"{name}_of_triton", FEW, 1, 3)
    assert_identical(results[1][0], weights)
    assert_identical(results[0][:2], (weights, state))


@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_each_rank_holds_the_moments_of_its_share_alone(processes, tmp_path, n_ranks):
    sizes = [math.prod(shape) for group in MANY for shape, _, _ in group]
    total = 2 * (sum(sizes) - 3)  # two moments, but for the parameter of three numbers that has no gradient
    held = [n for _, _, n in on_ranks(processes, tmp_path, n_ranks, train_sharded, "lamb", MANY, 1, 2)]
    assert sum(held) == total
    assert max(held) <= max(2 * max(sizes), 1.1 * total / n_ranks)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_more_ranks_than_parameters(processes, tmp_path, name):
    weights, state = train_unsharded(name, FEW, 1, 5)
    results = on_ranks(processes, tmp_path, 4, train_sharded, name, FEW, 1, 5)
    for rank_weights, _, _ in results:
        assert_identical(rank_weights, weights)
    assert_identical(results[0][1], state)
    assert sorted(n for _, _, n in results) == [0, 0, 8, 32]


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_a_state_goes_on_sharded_otherwise_and_unsharded(processes, tmp_path, name):
    expected = train_unsharded(name, MANY, 1, 6)
    of_three = on_ranks(processes, tmp_path, 3, train_sharded, name, MANY, 1, 2)[0][:2]
    assert_identical(train_unsharded(name, MANY, 3, 6, of_three), expected)
    of_two = on_ranks(processes, tmp_path, 2, train_sharded, name, MANY, 3, 4, of_three)[0][:2]
    assert_identical(train_unsharded(name, MANY, 5, 6, of_two), expected)
    of_three_again = on_ranks(processes, tmp_path, 3, train_sharded, name, MANY, 5, 6, of_two)[0][:2]
    assert_identical(of_three_again, expected)
    unsharded = train_unsharded(name, MANY, 1, 3)
    for weights, _, _ in on_ranks(processes, tmp_path, 4, train_sharded, name, MANY, 4, 6, unsharded):
        assert_identical(weights, expected[0])


def test_tensors_larger_than_a_bucket_and_one_bucket_for_all_give_the_same(processes, tmp_path):
    expected = train_unsharded("lamb", MANY, 1, 4)
    for bucket_bytes in (1, 10**6):
        results = on_ranks(processes, tmp_path, 2, train_sharded, "lamb", MANY, 1, 4, None, bucket_bytes)
        assert_identical(results[1][0], expected[0])
        assert_identical(results[0][:2], expected)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_before_the_first_step_the_state_is_empty_and_loads(processes, tmp_path, name):
    expected = new_optimizer(name, MANY).state_dict()
    weights, state, _ = on_ranks(processes, tmp_path, 3, train_sharded, name, MANY, 1, 0)[0]
    assert_identical(state, expected)
    results = on_ranks(processes, tmp_path, 2, train_sharded, name, MANY, 1, 2, (weights, state))
    assert_identical(results[0][:2], train_unsharded(name, MANY, 1, 2))


def test_a_state_of_other_groups_is_refused():
    state = train_unsharded("lamb", FEW, 1, 2)[1]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        new_optimizer("lamb", MANY, 0, 2).load_state_dict(state)


def test_a_partition_worked_by_hand():
    # 5 -> share 0; 4 -> 1; 3 -> 1 (7); 3 -> 0 (8); 2 -> 1 (9)
    assert partition([2, 3, 5, 3, 4], 2) == [1, 1, 0, 0, 1]
    assert partition([1], 3) == [0]


@settings(deadline=None)  # the processes of other tests may hold the cores
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_no_share_is_larger_than_an_even_one_by_more_than_an_item(sizes, n_shares):
    shares = partition(sizes, n_shares)
    totals = [sum(size for size, share in zip(sizes, shares, strict=True) if share == s) for s in range(n_shares)]
    assert sum(totals) == sum(sizes)
    assert max(totals) <= sum(sizes) / n_shares + max(sizes)
