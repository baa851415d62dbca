#!/usr/bin/env python3
"""A scaling table in one call: the same work per GPU on 1, 2, 4, 8 of them, each point by a fresh process.

  python3 benchmark/scaling.py --output_dir results/scaling
  python3 benchmark/scaling.py --output_dir results/scaling --workloads phase1 squad --num_gpus 1 2 --time_limit 240
  python3 benchmark/scaling.py --output_dir results/cpu --bert_model tiny --micro_batch 4 --workloads phase1

scripts/measure_scaling.sh calls it. Flags after `--` go to run_pretraining.py and run_squad.py.

What does not fit into --time_limit is left out, the least wanted first. Started again with the same --output_dir, it
measures what is missing and what failed. The table is scaling.md, its figures scaling.jsonl; points.jsonl is that of
benchmark/sweep.py.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import check_model, count_problems, own_and_extra
from benchmark.reports.scaling import scaling_rows, scaling_table
from benchmark.sweeps.plan import WORKLOADS, plan
from benchmark.sweeps.points import START, STEPS_IN_WINDOW, Point, Repeats
from benchmark.sweeps.record import Record, describe_machine
from benchmark.sweeps.scaling import Scaling
from benchmark.timing import in_fresh_process
from common.command_line import CommandLine
from common.errors import Problems, run_main
from file_utils import atomic_write, locked

GPU_COUNTS = (1, 2, 4, 8)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what stands behind `--` is in `extra`."""
    own, extra = own_and_extra(arguments)
    parser = CommandLine(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the table; made where it is missing")
    parser.add_argument("--bert_model", default="large", help="a shipped model, or a bert_config.json (default: large)")
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="(default: all)")
    parser.add_argument(
        "--precisions", nargs="+", help="(default: bf16, and fp8 where Triton kernels are the default; else fp32)"
    )
    parser.add_argument("--num_gpus", type=int, nargs="+", help="numbers of GPUs (default: of 1 2 4 8, and all)")
    accumulation = {"type": int, "nargs": "+", "default": [1, 4]}
    parser.add_argument("--accumulation_steps", **accumulation, help="micro-batches per reduction (default: 1 4)")
    parser.add_argument("--micro_batch", type=int, help="sequences (default: 256 of 128 tokens, and so on)")
    parser.add_argument("--compile", type=int, choices=(0, 1), default=0, help="1: with --compile (default: 0)")
    parser.add_argument("--start", type=int, default=START, help="step after which the window opens (default: 10)")
    parser.add_argument("--stop", type=int, help="step with which it closes (default: 20 after --start)")
    side_by_side = "1: measure few GPUs side by side on all GPUs of the machine; 0: one after the other (default: 1)"
    parser.add_argument("--side_by_side", type=int, choices=(0, 1), default=1, help=side_by_side)
    parser.add_argument("--time_limit", type=float, default=570.0, help="seconds of the call (default: 570)")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one measurement (default: 180)")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take, and measure nothing")
    args = parser.parse_args(own)
    args.extra = extra
    args.stop = args.start + STEPS_IN_WINDOW if args.stop is None else args.stop
    return args


def check(args: argparse.Namespace, environment: Mapping[str, Any]) -> None:
    """Raise UserError with every problem of the command line on this machine."""
    problems = count_problems(args, "accumulation_steps", "num_gpus", "time_limit", "timeout")
    problems.check(args.micro_batch is None or args.micro_batch > 0, f"--micro_batch is {args.micro_batch}", "raise it")
    known = environment["precisions"]
    for precision in args.precisions:
        here = f"--precisions is {precision}, which this machine does not compute"
        problems.check(precision in known, here, f"choose of {', '.join(known)}")
    n_gpus = len(environment["gpus"])
    most = max(args.num_gpus)
    problems.check(not n_gpus or most <= n_gpus, f"--num_gpus is {most}, and this machine has {n_gpus}", "lower it")
    problems.check(args.stop > args.start >= 0, f"--start is {args.start} and --stop {args.stop}", "raise --stop")
    problems.raise_if_any()


def fill_in(args: argparse.Namespace, environment: Mapping[str, Any]) -> None:
    """Choose numbers of GPUs and precisions where none were given."""
    n_gpus = len(environment["gpus"])
    if args.num_gpus is None:
        args.num_gpus = [count for count in GPU_COUNTS if count < n_gpus] + [n_gpus] if n_gpus else [1, 2]
    if args.precisions is None:
        able = [name for name in environment["precisions"] if name == "bf16" and n_gpus]
        able += [name for name, kernels in environment["kernels"].items() if name == "fp8" and kernels == "triton"]
        args.precisions = able or [environment["precision"]]


def write_table(folder: Path, points: Sequence[Point]) -> None:
    """Make scaling.md and scaling.jsonl, each whole."""
    with atomic_write(folder / "scaling.md") as file:
        file.write(scaling_table(points).markdown())
    with atomic_write(folder / "scaling.jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in scaling_rows(points))


def tell_estimate(estimates: Sequence[tuple[str, float]], time_limit: float) -> None:
    """Print how long each group takes, and all of them."""
    for name, seconds in estimates:
        print(f"{name}: some {seconds:.0f} s")
    print(
        f"in all some {sum(seconds for _, seconds in estimates):.0f} s; the time limit is {time_limit:.0f} s",
        flush=True,
    )


def tell_end(folder: Path, points: Sequence[Point], n_left_out: int) -> None:
    """Print the table and what is missing in it; ends with 1 where a measurement failed, or trained wrongly."""
    if points:
        print(f"\n{scaling_table(points).markdown()}")
    if n_left_out:
        print(f"measurements that the time limit left out: {n_left_out}; start again to make them")
    bad = sum(point["status"] == "failed" or bool(Repeats({}, points=[point]).problem) for point in points)
    if bad:
        print(f"measurements that failed or trained wrongly: {bad}; the table's state names them")
    print(f"table: {folder / 'scaling.md'}")
    sys.exit(1 if bad else 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    began = time.monotonic()
    args = parse_arguments(arguments)
    check_model(args.bert_model, problems := Problems())
    problems.raise_if_any()
    environment = in_fresh_process(describe_machine, args.bert_model)
    fill_in(args, environment)
    check(args, environment)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with locked(args.output_dir / ".lock", remedy="wait until it ends, or choose another --output_dir"):
        record = Record(args.output_dir, environment)
        scaling = Scaling(args, plan(args, environment), record, environment, began + args.time_limit)
        tell_estimate(list(scaling.estimates()), args.time_limit)
        if args.estimate:
            return
        scaling.run(after_each=lambda: write_table(args.output_dir, record.points))
    tell_end(args.output_dir, record.points, len(scaling.left_out))


if __name__ == "__main__":
    run_main(main)
