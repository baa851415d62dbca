"""The optimizer step: what its gradient is, when the schedule moves, and what it reports as the loss."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining_runs import LENGTH, PREDICTIONS, SHAPE
from shards import write_shards

from data.loading.pretraining_dataset import PretrainingDataset
from modeling import BertForPreTraining
from models.config import BertConfig
from optimization import WarmupSchedule
from training.loss_scale import GROWTH_INTERVAL, LossScale
from training.step import Outcome, TrainingStep, seed_generator

CPU = torch.device("cpu")


@dataclasses.dataclass
class Batch:
    inputs: torch.Tensor
    first_sample: int = 0

    def to(self, device):
        return dataclasses.replace(self, inputs=self.inputs.to(device))


class RecordingSGD(torch.optim.SGD):
    """Keeps the gradient and the rate of each step."""

    def step(self):
        group = self.param_groups[0]
        self.__dict__.setdefault("seen", []).append((group["params"][0].grad.clone(), group["lr"]))
        super().step()


class DividingSGD(RecordingSGD):
    """Keeps the divisor of the gradients too."""

    divides_gradients = True

    def step(self, gradient_divisor):
        self.divisor = gradient_divisor
        super().step()


def toy(accumulation_steps, optimizer_class=RecordingSGD, **options):
    """Minimizes (w * x)^2 with a second loss of x alone; returns the step and its optimizer."""
    weight = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = optimizer_class([weight], lr=1.0)
    schedule = WarmupSchedule(optimizer, 10, 0.5, 0.1, "constant")

    def loss_function(batch):
        return (weight * batch.inputs).square().mean(), batch.inputs.mean()

    return TrainingStep(loss_function, optimizer, schedule, accumulation_steps, CPU, **options), optimizer


def batches(*values):
    return iter([Batch(torch.tensor(float(value)), 100 + place) for place, value in enumerate(values)])


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
            names = [f.name for f in dataclasses.fields(batch) if f.name not in ("work", "first_sample")]
            return model(**{name: getattr(batch, name) for name in names})

        step = TrainingStep(loss_function, optimizer, schedule, accumulation_steps, CPU)
        dataset = PretrainingDataset(tmp_path, 16 // accumulation_steps, LENGTH, PREDICTIONS, num_workers=0)
        with dataset.iterate() as micro_batches:
            consumed = step(micro_batches)
        assert consumed.outcome is Outcome.TAKEN
        assert len(consumed.micro_batches) == accumulation_steps
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
    assert [batch.inputs.item() for batch in step(stream).micro_batches] == [1, 2]
    assert next(stream).inputs.item() == 3


def test_mean_losses_average_until_they_are_cleared():
    step, _ = toy(accumulation_steps=2)
    assert not step.has_losses
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
    assert not step.has_losses


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_told():
    step, optimizer = toy(accumulation_steps=1, max_grad_norm=1.0)
    step(batches(3))
    assert step.gradient_norm.item() == pytest.approx(36.0)  # 2 w x^2 at w = 2, x = 3
    assert optimizer.seen[0][0].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("max_grad_norm", "scale", "expected"),
    [(3.0, None, 12.0), (3.0, 8.0, 96.0), (100.0, None, 1.0), (math.inf, 8.0, 8.0), (math.inf, None, None)],
)
def test_an_optimizer_that_divides_gradients_is_told_by_what(max_grad_norm, scale, expected):
    loss_scale = LossScale(scale) if scale else None
    step, optimizer = toy(1, DividingSGD, max_grad_norm=max_grad_norm, loss_scale=loss_scale)
    step(batches(3))
    assert optimizer.divisor == expected
    assert optimizer.seen[0][0].item() == 36.0 * (scale or 1.0)  # 2 w x^2 at w = 2, x = 3; nobody has divided it


def test_the_loss_scale_changes_no_finite_step():
    plain, plain_optimizer = toy(accumulation_steps=2, max_grad_norm=5.0)
    scaled, scaled_optimizer = toy(accumulation_steps=2, max_grad_norm=5.0, loss_scale=LossScale(2.0**10))
    for step in (plain, scaled):
        assert step(batches(1, 2)).outcome is Outcome.TAKEN
    assert scaled_optimizer.seen == plain_optimizer.seen
    assert scaled.gradient_norm == plain.gradient_norm
    assert scaled.mean_losses() == plain.mean_losses()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_step_whose_gradient_is_not_finite_is_skipped(bad):
    step, optimizer = toy(accumulation_steps=2, loss_scale=LossScale(1024.0))
    assert step(batches(1, 1)).outcome is Outcome.TAKEN
    weight, rate = optimizer.param_groups[0]["params"][0].item(), step.schedule.learning_rate
    losses = step.mean_losses()
    result = step(batches(1, bad))
    assert result.outcome is Outcome.SKIPPED
    assert len(result.micro_batches) == 2
    assert step.loss_scale.scale == 512.0
    assert len(optimizer.seen) == 1
    assert optimizer.param_groups[0]["params"][0].item() == weight
    assert optimizer.param_groups[0]["params"][0].grad is None
    assert (step.schedule.finished_steps, step.schedule.learning_rate) == (1, rate)
    assert step.mean_losses() == losses
    assert step.nonfinite_losses() == (1, 101)
    assert step(batches(1, 1)).outcome is Outcome.TAKEN
    assert (step.loss_scale.skipped, step.loss_scale.skipped_in_a_row) == (1, 0)


def test_a_gradient_beyond_fp16_alone_skips_the_step_too():
    """The loss is finite and its gradient overflows on the way, as in fp16 with a scale that is too large."""
    weight = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def loss_function(batch):
        return ((weight.half() * batch.inputs.half()).float(),)

    step = TrainingStep(
        loss_function, optimizer, WarmupSchedule(optimizer, 9, 0.0, 0.1), 1, CPU, loss_scale=LossScale(2.0**17)
    )
    outcomes = [step(batches(1)).outcome for _ in range(4)]
    assert outcomes == [Outcome.SKIPPED, Outcome.SKIPPED, Outcome.TAKEN, Outcome.TAKEN]  # 2^15 is the first to fit
    assert step.loss_scale.scale == 2.0**15
    assert step.nonfinite_losses() == (0, None)


def test_losses_that_are_no_numbers_are_counted_and_the_first_is_placed():
    step, _ = toy(accumulation_steps=1)
    for value in (1, math.inf, 1, math.nan):
        step(iter([Batch(torch.tensor(float(value)), first_sample=int(value == math.inf) * 7 + 20)]))
    # The weight itself is no number after the second step, so that all that follow are bad.
    assert step.nonfinite_losses() == (3, 27)


def test_a_stop_leaves_everything_as_it_was():
    answers = iter([False, False, False, True])
    step, optimizer = toy(accumulation_steps=2, must_stop=lambda: next(answers))
    step(batches(1, 2))
    before = (optimizer.param_groups[0]["params"][0].item(), step.mean_losses(), step.schedule.finished_steps)
    stream = batches(3, 4)
    assert step(stream).outcome is Outcome.INTERRUPTED
    assert next(stream).inputs.item() == 4
    assert (optimizer.param_groups[0]["params"][0].item(), step.mean_losses(), step.schedule.finished_steps) == before
    assert optimizer.param_groups[0]["params"][0].grad is None


@pytest.mark.parametrize(("reduces_each", "expected"), [(False, [False, False, True]), (True, [True, True, True])])
@pytest.mark.parametrize("graphs", [False, True])
def test_which_micro_batches_reduce_over_ranks(graphs, reduces_each, expected):
    """The last, or each; all but the first are added to what is there."""
    calls = []

    def backward(loss, accumulates, reduces):
        calls.append((accumulates, reduces))
        loss.backward()

    def by_graphs(micro_batch, scale, accumulates, reduces):
        (loss,) = step.loss_function(micro_batch)[:1]
        backward(loss * scale, accumulates, reduces)
        return loss.detach().reshape(1)

    step, _ = toy(
        accumulation_steps=3, backward=backward, reduces_each=reduces_each, graphs=by_graphs if graphs else None
    )
    step(batches(1, 2, 3))
    assert calls == list(zip([False, True, True], expected, strict=True))


def test_losses_are_averaged_over_ranks():
    step, _ = toy(accumulation_steps=2, world=SimpleNamespace(size=3, sum_=lambda tensor: tensor.mul_(3).add_(6)))
    step(batches(1, 3))
    assert step.mean_losses()[1] == pytest.approx(((1 + 3) * 3 + 6) / 6)


def test_random_numbers_follow_seed_and_place_alone():
    def drawn(seed, place):
        seed_generator(CPU, seed, place)
        return torch.rand(4).tolist()

    torch.manual_seed(1)
    first = drawn(5, 1000)
    torch.rand(100)
    assert drawn(5, 1000) == first
    others = [drawn(5, 1001), drawn(6, 1000), drawn(1000, 5), drawn(5, 2**40)]
    assert all(other != first for other in others)
    assert len({tuple(values) for values in others}) == len(others)


@pytest.mark.gpu
def test_random_numbers_on_a_gpu_follow_seed_and_place():
    device = torch.device("cuda")
    drawn = []
    for place in (7, 8, 7):
        seed_generator(device, 3, place)
        drawn.append(torch.rand(4, device=device).tolist())
    assert drawn[0] == drawn[2] != drawn[1]


@settings(max_examples=60, deadline=None)
@given(
    outcomes=st.lists(st.booleans(), max_size=60),
    exponent=st.integers(-3, 20),
    floor=st.sampled_from([0.125, 1.0, 64.0]),
)
def test_the_scale_halves_to_its_floor_and_counts(outcomes, exponent, floor):
    scale = LossScale(2.0**exponent, floor=floor)
    expected, in_a_row = 2.0**exponent, 0
    for finite in outcomes:
        scale.step_taken() if finite else scale.step_skipped()
        in_a_row = 0 if finite else in_a_row + 1
        if not finite and expected / 2 >= floor:
            expected /= 2
        assert scale.scale == expected
        assert scale.skipped_in_a_row == in_a_row
    assert scale.skipped == outcomes.count(False)


def test_the_scale_doubles_after_many_good_steps_and_its_state_goes_on():
    scale, other = LossScale(8.0), LossScale(1.0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.step_taken()
    assert scale.scale == 8.0
    other.load_state_dict(scale.state_dict())
    for each in (scale, other):
        each.step_taken()
        assert each.scale == 16.0
        each.step_skipped()
        assert each.state_dict() == {"scale": 8.0, "steps_since_change": 0, "skipped_in_a_row": 1, "skipped": 1}


def test_a_static_scale_never_changes():
    scale = LossScale(128.0, dynamic=False)
    scale.load_state_dict({"scale": 4.0, "steps_since_change": 0, "skipped_in_a_row": 0, "skipped": 0})
    scale.step_skipped()
    for _ in range(GROWTH_INTERVAL):
        scale.step_taken()
    assert (scale.scale, scale.skipped) == (128.0, 1)
