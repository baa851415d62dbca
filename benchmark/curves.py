#!/usr/bin/env python3
"""Whether one run learns as another does: their loss curves side by side, and how far they are apart.

  python3 benchmark/curves.py results/bf16/dllogger.json results/fp8/dllogger.json --bound 0.02

For what changes numbers and should not change learning: a precision, a kernel. Single steps scatter with their batch,
so means over stretches of steps are compared, of the same steps of the same phase in both. From --from_step on none may
differ by more than the bound. Ends with 0 where that holds, with 1 where it does not, and with 2 where the two cannot
be compared.
"""

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.logs import read_phases
from benchmark.tables import markdown_table
from common.command_line import CommandLine
from common.errors import Problems, UserError, run_main


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("baseline", metavar="BASELINE", help="the dllogger.json of a run")
    parser.add_argument("result", metavar="RESULT", help="likewise, to be judged")
    parser.add_argument("--phase", type=int, choices=(1, 2), default=1, help="of pre-training (default: 1)")
    parser.add_argument("--stretch", type=int, default=50, help="steps that a mean is over (default: 50)")
    parser.add_argument("--from_step", type=int, default=1, help="the bound holds from this step on (default: 1)")
    about = "difference of means that is allowed, either way (default: 0.02)"
    parser.add_argument("--bound", type=float, default=0.02, help=about)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both curves, and end with the status that says whether they agree."""
    args = parse_arguments(arguments)
    problems = Problems()
    problems.check(args.stretch >= 1, f"--stretch is {args.stretch}", "it must be 1 or more")
    problems.check(args.bound > 0, f"--bound is {args.bound}", "it must be greater than zero")
    runs: list[dict[int, float]] = []
    for path in (args.baseline, args.result):
        with problems.collect():
            phases = read_phases(path)
            if args.phase not in phases:
                raise UserError(f"{path} has no step of phase {args.phase}", f"give --phase {min(phases)}")
            runs.append(dict(phases[args.phase].curve("average_loss")))
    problems.raise_if_any()
    rows, differences = [], {}
    shared = sorted(runs[0].keys() & runs[1].keys())
    for _, stretch in itertools.groupby(shared, lambda step: (step - 1) // args.stretch):  # steps count from 1
        steps = list(stretch)
        baseline, result = (statistics.fmean(run[step] for step in steps) for run in runs)
        name = f"{steps[0]} to {steps[-1]}"
        rows.append((name, f"{baseline:.4f}", f"{result:.4f}", f"{result - baseline:+.4f}"))
        if steps[0] >= args.from_step:
            differences[name] = result - baseline
    if not differences:
        nothing = f"{args.baseline} and {args.result} share no logged step from {args.from_step} on"
        raise UserError(nothing, "train both for as long, with the same --log_freq")
    print(markdown_table(("steps", "baseline", "result", "difference"), rows))
    # A loss that is no number is beyond any bound, and compares with none.
    worst = max(differences, key=lambda name: math.inf if math.isnan(differences[name]) else abs(differences[name]))
    agrees = abs(differences[worst]) <= args.bound
    print(
        f"The curves {'agree' if agrees else 'differ'}: steps {worst} are {differences[worst]:+.4f} apart, "
        f"the most of {len(differences)} stretches, and {args.bound:g} is allowed."
    )
    if not agrees:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
