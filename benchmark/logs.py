"""What the log of a run says of its phases, as they stand.

A log holds every start of its run, one after the other. Where training resumed from a checkpoint, the steps after that
checkpoint count as they were made the second time; where it started over, nothing of the earlier start counts.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from benchmark.tables import number, text
from common.errors import UserError
from training.metrics.logger import read_log


@dataclasses.dataclass
class Phase:
    """A phase of pre-training, or fine-tuning."""

    # What was logged with the mean loss of an optimizer step, by step of the phase. Skipped steps are none.
    steps: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    throughput: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the last start that measured it
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)  # of pre-training, after the last step
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the last start that trained
    # Of pre-training, by step of the phase: each time that held-out sequences were scored.
    evaluations: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Step and value of "average_loss" or "learning_rate" in rising order, NaN included."""
        values = [(step, number(data.get(name))) for step, data in sorted(self.steps.items())]
        return [(step, value) for step, value in values if value is not None]

    @property
    def held_out_losses(self) -> list[tuple[int, float]]:
        """Step and total loss of held-out sequences, in rising order; what is no finite number is left out."""
        heads = ("eval_mlm_loss", "eval_nsp_loss")
        sums = [
            (step, sum(number(scores.get(name)) or 0.0 for name in heads))
            for step, scores in sorted(self.evaluations.items())
            if number(scores.get(heads[0])) is not None
        ]
        return [(step, value) for step, value in sums if math.isfinite(value)]

    def cells(self) -> dict[str, str]:
        """A row of a table, by column."""
        losses = [loss for _, loss in self.curve("average_loss")] or [None]
        return {
            "steps": f"{max(self.steps):,}",
            "loss at start": text(losses[0], ".3f"),
            "loss at end": text(losses[-1], ".3f"),
            "held-out masked-token accuracy": text(self.scores.get("eval_mlm_accuracy"), ".1%"),
            "sequences/s": text(self.throughput.get("sequences_per_second"), ",.1f"),
            "tokens/s": text(self.throughput.get("tokens_per_second"), ",.0f"),
        }


@dataclasses.dataclass
class Run:
    """A training run, from its log."""

    label: str = ""
    task: str = "pretraining"
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)  # the last line, of the last start as a whole
    # By number; fine-tuning is phase 1. Phases without a step, as of runs that only evaluate, are left out.
    phases: dict[int, Phase] = dataclasses.field(default_factory=dict)
    # SQuAD's scores by file of questions, the last of each; with `steps`, made before.
    scored: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def name_of(self, phase: int) -> str:
        """A phase in words."""
        return {"pretraining": f"phase {phase}", "squad": "SQuAD"}.get(self.task, self.task)


def read_run(path: str | Path, label: str = "") -> Run:
    """What a log says; raises UserError where it cannot be read, or is none."""
    try:
        events = [event for event in read_log(path) if event.get("type") == "LOG"]
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror})", "give a dllogger.json") from error
    if not events:
        raise UserError(f"{path} has no DLLogger line", "give the dllogger.json of a run")
    run, phases = Run(label), {1: Phase(), 2: Phase()}
    phase, trains, predict_file = phases[1], True, ""
    for event in events:
        step, data = event["step"], event["data"]
        if step == "PARAMETER":
            arguments = data.get("arguments") or {}
            run.task = data.get("task", run.task)
            run.environment = data.get("environment") or run.environment
            trains, predict_file = arguments.get("do_train", True), str(arguments.get("predict_file"))
            phase = phases[2 if arguments.get("phase2") else 1]
            if trains:
                phase.settings = data
                first_step = data.get("first_step") or 0
                phase.steps = {step: values for step, values in phase.steps.items() if step <= first_step}
                phase.evaluations = {step: told for step, told in phase.evaluations.items() if step <= first_step}
                if first_step == 0:
                    phase.throughput, phase.scores, phase.evaluations = {}, {}, {}
        elif step == []:
            run.summary = data
            if "exact_match" in data:
                run.scored[predict_file] = {**data, "steps": max(phase.steps, default=None)}
            if trains and "sequences_per_second" in data:
                phase.throughput = data
        elif trains and "average_loss" in data:
            phase.steps[step if isinstance(step, int) else step[-1]] = data
            phase.scores = {}  # they were of weights that have been trained further
        if trains and "eval_mlm_accuracy" in data:
            phase.scores = data
            if step:
                phase.evaluations[step if isinstance(step, int) else step[-1]] = data
    run.phases = {name: phase for name, phase in phases.items() if phase.steps}
    return run


def read_phases(path: str | Path) -> dict[int, Phase]:
    """The phases of a log by number; raises UserError as `read_run` does, and where there is none."""
    phases = read_run(path).phases
    if not phases:
        raise UserError(f"{path} has no optimizer step", "the run ended before its first, or only evaluated")
    return phases
