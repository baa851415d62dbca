#!/usr/bin/env python3
"""Whether a sweep is as fast as an earlier one: a guard against regressions, for CI.

  python3 benchmark/check.py baseline/points.jsonl results/sweep --tolerance 0.03

Each configuration of the baseline must be in the result, with a median of sequences per second that is lower by no more
than the tolerance, with no repeat that failed or ran out of memory, and with a loss that is no sign of a wrong run.
What the result has beside it does not matter. Says one sentence, after a line for each configuration that fails. Ends
with 0 where all is well, with 1 where the result is slower, wrong or incomplete, and with 2 where the two cannot be
compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.sweeps.points import Point, by_configuration, rate_of, read_points, title
from common.errors import Problems, UserError, run_main


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", metavar="BASELINE", help="a points.jsonl, or the folder of a sweep")
    parser.add_argument("result", metavar="RESULT", help="likewise, to be judged")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        help="share of the baseline's throughput that may be lost (default: 0.05)",
    )
    return parser.parse_args(arguments)


def complaints(baseline: Sequence[Point], result: Sequence[Point], tolerance: float) -> tuple[list[str], int, float]:
    """What is wrong with the result.

    Returns:
        a line for each configuration that fails; how many were compared; the lowest ratio among those.
    """
    found, lowest, n_compared = [], float("inf"), 0
    measured = by_configuration(result)
    for key, points in by_configuration(baseline).items():
        before = rate_of(points)
        if before is None:
            continue
        n_compared += 1
        name = f"{title(points[0]['configuration'])}, batch {points[0]['configuration']['batch_size']}"
        now = rate_of(measured.get(key, []))
        if now is None:
            states = {point["status"].replace("_", " ") for point in measured.get(key, [])}
            found.append(f"{name}: {' and '.join(sorted(states)) or 'not measured'}; was {before.median:,.1f}")
            continue
        ratio = now.median / before.median
        lowest = min(lowest, ratio)
        if ratio < 1 - tolerance:
            found.append(
                f"{name}: {now.median:,.1f} sequences/s ({now.lowest:,.1f} to {now.highest:,.1f}), "
                f"{ratio:.3f} times the {before.median:,.1f} ({before.lowest:,.1f} to {before.highest:,.1f}) of before"
            )
        ended = [point["status"].replace("_", " ") for point in measured[key] if point["status"] != "ok"]
        if ended:
            found.append(f"{name}: {len(ended)} of {len(measured[key])} repeats: {' and '.join(sorted(set(ended)))}")
        if problem := _loss_problem(measured[key]):
            found.append(f"{name}: {problem}")
    return found, n_compared, lowest


def _loss_problem(points: Sequence[Point]) -> str | None:
    problems = (point["measured"].get("loss_problem") for point in points if point["status"] == "ok")
    return next(filter(None, problems), None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, say, and end with the status that says it too."""
    args = parse_arguments(arguments)
    problems = Problems()
    problems.check(0 <= args.tolerance < 1, f"--tolerance is {args.tolerance}", "it must lie in [0, 1)")
    read: list[list[Point]] = []
    for path in (args.baseline, args.result):
        with problems.collect():
            read.append(read_points(path))
    problems.raise_if_any()
    if problem := _loss_problem(read[0]):
        raise UserError(f"{args.baseline} is no baseline, as its own rates mean nothing: {problem} Measure it again.")
    found, n_compared, lowest = complaints(*read, args.tolerance)
    if n_compared == 0:
        raise UserError(f"{args.baseline} has no measured point to compare with", "measure a baseline first")
    for line in found:
        print(line)
    compared = f"{n_compared} configuration{'s' * (n_compared > 1)}"
    tolerance = f"at a tolerance of {args.tolerance:.1%}"
    if found:
        print(f"{len(found)} complaint{'s' * (len(found) > 1)} about {compared}, {tolerance}.")
        sys.exit(1)
    print(f"{compared} at least {lowest:.3f} times as fast as before, {tolerance}.")


if __name__ == "__main__":
    run_main(main)
