#!/usr/bin/env python3
"""Whether one run learns as another does: their loss curves side by side, and how far they are apart.

  python3 benchmark/curves.py results/bf16/dllogger.json results/fp8/dllogger.json --bound 0.02

For what changes numbers and should not change learning: a precision, a kernel. Single steps scatter with their batch,
so means over stretches of steps are compared, of the same steps of the same phase in both. From --from_step on none may
differ by more than the bound. Ends with 0 where that holds, with 1 where it does not, and with 2 where the two cannot
be compared.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.reports.logs import read_phases
from benchmark.tables import markdown_table
from common.errors import Problems, UserError, run_main


class Stretch(NamedTuple):
    """Mean losses of both runs over the logged steps from `first` to `last`."""

    first: int
    last: int
    baseline: float
    result: float

    @property
    def difference(self) -> float:
        """Above zero where the result's is higher."""
        return self.result - self.baseline


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", metavar="BASELINE", help="the dllogger.json of a run")
    parser.add_argument("result", metavar="RESULT", help="likewise, to be judged")
    parser.add_argument("--phase", type=int, choices=(1, 2), default=1, help="of pre-training (default: 1)")
    parser.add_argument("--stretch", type=int, default=50, help="steps that a mean is over (default: 50)")
    parser.add_argument("--from_step", type=int, default=1, help="the bound holds from this step on (default: 1)")
    parser.add_argument(
        "--bound", type=float, default=0.02, help="difference of means that is allowed, either way (default: 0.02)"
    )
    return parser.parse_args(arguments)


def stretches(baseline: dict[int, float], result: dict[int, float], length: int) -> list[Stretch]:
    """The means over each `length` steps, of the steps that both runs logged; losses by step, counted from 1."""
    shared: dict[int, list[int]] = {}
    for step in sorted(baseline.keys() & result.keys()):
        shared.setdefault((step - 1) // length, []).append(step)
    return [
        Stretch(steps[0], steps[-1], *(statistics.fmean(run[step] for step in steps) for run in (baseline, result)))
        for steps in shared.values()
    ]


def read_losses(path: str, phase: int) -> dict[int, float]:
    """A run's training losses by step.

    Raises:
        UserError: there is no such log or phase in it.
    """
    phases = read_phases(path)
    if phase not in phases:
        raise UserError(f"{path} has no step of phase {phase}", f"give --phase {min(phases)}")
    return {step: math.nan if loss is None else loss for step, loss in phases[phase].losses.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both curves, and end with the status that says whether they agree."""
    args = parse_arguments(arguments)
    problems = Problems()
    problems.check(args.stretch >= 1, f"--stretch is {args.stretch}", "it must be 1 or more")
    problems.check(args.bound > 0, f"--bound is {args.bound}", "it must be greater than zero")
    read: list[dict[int, float]] = []
    for path in (args.baseline, args.result):
        with problems.collect():
            read.append(read_losses(path, args.phase))
    problems.raise_if_any()
    found = stretches(*read, args.stretch)
    judged = [stretch for stretch in found if stretch.first >= args.from_step]
    if not judged:
        raise UserError(
            f"{args.baseline} and {args.result} share no logged step from {args.from_step} on",
            "train both for as long, with the same --log_freq",
        )
    rows = [[f"{s.first} to {s.last}", f"{s.baseline:.4f}", f"{s.result:.4f}", f"{s.difference:+.4f}"] for s in found]
    print(markdown_table(("steps", "baseline", "result", "difference"), rows))
    # A loss that is no number is beyond any bound, and compares with none.
    worst = max(judged, key=lambda s: math.inf if math.isnan(s.difference) else abs(s.difference))
    agrees = abs(worst.difference) <= args.bound
    print(
        f"The curves {'agree' if agrees else 'differ'}: steps {worst.first} to {worst.last} are "
        f"{worst.difference:+.4f} apart, the most of {len(judged)} stretches, and {args.bound:g} is allowed."
    )
    if not agrees:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
