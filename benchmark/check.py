#!/usr/bin/env python3
"""Whether a sweep is as fast as an earlier one: a guard against regressions, for CI.

  python3 benchmark/check.py baseline/points.jsonl results/sweep --tolerance 0.03

Each configuration of the baseline must be in the result, with a median of sequences per second that is lower by no more
than the tolerance, with no repeat that failed or ran out of memory, and with a loss that is no sign of a wrong run.
Ends with 0 where all is well, with 1 where the result is slower, wrong or incomplete, and with 2 where the two cannot
be compared.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.sweeps.points import Repeats, by_configuration, read_points, settings, subject
from common.command_line import CommandLine
from common.errors import Problems, UserError, run_main
from common.words import counted

RATE = "sequences_per_second"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("baseline", metavar="BASELINE", help="a points.jsonl, or the folder of a sweep")
    parser.add_argument("result", metavar="RESULT", help="likewise, to be judged")
    about = "share of the baseline's throughput that may be lost (default: 0.05)"
    parser.add_argument("--tolerance", type=float, default=0.05, help=about)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, say, and end with the status that says it too."""
    args = parse_arguments(arguments)
    problems = Problems()
    problems.check(0 <= args.tolerance < 1, f"--tolerance is {args.tolerance}", "it must lie in [0, 1)")
    read: list[dict[str, Repeats]] = []
    for path in (args.baseline, args.result):
        with problems.collect():
            read.append(by_configuration(read_points(path)))
    problems.raise_if_any()
    baseline = {key: repeats for key, repeats in read[0].items() if repeats.values(RATE)}
    if problem := next((repeats.problem for repeats in baseline.values() if repeats.problem), None):
        raise UserError(f"{args.baseline} is no baseline, as its own rates mean nothing: {problem} Measure it again.")
    if not baseline:
        raise UserError(f"{args.baseline} has no measured point to compare with", "measure a baseline first")
    found, ratios = [], []
    for key, before in baseline.items():
        now = read[1].get(key) or Repeats(before.configuration)
        was, rate = before.median(RATE), now.median(RATE) or 0.0
        ratios.append(rate / was)
        others = now.ended - Counter(ok=now.ended["ok"])
        complaints = [f"{count} of {counted(len(now.points), 'repeat')}: {state}" for state, count in others.items()]
        if rate / was < 1 - args.tolerance:
            slower = f"{rate:,.1f} sequences/s, {rate / was:.3f} times the {was:,.1f} of before"
            complaints.append(slower if rate else f"not measured; was {was:,.1f}")
        about = f"{subject(before.configuration)}, {settings(before.configuration)}, batch {before.batch_size}"
        found += [f"{about}: {complaint}" for complaint in (*complaints, *filter(None, [now.problem]))]
    compared = f"{counted(len(baseline), 'configuration')}, at a tolerance of {args.tolerance:.1%}"
    if found:
        print("\n".join([*found, f"Slower, wrong or incomplete: {compared}."]))
        sys.exit(1)
    print(f"At least {min(ratios):.3f} times as fast as before: {compared}.")


if __name__ == "__main__":
    run_main(main)
