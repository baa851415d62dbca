"""A sweep: which points are measured, in which order, and which are there already."""

import argparse
import itertools
import shlex
from collections.abc import Iterator
from typing import Any

from benchmark.sweeps.measurement import command, measure
from benchmark.sweeps.points import OPTIMIZERS, Point, Repeats, settings, subject
from benchmark.sweeps.record import OTHER_FOLDER, Record, all_flags, describe_machine
from benchmark.timing import in_fresh_process
from common.errors import UserError

FAILURES_IN_A_ROW = 2  # of other causes than memory, after which larger batches are not tried


class Sweep:
    """A plan, and the points that there are of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        if args.input_dir:
            self.data, self.lengths = ["--input_dir", args.input_dir], "shards"
        elif args.train_file:
            self.data, self.lengths = ["--train_file", args.train_file, "--vocab_file", args.vocab_file], "questions"
            self.data += ["--cache_dir", str(args.output_dir / "cache")]
        else:
            self.data = ["--synthetic", args.synthetic]
            self.lengths = "full" if args.synthetic == "full" else f"evenly around {args.synthetic}"
        # Of a process of its own: CUDA would hold memory in this one.
        self.environment = in_fresh_process(describe_machine, args.bert_model)
        self.record = Record(args.output_dir, self.environment, self._check_data)

    def run(self) -> None:
        """Measure every missing point: each batch size once, then those that fit again, round by round."""
        args = self.args
        doubling = (args.first_batch_size << times for times in itertools.count())
        sizes = args.batch_sizes or list(itertools.takewhile(lambda size: size <= args.last_batch_size, doubling))
        for series in self._series():
            print(f"{subject(series)}, {settings(series)}:", flush=True)
            fitting, failures = [], 0
            for size in sizes:
                status = self._point(series | {"batch_size": size}, 0)["status"]
                fitting += [size] if status == "ok" else []
                failures = failures + 1 if status == "failed" else 0
                larger_is_hopeless = status == "out_of_memory" or failures >= FAILURES_IN_A_ROW
                if larger_is_hopeless and not args.batch_sizes:
                    break
            for repeat, size in itertools.product(range(1, args.repeats), fitting):
                self._point(series | {"batch_size": size}, repeat)

    def _series(self) -> Iterator[dict[str, Any]]:
        """A point's `configuration`, without its batch size yet."""
        args = self.args
        for max_seq_length, precision, compiled, n_gpus in itertools.product(
            args.max_seq_lengths or [128 if args.workload == "pretrain" else 384],
            args.precisions or [self.environment["precision"]],
            args.compile,
            args.num_gpus or [max(1, len(self.environment["gpus"]))],
        ):
            yield {
                "workload": args.workload,
                "model": args.bert_model,
                "max_seq_length": max_seq_length,
                "precision": precision,
                "compile": bool(compiled),
                "n_gpus": n_gpus,
                "batch_size": 0,
                "accumulation_steps": args.accumulation_steps,
                "optimizer": args.optimizer or OPTIMIZERS[args.workload],
                "lengths": self.lengths,
                "start": args.start,
                "stop": args.stop,
                "flags": all_flags(self.environment, precision, args.extra),
            }

    def _point(self, configuration: dict[str, Any], repeat: int) -> Point:
        if known := self.record.find(configuration, repeat):
            return known
        compiled = "_compiled" if configuration["compile"] else ""
        name = "{workload}_{max_seq_length}_{precision}{compiled}_{n_gpus}x{batch_size}_{repeat}"
        folder = self.args.output_dir / "runs" / name.format(**configuration | {"compiled": compiled, "repeat": repeat})
        words = command(configuration, self.data, folder) + (["--measure_peak"] if self.args.measure_peak else [])
        point = measure(configuration, repeat, words, folder, self.args.timeout)
        self.record.add(point)
        repeats = Repeats(configuration, points=[point])
        told = f"{repeats.cells()['sequences/s']} sequences/s" if point["status"] == "ok" else repeats.status
        told += f", WRONG: {repeats.problem}" if repeats.problem else ""
        print(f"  batch {repeats.batch_size:>5} | {repeat + 1}/{self.args.repeats} | {told}", flush=True)
        if point["status"] == "failed":
            print("    " + point["error"].replace("\n", "\n    ") + f"\n    all of it: {folder}/output.log", flush=True)
        return point

    def _check_data(self, point: Point) -> None:
        trained_on = shlex.join(self.data[:2])
        if point["configuration"]["lengths"] == self.lengths and f" {trained_on} " not in point["command"]:
            raise UserError(f"{self.args.output_dir} was measured on other data than {trained_on}", OTHER_FOLDER)
