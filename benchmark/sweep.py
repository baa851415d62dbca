#!/usr/bin/env python3
"""Throughput over batch sizes, lengths, precisions, compilation and numbers of GPUs: each point by a fresh process.

  python3 benchmark/sweep.py pretrain --output_dir results/sweep --max_seq_lengths 128 512 --compile 0 1
  python3 benchmark/sweep.py pretrain --output_dir results/cpu --bert_model tiny --batch_sizes 8 16 --repeats 1

scripts/measure_throughput_pretrain.sh and scripts/measure_throughput_squad.sh call it. Flags after `--` go to
run_pretraining.py or run_squad.py.

Repeats go round all batch sizes, so that a machine that warms up shows as spread. Without --batch_sizes, sizes double
until memory ends. Started again with the same --output_dir, it measures what is missing and what failed. Points are one
line each in OUTPUT_DIR/points.jsonl; benchmark/report.py makes pictures of them.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import check_model, own_and_extra
from benchmark.reports.data import Result, measured
from benchmark.reports.tables import throughput_table
from benchmark.sweeps.points import START, STEPS_IN_WINDOW
from benchmark.sweeps.sweep import Sweep
from common.command_line import CommandLine
from common.errors import Problems, run_main
from file_utils import locked
from optimization import OPTIMIZERS
from training.config.precision import PRECISIONS


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what stands behind `--` is in `extra`."""
    own, extra = own_and_extra(arguments)
    parser = CommandLine(__doc__)
    parser.add_argument("workload", choices=("pretrain", "squad"))
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the points; made where it is missing")
    parser.add_argument("--bert_model", default="large", help="a shipped model, or a bert_config.json (default: large)")
    parser.add_argument("--max_seq_lengths", type=int, nargs="+", help="(default: 128 for pretrain, 384 for squad)")
    parser.add_argument("--precisions", nargs="+", help="(default: bf16 on GPUs that have it, else fp32)")
    parser.add_argument("--compile", type=int, nargs="+", choices=(0, 1), default=[0], help="0, 1 or both (default: 0)")
    parser.add_argument("--num_gpus", type=int, nargs="+", help="numbers of processes (default: all GPUs, else 1)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", help="sequences per GPU and step (default: doubling)")
    parser.add_argument("--first_batch_size", type=int, default=8, help="where doubling begins (default: 8)")
    parser.add_argument("--last_batch_size", type=int, default=8192, help="where it ends at the latest (default: 8192)")
    parser.add_argument("--accumulation_steps", type=int, default=1, help="micro-batches per step (default: 1)")
    parser.add_argument("--optimizer", help="(default: lamb for pretrain, adamw for squad)")
    parser.add_argument("--synthetic", default="full", help="random tokens: full, or a mean length (default: full)")
    parser.add_argument("--input_dir", help="pretrain: real shards instead of random tokens")
    parser.add_argument("--train_file", help="squad: real questions instead of random tokens")
    parser.add_argument("--vocab_file", help="squad: the vocabulary for real questions")
    parser.add_argument("--start", type=int, default=START, help="step after which the window opens (default: 10)")
    parser.add_argument("--stop", type=int, help="step with which it closes (default: 20 after --start)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per point (default: 3)")
    parser.add_argument("--measure_peak", action="store_true", help="also time the model's products by themselves")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one measurement (default: 1800)")
    args = parser.parse_args(own)
    args.extra = extra
    args.stop = args.start + STEPS_IN_WINDOW if args.stop is None else args.stop
    return args


def check(args: argparse.Namespace) -> None:
    """Raise UserError with every problem of the command line."""
    problems = Problems()

    def given(name: str) -> list:
        value = getattr(args, name)
        return value if isinstance(value, list) else [value] if value is not None else []

    positive = ("batch_sizes", "max_seq_lengths", "num_gpus", "first_batch_size", "last_batch_size")
    for name in (*positive, "accumulation_steps", "repeats", "timeout"):
        for value in given(name):
            problems.check(value > 0, f"--{name} is {value}", "it must be greater than zero")
    for name, known in (("precisions", PRECISIONS), ("optimizer", OPTIMIZERS)):
        for value in given(name):
            problems.check(value in known, f"--{name} is {value}", f"choose of {', '.join(known)}")
    check_model(args.bert_model, problems)
    problems.check(args.start >= 0, f"--start is {args.start}", "it must not be negative")
    problems.check(args.stop > args.start, f"--stop {args.stop} is not greater than --start {args.start}", "raise it")
    squad = args.workload == "squad"
    problems.check(not (args.input_dir and squad), "--input_dir is for pretrain", "squad takes --train_file")
    problems.check(not args.train_file or squad, "--train_file is for squad", "pretrain takes --input_dir")
    problems.check(not args.train_file or args.vocab_file, "--train_file needs --vocab_file", "give its vocabulary")
    problems.raise_if_any()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables; ends with 1 where a point failed, or trained wrongly."""
    args = parse_arguments(arguments)
    check(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with locked(args.output_dir / ".lock", remedy="wait until it ends, or choose another --output_dir"):
        sweep = Sweep(args)
        sweep.run()
    for group in measured([Result("", sweep.record.points)]):
        print(f"\n{throughput_table(group).markdown()}")
    failed = sum(point["status"] == "failed" for point in sweep.record.points)
    wrong = sum(bool((point.get("measured") or {}).get("loss_problem")) for point in sweep.record.points)
    if failed:
        print(f"measurements that failed: {failed}; start again to try them once more")
    if wrong:
        print(f"measurements that trained wrongly: {wrong}; their rates mean nothing")
    print(f"points: {sweep.record.file}")
    sys.exit(1 if failed or wrong else 0)


if __name__ == "__main__":
    run_main(main)
