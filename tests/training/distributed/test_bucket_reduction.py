"""Buckets of gradients: what lies where, when a bucket is full, and in which order buckets are averaged."""

import datetime
import functools
import itertools
import os

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from training.distributed import bucket_reduction
from training.distributed.bucket_reduction import ALIGNMENT, BucketReduction, divide
from training.distributed.data_parallel import average, send_weights


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), most=st.integers(1, 60))
def test_runs_go_from_the_last_to_the_first_and_none_is_too_large_or_could_be_longer(sizes, most):
    runs = divide(sizes, most)
    assert [index for run in runs for index in run] == list(reversed(range(len(sizes))))
    totals = [sum(sizes[index] for index in run) for run in runs]
    assert all(total <= most or len(run) == 1 for run, total in zip(runs, totals, strict=True))
    for run, total in zip(runs, totals[1:], strict=False):
        assert sizes[run[-1]] + total > most


@given(
    shapes=st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=1, max_size=6),
    bucket_elements=st.integers(1, 2000),
)
def test_gradients_are_aligned_and_apart(shapes, bucket_elements):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    reduction = BucketReduction(parameters, lambda bucket: None, bucket_bytes=4 * bucket_elements)
    for value, gradient in enumerate(reduction.gradients, start=1):
        assert gradient.storage_offset() % ALIGNMENT == 0
        assert gradient.is_contiguous()
        gradient.fill_(value)
    for value, (gradient, parameter) in enumerate(zip(reduction.gradients, parameters, strict=True), start=1):
        assert gradient.shape == parameter.shape
        assert (gradient == value).all()


class Noted:
    """A queue that notes what it is told, in place of a stream and events."""

    def __init__(self, notes):
        self._notes = notes

    def mark(self, number):
        self._notes.append(f"{number} is full")

    def behind(self, number):
        self._notes.append(f"behind {number}")
        return bucket_reduction._NoStream().behind(number)

    def join(self):
        self._notes.append("join")


def in_buckets_of_one(parameters, notes):
    """A reduction whose bucket k has the parameter that is the k-th from the end, alone."""
    reduction = BucketReduction(
        parameters, lambda bucket: notes.append("average"), lambda: notes.append("begin"), bucket_bytes=4
    )
    reduction._queue = Noted(notes)
    return reduction


def test_a_bucket_is_full_within_backward_and_averages_keep_their_order():
    """Backward makes a's and c's gradients before b's, which lies deeper; all is queued by the buckets' numbers."""
    notes = []
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    b.register_hook(lambda gradient: notes.append("b"))
    reduction = in_buckets_of_one([a, b, c], notes)
    reduction.fill((torch.sigmoid(b.exp()) * a + c).sum(), accumulates=False)
    assert notes.index("2 is full") < notes.index("b") < notes.index("1 is full")
    assert notes.index("0 is full") < notes.index("b")
    notes.clear()
    reduction.reduce()
    assert notes == ["begin", "behind 0", "average", "behind 1", "average", "behind 2", "average", "join"]


def test_after_backward_all_gradients_are_averaged_at_once():
    averaged = []
    parameters = [nn.Parameter(torch.full((n,), 3.0)) for n in (200, 2)]
    reduction = BucketReduction(
        parameters, averaged.append, lambda: averaged.append("begin"), overlaps=False, bucket_bytes=4
    )
    reduction.backward(sum(parameter.square().sum() for parameter in parameters), accumulates=False, reduces=True)
    begin, memory = averaged
    assert begin == "begin"
    assert memory.shape == (3 * ALIGNMENT,)
    memory.div_(2)
    assert all((parameter.grad == 3).all() for parameter in parameters)


def test_a_bucket_waits_for_all_uses_of_its_weight():
    notes = []
    torch.manual_seed(0)
    inputs, tied = torch.randn(2, 4), nn.Parameter(torch.randn(4, 4))
    reduction = in_buckets_of_one([tied], notes)
    reduction.fill((inputs @ tied @ tied.T).square().sum(), accumulates=False)
    assert notes == ["0 is full"]
    (expected,) = torch.autograd.grad((inputs @ tied @ tied.T).square().sum(), [tied])
    torch.testing.assert_close(reduction.gradients[0], expected)


def test_hooks_are_gone_after_backward():
    notes = []
    weight = nn.Parameter(torch.ones(2))
    reduction = in_buckets_of_one([weight], notes)
    reduction.fill(weight.sum(), accumulates=False)
    weight.square().sum().backward()
    assert notes == ["0 is full"]
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        reduction.fill(torch.zeros((), requires_grad=True) * 1, accumulates=False)
    weight.square().sum().backward()
    assert notes == ["0 is full"]


