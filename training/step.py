"""One optimizer step: its micro-batches forward and backward, the reduction over ranks, the update, the learning rate.

Nothing here reads a value back from the device, except fp16's loss scale, so that the host runs ahead of a GPU; losses
are fetched only when somebody logs them. What is random in a micro-batch follows from the seed and its place in the
data: a run draws the same dropout however often it was stopped, on any number of ranks, without a saved state.
"""

import contextlib
import dataclasses
import enum
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.profiler_ranges import named_range
from optimization import WarmupSchedule, clip_and_step, gradient_norm
from training.cuda_graphs import GradientGraphs
from training.distributed.world import World
from training.loss_scale import LossScale


class Outcome(enum.Enum):
    """What became of an optimizer step. One that was not taken leaves weights, moments and schedule as they were."""

    TAKEN = "taken"
    SKIPPED = "the scaled gradient was not finite, and the data is used up"
    INTERRUPTED = "training was asked to stop, and the data counts as unseen"


class StepResult(NamedTuple):
    """An outcome, and the micro-batches (on the host) that went into it."""

    outcome: Outcome
    micro_batches: list[Any]


@dataclasses.dataclass
class TrainingStep:
    """Calls `loss_function` on `accumulation_steps` micro-batches, then updates the parameters once."""

    loss_function: Callable[[Any], tuple[Tensor, ...]]
    """Takes a micro-batch that lies on the device; returns the loss to train on first, then its parts, all scalars."""
    optimizer: Any
    schedule: WarmupSchedule
    accumulation_steps: int
    """Micro-batches per step. The gradient is the mean of theirs, summed in the parameters' fp32."""
    device: torch.device
    _: dataclasses.KW_ONLY
    max_grad_norm: float = math.inf
    seed: int = 0
    """Of all random numbers drawn within micro-batches, which also have a `first_sample`."""
    loss_scale: LossScale | None = None
    backward: Callable[[Tensor, bool, bool], None] = lambda loss, accumulates, reduces: loss.backward()
    """Adds a scalar's gradients to those that are there, where it `accumulates`; averages them where it `reduces`."""
    reduces_each: bool = False
    """Reduce over ranks after each micro-batch, and not only after the last."""
    world: World = dataclasses.field(default_factory=World)
    must_stop: Callable[[], bool] = lambda: False
    """Asked before each micro-batch, on all ranks with the same answer; True interrupts the step."""
    part: Callable[[str], contextlib.AbstractContextManager] = named_range
    """Gives a context to run a part of the step in, by its name: see `training.metrics.step_times`."""
    graphs: GradientGraphs | None = None
    """Compute the gradients, and reduce them, in place of `loss_function` and backward."""

    def __post_init__(self) -> None:
        self.gradient_norm: Tensor | None = None
        """The global norm before clipping of the last step taken, 0-d on the device, the loss scale taken out."""
        self._loss_sums: Tensor | None = None
        self._n_steps = 0
        self._n_nonfinite = torch.zeros((), dtype=torch.int64, device=self.device)
        self._first_nonfinite = torch.full((), -1, dtype=torch.int64, device=self.device)

    def __call__(self, micro_batches: Iterator[Any]) -> StepResult:
        """Train on the next micro-batches."""
        consumed: list[Any] = []
        sums: Tensor | None = None
        while len(consumed) < self.accumulation_steps:
            if self.must_stop():
                self.optimizer.zero_grad(set_to_none=True)
                return StepResult(Outcome.INTERRUPTED, consumed)
            with self.part("data"):
                micro_batch = next(micro_batches)
                on_device = micro_batch.to(self.device)
            consumed.append(micro_batch)
            losses = self._forward_and_backward(on_device, len(consumed))
            sums = losses if sums is None else sums + losses
        with self.part("optimizer"):
            updated = self._update()
        if not updated:
            return StepResult(Outcome.SKIPPED, consumed)
        self.world.sum_(sums)
        means = sums / (self.accumulation_steps * self.world.size)
        self._loss_sums = means if self._loss_sums is None else self._loss_sums + means
        self._n_steps += 1
        return StepResult(Outcome.TAKEN, consumed)

    def _forward_and_backward(self, micro_batch: Any, number: int) -> Tensor:
        """The losses of the step's first, second, ... micro-batch; its gradient is added to that of those before."""
        seed_generator(self.device, self.seed, micro_batch.first_sample)
        scale = (self.loss_scale.scale if self.loss_scale else 1.0) / self.accumulation_steps
        reduces = self.reduces_each or number == self.accumulation_steps
        if self.graphs is not None:
            with self.part("forward_backward"):
                values = self.graphs(micro_batch, scale, accumulates=number > 1, reduces=reduces)
        else:
            with self.part("forward"):
                losses = self.loss_function(micro_batch)
            with self.part("backward"):
                self.backward(losses[0] * scale, number > 1, reduces)
            values = torch.stack([loss.detach() for loss in losses])
        is_bad = ~torch.isfinite(values[0])
        is_first = is_bad & (self._n_nonfinite == 0)
        self._first_nonfinite = torch.where(is_first, micro_batch.first_sample, self._first_nonfinite)
        self._n_nonfinite = self._n_nonfinite + is_bad
        return values

    def _update(self) -> bool:
        """Whether the optimizer stepped; the gradients are gone either way."""
        scale = self.loss_scale.scale if self.loss_scale else 1.0
        norm = gradient_norm(self.optimizer.param_groups) / scale
        finite = self.loss_scale is None or math.isfinite(norm.item())
        if finite:
            self.gradient_norm = norm
            clip_and_step(self.optimizer, norm, self.max_grad_norm, scale)
            self.schedule.step()
        if self.loss_scale is not None:
            self.loss_scale.step_taken() if finite else self.loss_scale.step_skipped()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    @property
    def has_losses(self) -> bool:
        """Whether a step was taken since `clear_losses`."""
        return self._n_steps > 0

    def mean_losses(self) -> list[float]:
        """The losses, averaged over ranks and over the steps taken since `clear_losses`. Waits for the device."""
        return (self._loss_sums / self._n_steps).tolist()

    def clear_losses(self) -> None:
        """Begin a new average."""
        self._loss_sums, self._n_steps = None, 0

    def nonfinite_losses(self) -> tuple[int, int | None]:
        """How many micro-batches of this process had a loss that is no number, and the first's place in the data."""
        count, first = int(self._n_nonfinite), int(self._first_nonfinite)
        return count, first if count else None

    def state_dict(self) -> dict[str, Any]:
        """The loss scale, and the unfinished average, without which a resumed run would log another one."""
        return {
            "loss_sums": self._loss_sums,
            "n_steps": self._n_steps,
            "loss_scale": self.loss_scale.state_dict() if self.loss_scale else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; a loss scale where both runs have one."""
        sums = state["loss_sums"]
        self._loss_sums = None if sums is None else sums.to(self.device)
        self._n_steps = state["n_steps"]
        if self.loss_scale is not None and state["loss_scale"] is not None:
            self.loss_scale.load_state_dict(state["loss_scale"])


def seed_generator(device: torch.device, seed: int, first_sample: int) -> None:
    """Seed the device's generator for the micro-batch that begins with this sample; nothing waits for the device."""
    mixed = int(np.random.SeedSequence([seed, first_sample]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    (torch.cuda if device.type == "cuda" else torch.default_generator).manual_seed(mixed)
