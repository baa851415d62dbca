"""What the log of a run says of its phases, as they stand.

A log holds every start of its run, one after the other. Where training resumed from a checkpoint, the steps after that
checkpoint count as they were made the second time; where it started over, nothing of the earlier start counts.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.tables import number
from common.errors import UserError
from training.metrics.logger import read_log


@dataclasses.dataclass
class Phase:
    """A phase of pre-training, or fine-tuning."""

    losses: dict[int, float | None] = dataclasses.field(default_factory=dict)
    """Mean training loss by optimizer step of the phase; None where it is no number. Skipped steps are none."""
    learning_rates: dict[int, float | None] = dataclasses.field(default_factory=dict)
    throughput: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The figures of the last start that measured them."""
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of pre-training's evaluation after the last step."""

    def start(self, first_step: int) -> None:
        """A process trains on with `first_step` steps behind it."""
        for curve in (self.losses, self.learning_rates):
            for step in [step for step in curve if step > first_step]:
                del curve[step]
        if first_step == 0:
            self.throughput, self.scores = {}, {}

    def add(self, step: int | None, data: dict[str, Any]) -> None:
        """Take a logged line; without a step it is that of the whole run."""
        if step is not None and "average_loss" in data:
            self.losses[step] = number(data["average_loss"])
            self.scores = {}  # they were of weights that have been trained further
        if step is not None and "learning_rate" in data:
            self.learning_rates[step] = number(data["learning_rate"])
        if step is None and "sequences_per_second" in data:
            self.throughput = data
        if "eval_mlm_accuracy" in data:
            self.scores = data

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Step and value of "average_loss" or "learning_rate" in rising order, NaN included."""
        values = self.losses if name == "average_loss" else self.learning_rates
        return [(step, value) for step, value in sorted(values.items()) if value is not None]

    @property
    def rate(self) -> float | None:
        """Sequences per second."""
        return number(self.throughput.get("sequences_per_second"))


@dataclasses.dataclass
class Run:
    """A training run, from its log."""

    label: str = ""
    task: str = "pretraining"
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    phases: dict[int, Phase] = dataclasses.field(default_factory=dict)
    """By number; fine-tuning is phase 1."""
    scored: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """SQuAD's scores by file of questions, the last of each; with `steps`, made before."""

    def name_of(self, phase: int) -> str:
        """A phase in words."""
        return "SQuAD" if self.task == "squad" else f"phase {phase}"


def read_run(path: str | Path, label: str = "") -> Run:
    """What a log says.

    Raises:
        UserError: the file cannot be read, or is not a log.
    """
    run = Run(label)
    phase, trains, predict_file = run.phases.setdefault(1, Phase()), True, ""
    for step, data in _lines(path):
        if step == "PARAMETER":
            arguments = data.get("arguments") or {}
            run.task = task_of(data)
            run.environment = data.get("environment") or run.environment
            phase = run.phases.setdefault(2 if arguments.get("phase2") else 1, Phase())
            trains, predict_file = arguments.get("do_train", True), str(arguments.get("predict_file"))
            if trains:
                phase.start(data.get("first_step") or 0)
        elif trains and isinstance(step, list | int):
            phase.add(step if isinstance(step, int) else step[-1] if step else None, data)
        if step == [] and "exact_match" in data:
            run.scored[predict_file] = {**data, "steps": max(phase.losses, default=None)}
    return run


def task_of(parameters: dict[str, Any]) -> str:
    """The task that a log's line of parameters names; older logs did not, and only SQuAD had questions to train on."""
    return parameters.get("task") or ("squad" if "train_file" in parameters.get("arguments", {}) else "pretraining")


def read_phases(path: str | Path) -> dict[int, Phase]:
    """The phases in a log that have steps, by number. Runs that only evaluated are left out.

    Raises:
        UserError: the file cannot be read, is not a log, or has no steps.
    """
    phases = {phase: found for phase, found in sorted(read_run(path).phases.items()) if found.losses}
    if not phases:
        raise UserError(f"{path} has no optimizer step", "the run ended before its first, or only evaluated")
    return phases


def _lines(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Step and data of what was logged."""
    try:
        events = read_log(path)
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror})", "give a dllogger.json") from error
    if not events:
        raise UserError(f"{path} has no DLLogger line", "give the dllogger.json of a run")
    for event in events:
        if event.get("type") == "LOG" and isinstance(event.get("data"), dict):
            yield event.get("step"), event["data"]
