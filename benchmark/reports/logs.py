"""What the log of a run says of its phases, as they stand.

A log holds every start of its run, one after the other. Where training resumed from a checkpoint, the steps after that
checkpoint count as they were made the second time; where it started over, nothing of the earlier start counts.
"""

import dataclasses
from pathlib import Path
from typing import Any

from benchmark.tables import number
from common.errors import UserError
from training.metrics.logger import read_log


@dataclasses.dataclass
class Phase:
    """A phase of pre-training, or fine-tuning."""

    steps: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What was logged with the mean loss of an optimizer step, by step of the phase. Skipped steps are none."""
    throughput: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The figures of the last start that measured them."""
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of pre-training's evaluation after the last step."""

    def start(self, first_step: int) -> None:
        """A process trains on with `first_step` steps behind it."""
        self.steps = {step: data for step, data in self.steps.items() if step <= first_step}
        if first_step == 0:
            self.throughput, self.scores = {}, {}

    def add(self, step: int | None, data: dict[str, Any]) -> None:
        """Take a logged line; without a step it is that of the whole run."""
        if step is not None and "average_loss" in data:
            self.steps[step] = data
            self.scores = {}  # they were of weights that have been trained further
        if step is None and "sequences_per_second" in data:
            self.throughput = data
        if "eval_mlm_accuracy" in data:
            self.scores = data

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Step and value of "average_loss" or "learning_rate" in rising order, NaN included."""
        values = [(step, number(data.get(name))) for step, data in sorted(self.steps.items())]
        return [(step, value) for step, value in values if value is not None]

    def rate(self, name: str) -> float | None:
        """A figure of the throughput."""
        return number(self.throughput.get(name))


@dataclasses.dataclass
class Run:
    """A training run, from its log."""

    label: str = ""
    task: str = "pretraining"
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    phases: dict[int, Phase] = dataclasses.field(default_factory=lambda: {1: Phase(), 2: Phase()})
    """By number; fine-tuning is phase 1."""
    scored: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """SQuAD's scores by file of questions, the last of each; with `steps`, made before."""

    def trained(self) -> dict[int, Phase]:
        """The phases that have steps, by number."""
        return {name: phase for name, phase in self.phases.items() if phase.steps}

    def name_of(self, phase: int) -> str:
        """A phase in words."""
        return {"pretraining": f"phase {phase}", "squad": "SQuAD"}.get(self.task, self.task)


def read_run(path: str | Path, label: str = "") -> Run:
    """What a log says.

    Raises:
        UserError: the file cannot be read, or is not a log.
    """
    try:
        events = read_log(path)
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror})", "give a dllogger.json") from error
    if not events:
        raise UserError(f"{path} has no DLLogger line", "give the dllogger.json of a run")
    run = Run(label)
    phase, trains, predict_file = run.phases[1], True, ""
    for event in events:
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG":
            continue
        if step == "PARAMETER":
            arguments = data.get("arguments") or {}
            run.task = data.get("task", run.task)
            run.environment = data.get("environment") or run.environment
            phase = run.phases[2 if arguments.get("phase2") else 1]
            trains, predict_file = arguments.get("do_train", True), str(arguments.get("predict_file"))
            if trains:
                phase.start(data.get("first_step") or 0)
        elif trains and isinstance(step, list | int):
            phase.add(step if isinstance(step, int) else step[-1] if step else None, data)
        if step == [] and "exact_match" in data:
            run.scored[predict_file] = {**data, "steps": max(phase.steps, default=None)}
    return run


def read_phases(path: str | Path) -> dict[int, Phase]:
    """The phases of a log that have steps, by number; runs that only evaluated have none.

    Raises:
        UserError: the file cannot be read, is not a log, or has no steps.
    """
    phases = read_run(path).trained()
    if not phases:
        raise UserError(f"{path} has no optimizer step", "the run ended before its first, or only evaluated")
    return phases
