#!/usr/bin/env python3
"""A table of what the logs of pre-training say: one row for each phase in each log.

  python3 benchmark/summarize.py results/pretraining/dllogger.json [LOG ...]

A log holds every start of its run, one after the other. A row is about the run as it stands: where training went on
from a checkpoint, the steps after that checkpoint count as they were made the second time. The throughput is that of
the last start that measured one, the accuracy that of the evaluation after the last step.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table, number, text
from common.errors import Problems, UserError, run_main
from training.metrics.logger import read_log

HEADER = (
    "phase",
    "steps",
    "loss at start",
    "loss at end",
    "held-out masked-token accuracy",
    "sequences/s",
    "tokens/s",
)


@dataclasses.dataclass
class Phase:
    """What the log says of one phase, as it stands after the lines read so far."""

    losses: dict[int, float | None] = dataclasses.field(default_factory=dict)
    """Mean training loss by optimizer step of the phase; None where it is no number. Skipped steps are none."""
    throughput: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)

    def start(self, first_step: int) -> None:
        """A process starts on this phase, with `first_step` steps behind it."""
        self.losses = {step: loss for step, loss in self.losses.items() if step <= first_step}
        if first_step == 0:
            self.throughput, self.scores = {}, {}

    def add_step(self, step: int, data: dict[str, Any]) -> None:
        if "average_loss" in data:
            self.losses[step] = number(data["average_loss"])
            self.scores = {}  # they were of weights that have been trained further
        if "eval_mlm_accuracy" in data:
            self.scores = data

    def add_summary(self, data: dict[str, Any]) -> None:
        if "sequences_per_second" in data:
            self.throughput = data
        if "eval_mlm_accuracy" in data:
            self.scores = data

    def cells(self) -> list[str]:
        """The row, without the phase's number."""
        known = [loss for _, loss in sorted(self.losses.items()) if loss is not None]
        return [
            f"{max(self.losses):,}",
            text(known[0] if known else None, ".3f"),
            text(known[-1] if known else None, ".3f"),
            text(number(self.scores.get("eval_mlm_accuracy")), ".1%"),
            text(number(self.throughput.get("sequences_per_second")), ",.1f"),
            text(number(self.throughput.get("tokens_per_second")), ",.0f"),
        ]


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a log, at least one.

    Raises:
        UserError: the file cannot be read, or is not a log.
    """
    try:
        events = read_log(path)
    except OSError as error:
        raise UserError(f"the log {path} cannot be read ({error.strerror})", "give a dllogger.json") from error
    if not events:
        raise UserError(f"{path} has no DLLogger line", "give the dllogger.json of a run")
    return events


def read_phases(path: str | Path) -> dict[int, Phase]:
    """The phases in a log that have steps, by number. Runs that only evaluated are left out.

    Raises:
        UserError: the file cannot be read, is not a log, or has no steps.
    """
    phases: dict[int, Phase] = {}
    current: Phase | None = phases.setdefault(1, Phase())
    for event in read_events(path):
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG" or not isinstance(data, dict):
            continue
        if step == "PARAMETER":
            current = _phase_that_starts(phases, data)
        elif current is not None and step == []:
            current.add_summary(data)
        elif current is not None and isinstance(step, list | int):
            current.add_step(step[-1] if isinstance(step, list) else step, data)
    phases = {phase: found for phase, found in sorted(phases.items()) if found.losses}
    if not phases:
        raise UserError(f"{path} has no optimizer step", "the run ended before its first, or only evaluated")
    return phases


def _phase_that_starts(phases: dict[int, Phase], parameters: dict[str, Any]) -> Phase | None:
    arguments = parameters.get("arguments", {})
    if not arguments.get("do_train", True):
        return None
    phase = phases.setdefault(2 if arguments.get("phase2") else 1, Phase())
    phase.start(parameters.get("first_step", 0))
    return phase


def print_table(logs: Sequence[str], header: Sequence[str], rows_of: Callable[[str], list[list[str]]]) -> None:
    """Print the rows of all logs, with a column for the log where there are several.

    Raises:
        UserError: what is wrong with any of the logs.
    """
    problems = Problems()
    rows = []
    for log in logs:
        with problems.collect():
            rows += [[log, *row] for row in rows_of(log)]
    problems.raise_if_any()
    if len(logs) == 1:
        print(markdown_table(header, [row[1:] for row in rows]))
    else:
        print(markdown_table(("log", *header), rows))


def parse_logs(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """A command line of logs alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="the dllogger.json of a run")
    return parser.parse_args(arguments)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parse_logs(__doc__, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs and print the table."""
    print_table(
        parse_arguments(arguments).logs,
        HEADER,
        lambda log: [[str(phase), *found.cells()] for phase, found in read_phases(log).items()],
    )


if __name__ == "__main__":
    run_main(main)
