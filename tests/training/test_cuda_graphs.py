"""Gradients by graphs are those of plain autograd. Recording itself is of GPUs: see test_run_pretraining_gpu.py."""

import inspect
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.cuda_graphs import GradientGraphs


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    max_seqlen: int = 8


class Recorder:
    """Runs nothing while it records, as CUDA, and all of it again at every replay, which leaves losses where it did."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, function):
        self.n_recorded += 1
        recording = inspect.getclosurevars(function).nonlocals["self"]

        def replay():
            self.n_replayed += 1
            before = getattr(recording, "_losses", None)
            function()
            if before is not None:
                recording._losses = before.copy_(recording._losses)

        return replay


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
)
def test_gradients_are_those_of_backward(steps, scale):
    """Of whatever shapes follow each other, within a step and from one to the next."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), Recorder())
    for number, step in enumerate(steps):
        batches = [draw(n_rows, 10 * number + place) for place, n_rows in enumerate(step)]
        found = [graphs(batch, scale, accumulates=place > 0) for place, batch in enumerate(batches)]
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        for batch, values in zip(batches, found, strict=True):
            expected = losses(model, batch)
            (expected[0] * scale).backward()
            assert values.tolist() == [loss.item() for loss in expected]
        torch.testing.assert_close(gradients, [parameter.grad for parameter in model.parameters()])
        model.zero_grad()


def test_the_first_of_a_shape_runs_the_second_is_recorded_the_rest_are_replayed(model):
    recorder = Recorder()
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), recorder)
    counts = []
    for seed, n_rows in enumerate([2, 2, 2, 5, 5, 2, 5]):
        graphs(draw(n_rows, seed), 1.0, accumulates=False)
        counts.append((recorder.n_recorded, recorder.n_replayed))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 2), (2, 3), (2, 4), (2, 5)]


def test_another_longest_sequence_is_another_graph(model):
    recorder = Recorder()
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), recorder)
    for max_seqlen in (8, 8, 16, 16):
        graphs(Batch(draw(2, 0).inputs, max_seqlen), 1.0, accumulates=False)
    assert recorder.n_recorded == 2


def test_batches_are_read_and_losses_kept(model):
    """A replay writes over neither what it was given nor what the last one returned."""
    graphs = GradientGraphs(lambda batch: losses(model, batch), model.parameters(), Recorder())
    batches = [draw(2, seed) for seed in range(4)]
    copies = [batch.inputs.clone() for batch in batches]
    found = [graphs(batch, 1.0, accumulates=False) for batch in batches]
    assert all(torch.equal(batch.inputs, copy) for batch, copy in zip(batches, copies, strict=True))
    assert [values[0].item() for values in found] == [losses(model, batch)[0].item() for batch in batches]
