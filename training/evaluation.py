"""When a run is scored on the way, and which score it trains for.

A task says it (`Task.evaluations`); the loop asks, and knows no score by its name. A run that trains for a score ends
after the evaluation that reaches it. That follows from the weights alone: a run that is resumed after the last
evaluation of such a run scores them again and stops.
"""

from collections.abc import Mapping
from typing import NamedTuple

TARGET_MISSED_EXIT_CODE = 3  # told apart from errors (1, 2) and from a stop that asks for a restart (75)


class Target(NamedTuple):
    """A score that ends the training once it is at least so high."""

    score: str
    """One of those that `Task.evaluate` returns."""
    value: float
    description: str
    """For people, such as "a masked-LM accuracy of 0.72"."""

    def is_reached(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores reach it; all ranks have the same, and so agree. NaN reaches nothing."""
        return scores[self.score] >= self.value


class Evaluations(NamedTuple):
    """When `Task.evaluate` is called; after the last step it always is."""

    every_steps: int | None = None
    every_samples: int | None = None
    before_training: bool = False
    target: Target | None = None

    def follow(self, step: int, batch_size: int) -> bool:
        """Whether the scores are due after this step, of 1 and on, of so many samples each.

        Those due every so many samples, at k times `every_samples`, come after the first step that reaches them,
        ceil(k * every_samples / batch_size).
        """
        if self.every_steps and step % self.every_steps == 0:
            return True
        every = self.every_samples
        return bool(every) and step * batch_size // every > (step - 1) * batch_size // every