@pytest.mark.parametrize("accumulates", [False, True])
def test_autograd_keeps_no_gradient_of_its_own(monkeypatch, accumulates):
    """What it returns lies in the buckets, where a pass of BERT-large would else hold 1.3 GB until its end."""
    returned = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *values: returned.extend(grad(*values)))
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    reduction = in_buckets_of_one(parameters, [])
    reduction.fill(sum(parameter.square().sum() for parameter in parameters), accumulates)
    assert [found.data_ptr() for found in returned] == [place.data_ptr() for place in reduction.gradients]
    assert all((place == 2).all() for place in reduction.gradients)


def test_gradients_are_handed_over_when_they_are_averaged():
    weight = nn.Parameter(torch.full((2,), 3.0))
    reduction = BucketReduction([weight], lambda bucket: bucket.div_(2))
    reduction.backward(weight.square().sum(), accumulates=False, reduces=False)
    assert weight.grad is None
    reduction.backward(2 * weight.square().sum(), accumulates=True, reduces=True)
    assert weight.grad.tolist() == [9.0, 9.0]  # (2 w + 4 w) / 2


def test_buckets_in_bf16_round_each_gradient_once():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(n)) for n in (300, 2)]
    reduction = BucketReduction(parameters, lambda bucket: None, bucket_bytes=4, dtype=torch.bfloat16)

    def loss():
        return sum(parameter.exp().sum() for parameter in parameters)

    reduction.backward(loss(), accumulates=False, reduces=True)
    for parameter in parameters:
        assert torch.equal(parameter.grad, parameter.detach().exp().bfloat16())


class Operators(TorchDispatchMode):
    """Notes each operator with the dtype of its result."""

    def __init__(self, notes):
        super().__init__()
        self._notes = notes

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **keywords or {})
        self._notes.append(f"{operator._schema.name.removeprefix('aten::')} in {result.dtype}".replace("torch.", ""))
        return result


@pytest.mark.parametrize(("reduce_dtype", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_16_bits_take_one_pass_before_they_are_sent_and_one_after(monkeypatch, reduce_dtype, dtype):
    """The division rounds, and the copy casts back; two ranks have the same gradients here."""
    notes = []
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda sent: sent.mul_(2))
    bucket = torch.tensor([1.0, 1 + 2**-12])
    with Operators(notes):
        average(bucket, reduce_dtype)
    assert notes == [f"empty_like in {dtype}", f"div in {dtype}", f"mul_ in {dtype}", "copy_ in float32"]
    assert bucket.tolist() == [1.0, 1.0]


def average_on_ranks(store, n_ranks):
    """What each rank checks: its gradients, which come in an order of its own, are averaged with those of all."""
    rank = int(os.environ["RANK"])
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n_ranks, timeout=timeout)
    torch.manual_seed(rank)
    model = nn.ModuleList([nn.Linear(3, 50), nn.Linear(3, 400)])
    model.register_buffer("count", torch.full((), rank))
    send_weights(model)
    assert model.count == 0
    for dtype, overlaps in itertools.product(("fp32", "bf16", "fp16"), (False, True)):
        parameters = list(model.parameters())
        average_in = functools.partial(average, reduce_dtype=dtype)
        reduction = BucketReduction(parameters, average_in, overlaps=overlaps, bucket_bytes=512)

        def loss(of_rank):
            inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(of_rank))
            first, second = model if of_rank % 2 else reversed(model)  # backward reaches them in other orders
            return first(inputs).square().mean() + second(inputs).tanh().mean() * of_rank

        reduction.backward(loss(rank), accumulates=False, reduces=True)
        for parameter in parameters:
            parameter.grad = None
        sum(loss(of_rank) / n_ranks for of_rank in range(n_ranks)).backward()
        bound = {"fp32": 1e-6, "bf16": 2e-2, "fp16": 2e-3}[dtype]
        for parameter, gradient in zip(parameters, reduction.gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=bound, atol=bound)
            assert dtype == "fp32" or not torch.equal(gradient, parameter.grad)
            parameter.grad = None
    dist.destroy_process_group()


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_ranks_that_fill_buckets_in_other_orders_average_the_same(tmp_path, n_ranks):
    """Buckets differ in size: of two that met each other, gloo would say so, or the sums be wrong."""
    store = tmp_path / "store"
    outcomes = run_ranks(average_on_ranks, n_ranks, str(store), n_ranks)
    assert [outcome.status for outcome in outcomes] == [0] * n_ranks, "\n".join(o.output for o in outcomes)
