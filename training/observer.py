"""Who is told of a run while it goes, without a say in it.

A task may have one (`Task.observer`): a log in a form of others, whose lines stand for moments of the run. The loop
calls it at these moments and knows no such form.
"""

from collections.abc import Mapping


class RunObserver:
    """Is told of a training; this one does nothing with it. A context manager around model, training and scores.

    All ranks call each method.
    """

    def __enter__(self) -> "RunObserver":
        return self

    def __exit__(self, *exception) -> None:
        """The run is over: as it should be, by a signal or by an error."""

    def training_starts(self) -> None:
        """The model is made; from here on data are read."""

    def evaluation_starts(self, samples: int) -> None:
        """After so many samples of training."""

    def evaluation_ends(self, samples: int, scores: Mapping[str, float]) -> None:
        """What the evaluation found; none where there is nothing to evaluate on."""

    def training_ends(self, samples: int, target_reached: bool) -> None:
        """No step and no evaluation follows; neither a signal nor an error was the reason."""
