"""The optimizer step: what its gradient is, when the schedule moves, and what it reports as the loss."""

import dataclasses

import pytest
import torch
from pretraining_runs import LENGTH, PREDICTIONS, SHAPE
from shards import write_shards

from configuration import BertConfig
from data.pretraining_dataset import PretrainingDataset
from modeling import BertForPreTraining
from optimization import WarmupSchedule
from training.step import TrainingStep

CPU = torch.device("cpu")


@dataclasses.dataclass
class Batch:
    inputs: torch.Tensor

    def to(self, device):
        return Batch(self.inputs.to(device))


class RecordingSGD(torch.optim.SGD):
    """Keeps the gradient and the rate of each step."""

    def step(self):
        group = self.param_groups[0]
        self.__dict__.setdefault("seen", []).append((group["params"][0].grad.clone(), group["lr"]))
        super().step()


def toy(accumulation_steps):
    """Minimises (w * x)^2 with a second loss of x alone; returns the step and its optimizer."""
    weight = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = RecordingSGD([weight], lr=1.0)
    schedule = WarmupSchedule(optimizer, 10, 0.5, 0.1, "constant")

    def loss_function(batch):
        return (weight * batch.inputs).square().mean(), batch.inputs.mean()

    return TrainingStep(loss_function, optimizer, schedule, accumulation_steps, CPU), optimizer


def batches(*values):
    return iter([Batch(torch.tensor(float(value))) for value in values])


def test_gradient_is_the_mean_over_micro_batches():
    step, optimizer = toy(accumulation_steps=3)
    step(batches(1, 2, 3))
    gradient, rate = optimizer.seen[0]
    assert gradient.item() == pytest.approx(2 * 2.0 * (1 + 4 + 9) / 3)  # d/dw of w^2 x^2 at w = 2
    assert rate == pytest.approx(0.1 / 5)  # the first of five steps of warm-up
    assert optimizer.param_groups[0]["params"][0].grad is None


def test_accumulation_equals_one_big_batch_of_a_real_model(tmp_path):
    """All sequences here have as many masked positions, so the mean of the micro-batches' means is the mean."""
    write_shards(tmp_path)
    gradients = {}
    for accumulation_steps in (1, 2, 4):
        torch.manual_seed(0)
        model = BertForPreTraining(BertConfig(**SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        schedule = WarmupSchedule(optimizer, 1, 0.0, 1.0, "constant")
        before = [parameter.detach().clone() for parameter in model.parameters()]

        def loss_function(batch, model=model):
            names = [f.name for f in dataclasses.fields(batch)][:8]
            return model(**{name: getattr(batch, name) for name in names})

        step = TrainingStep(loss_function, optimizer, schedule, accumulation_steps, CPU)
        dataset = PretrainingDataset(tmp_path, 16 // accumulation_steps, LENGTH, PREDICTIONS, num_workers=0)
        with dataset.iterate() as micro_batches:
            consumed = step(micro_batches)
        assert len(consumed) == accumulation_steps
        change = torch.cat([(b - p).flatten() for b, p in zip(before, model.parameters(), strict=True)])
        gradients[accumulation_steps] = (change, step.mean_losses())
    for accumulation_steps in (2, 4):
        change, mean_losses = gradients[accumulation_steps]
        assert (change - gradients[1][0]).norm() < 1e-5 * gradients[1][0].norm()
        assert mean_losses == pytest.approx(gradients[1][1], rel=1e-5)


def test_schedule_moves_once_a_step():
    step, optimizer = toy(accumulation_steps=2)
    for _ in range(6):
        step(batches(1, 1))
    assert [rate for _, rate in optimizer.seen] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert step.schedule.finished_steps == 6


def test_no_more_micro_batches_are_taken_than_asked_for():
    step, _ = toy(accumulation_steps=2)
    stream = batches(1, 2, 3)
    assert [batch.inputs.item() for batch in step(stream)] == [1, 2]
    assert next(stream).inputs.item() == 3


def test_mean_losses_average_until_they_are_cleared():
    step, _ = toy(accumulation_steps=2)
    with pytest.raises(RuntimeError, match="no step"):
        step.mean_losses()
    step(batches(1, 2))
    assert step.mean_losses()[1] == 1.5
    step(batches(6, 7))
    assert step.mean_losses()[1] == 4.0
    step.clear_losses()
    step(batches(10, 20))
    assert step.mean_losses()[1] == 15.0


def test_an_unfinished_average_goes_on_from_its_state():
    step, _ = toy(accumulation_steps=2)
    step(batches(1, 2))
    other, _ = toy(accumulation_steps=2)
    other.load_state_dict(step.state_dict())
    other(batches(3, 6))
    assert other.mean_losses()[1] == 3.0
    other.clear_losses()
    step.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="no step"):
        step.mean_losses()
