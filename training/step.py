"""One optimizer step: its micro-batches forward and backward, the learning rate, the update.

Nothing here reads a value back from the device. The host so runs ahead of a GPU by as many steps as the queue holds;
losses are summed on the device and fetched only when somebody logs them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from optimization import WarmupSchedule


class TrainingStep:
    """Calls `loss_function` on `accumulation_steps` micro-batches, then updates the parameters once.

    Args:
        loss_function: takes a micro-batch that lies on the device; returns the loss to train on first, then its parts,
            all scalars.
        optimizer: its gradients are empty after each step.
        schedule: told after each step, so that it sets the learning rate of the next.
        accumulation_steps: micro-batches per step. The gradient is the mean of theirs, summed in the parameters' fp32.
        device: where micro-batches are moved to.
    """

    def __init__(
        self,
        loss_function: Callable[[Any], tuple[Tensor, ...]],
        optimizer: torch.optim.Optimizer,
        schedule: WarmupSchedule,
        accumulation_steps: int,
        device: torch.device,
    ):
        self.loss_function = loss_function
        self.optimizer = optimizer
        self.schedule = schedule
        self.accumulation_steps = accumulation_steps
        self.device = device
        self._loss_sums: Tensor | None = None
        self._n_losses = 0

    def __call__(self, micro_batches: Iterator[Any]) -> list[Any]:
        """Train on the next micro-batches and return them (on the host), for those who count what was processed."""
        consumed = []
        for _ in range(self.accumulation_steps):
            micro_batch = next(micro_batches)
            losses = self.loss_function(micro_batch.to(self.device))
            (losses[0] / self.accumulation_steps).backward()
            self._add(losses)
            consumed.append(micro_batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return consumed

    def _add(self, losses: tuple[Tensor, ...]) -> None:
        values = torch.stack([loss.detach() for loss in losses])
        self._loss_sums = values if self._loss_sums is None else self._loss_sums + values
        self._n_losses += 1

    def mean_losses(self) -> list[float]:
        """The losses, averaged over the micro-batches since `clear_losses`. Waits for the device."""
        if self._loss_sums is None:
            raise RuntimeError("no step was made since the losses were cleared")
        return (self._loss_sums / self._n_losses).tolist()

    def clear_losses(self) -> None:
        """Begin a new average."""
        self._loss_sums, self._n_losses = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The unfinished average, without which a resumed run would log others than one that never stopped."""
        return {"loss_sums": self._loss_sums, "n_losses": self._n_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums = state["loss_sums"]
        self._loss_sums = None if sums is None else sums.to(self.device)
        self._n_losses = state["n_losses"]
