"""Gradients by graphs are those of plain autograd. Recording itself is of GPUs: see tests/tasks/*/test_gpu.py."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from graph_recorder import Recorder
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.cuda_graphs import GradientGraphs, no_garbage_collection
from training.distributed.bucket_reduction import BucketReduction


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    max_seqlen: int = 8


class Tied(nn.Module):
    """A weight with two uses, as BERT's word embeddings, and sizes that are no multiple of anything."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.inner = nn.Linear(5, 5)
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, inputs):
        return torch.tanh(self.inner(inputs @ self.weight.T)) @ self.weight + self.bias


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def losses(model, batch):
    output = model(batch.inputs)
    return output.square().mean(), output.mean()


def draw(n_rows, seed):
    return Batch(torch.randn(n_rows, 3, generator=torch.Generator().manual_seed(seed)))


@given(
    steps=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 0.5, 1024.0]),
    bucket_elements=st.none() | st.integers(1, 1000),
    reduces_each=st.booleans(),
)
def test_gradients_are_those_of_backward(steps, scale, bucket_elements, reduces_each):
    """Of whatever shapes follow each other, within a step and from one to the next.

    With buckets they are also averaged over two ranks, of which the other has thrice the gradients of this one.
    """
    torch.manual_seed(0)
    model = Tied()
    parameters, factor, reduction = list(model.parameters()), 1, None
    if bucket_elements:
        factor = 2
        reduction = BucketReduction(parameters, lambda bucket: bucket.mul_(2), bucket_bytes=4 * bucket_elements)
    graphs = GradientGraphs(lambda batch: losses(model, batch), parameters, reduction, Recorder())
    for number, step in enumerate(steps):
        batches = [draw(n_rows, 10 * number + place) for place, n_rows in enumerate(step)]
        found = []
        for place, batch in enumerate(batches):
            reduces = reduces_each or place == len(batches) - 1
            found.append(graphs(batch, scale, accumulates=place > 0, reduces=reduces))
        gradients = [parameter.grad.clone() for parameter in parameters]
        model.zero_grad()
        for place, (batch, values) in enumerate(zip(batches, found, strict=True)):
            expected = losses(model, batch)
            # The average of each micro-batch is added to before the next one's, which takes it for this rank's.
            times = factor ** (len(batches) - place) if reduces_each else factor
            (expected[0] * scale * times).backward()
            assert values.tolist() == [loss.item() for loss in expected]
        torch.testing.assert_close(gradients, [parameter.grad for parameter in parameters])
        model.zero_grad()


def test_the_first_of_a_shape_runs_the_second_is_recorded_the_rest_are_replayed(model):
    recorder = Recorder()
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), record=recorder)
    counts = []
    for seed, n_rows in enumerate([2, 2, 2, 5, 5, 2, 5]):
        graphs(draw(n_rows, seed), 1.0, accumulates=False)
        counts.append((recorder.n_recorded, recorder.n_replayed))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 2), (2, 3), (2, 4), (2, 5)]


def test_another_longest_sequence_is_another_graph(model):
    recorder = Recorder()
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), record=recorder)
    for max_seqlen in (8, 8, 16, 16):
        graphs(Batch(draw(2, 0).inputs, max_seqlen), 1.0, accumulates=False)
    assert recorder.n_recorded == 2


def test_batches_are_read_and_losses_kept(model):
    """A replay writes over neither what it was given nor what the last one returned."""
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), record=Recorder())
    batches = [draw(2, seed) for seed in range(4)]
    copies = [batch.inputs.clone() for batch in batches]
    found = [graphs(batch, 1.0, accumulates=False) for batch in batches]
    assert all(torch.equal(batch.inputs, copy) for batch, copy in zip(batches, copies, strict=True))
    assert [values[0].item() for values in found] == [losses(model, batch)[0].item() for batch in batches]


@pytest.mark.gpu
@pytest.mark.parametrize("overlaps", [False, True])
def test_gradients_are_averaged_behind_what_fills_them_in_a_graph(overlaps):
    """The device is kept busy before backward, so that an average which did not wait would find the last gradients.

    What is expected is detached: CUDA records no graph beside one of autograd's.
    """
    torch.manual_seed(0)
    model = Tied().cuda()
    parameters = list(model.parameters())
    reduction = BucketReduction(parameters, lambda bucket: bucket.mul_(2), overlaps=overlaps, bucket_bytes=4)

    def slow_losses(batch):
        torch.cuda._sleep(10_000_000)
        return losses(model, batch)

    graphs = GradientGraphs(slow_losses, parameters, reduction)
    for number, n_rows in enumerate([2, 2, 2, 5, 5, 2, 5, 2]):
        batch = Batch(draw(n_rows, number).inputs.cuda())
        values = graphs(batch, 1.0, accumulates=False)
        gradients = [parameter.grad.clone() for parameter in parameters]
        model.zero_grad()
        expected = torch.stack(losses(model, batch))
        (2 * expected[0]).backward()
        expected = expected.detach()
        torch.testing.assert_close(values, expected)
        torch.testing.assert_close(gradients, [parameter.grad for parameter in parameters])
        model.zero_grad()


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


def test_garbage_is_collected_before_a_recording_and_not_during_it():
    earlier = weakref.ref(Cycle())
    thresholds = gc.get_threshold()
    gc.set_threshold(1)  # a collection for almost every object that is made
    try:
        with no_garbage_collection():
            assert earlier() is None
            inside = weakref.ref(Cycle())
            [[] for _ in range(1000)]
            assert inside() is not None
        assert gc.isenabled()
    finally:
        gc.set_threshold(*thresholds)


def test_garbage_is_collected_again_after_a_recording_that_failed():
    with pytest.raises(ZeroDivisionError), no_garbage_collection():
        _ = 1 // 0
    assert gc.isenabled()
