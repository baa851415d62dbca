"""A sweep: which points are measured, in which order, and which are there already."""

import argparse
import itertools
import json
import shlex
from collections.abc import Iterator
from typing import Any

import torch

from benchmark.sweeps.measurement import command, measure
from benchmark.sweeps.points import FILE_NAME, OPTIMIZERS, Point, Repeats, read_points, settings, subject
from benchmark.timing import in_fresh_process
from common.addresses import without_secrets
from common.errors import UserError
from file_utils import atomic_write
from kernels.defaults import fast_paths
from models.config import BERT_CONFIGS, BertConfig
from models.fused_variants import fused_problems
from training.config.precision import PRECISIONS, precision_problem, resolve_precision
from training.environment.description import describe_environment

FAILURES_IN_A_ROW = 2  # of other causes than memory, after which larger batches are not tried
SAME = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit", "git_dirty")


def describe_machine(bert_model: str) -> dict[str, Any]:
    """The environment of a measuring process, its default `precision`, and what `kernels` each precision gets."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = BertConfig.from_json_file(BERT_CONFIGS.get(bert_model, bert_model))
    able = [resolve_precision(name, device) for name in PRECISIONS if not precision_problem(name, device)]
    is_fused = not list(fused_problems(config, "torch", in_fp8=False))
    kernels = {each.name: fast_paths(device, each.compute_dtype).kernels for each in able if is_fused}
    return describe_environment() | {"precision": resolve_precision(None, device).name, "kernels": kernels}


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
        self.file = args.output_dir / FILE_NAME
        self.points = self._read_earlier()

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
            # What a run would choose by itself is named, so that results say it and differ from those of other kernels.
            is_named = any(word.split("=")[0] in ("--kernels", "--layer_norm") for word in args.extra)
            is_chosen = self.environment.get("kernels", {}).get(precision) == "triton" and not is_named
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
                "flags": shlex.join([*(["--kernels", "triton"] if is_chosen else []), *args.extra]),
            }

    def _point(self, configuration: dict[str, Any], repeat: int) -> Point:
        for point in self.points:
            if point["configuration"] == configuration and point["repeat"] == repeat:
                return point
        compiled = "_compiled" if configuration["compile"] else ""
        name = "{workload}_{max_seq_length}_{precision}{compiled}_{n_gpus}x{batch_size}_{repeat}"
        folder = self.args.output_dir / "runs" / name.format(**configuration | {"compiled": compiled, "repeat": repeat})
        words = command(configuration, self.data, folder) + (["--measure_peak"] if self.args.measure_peak else [])
        point = measure(configuration, repeat, words, folder, self.args.timeout)
        self.points.append(point)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(without_secrets(json.dumps(point)) + "\n")
        repeats = Repeats(configuration, points=[point])
        told = f"{repeats.cells()['sequences/s']} sequences/s" if point["status"] == "ok" else repeats.status
        told += f", WRONG: {repeats.problem}" if repeats.problem else ""
        print(f"  batch {repeats.batch_size:>5} | {repeat + 1}/{self.args.repeats} | {told}", flush=True)
        if point["status"] == "failed":
            print("    " + point["error"].replace("\n", "\n    ") + f"\n    all of it: {folder}/output.log", flush=True)
        return point

    def _read_earlier(self) -> list[Point]:
        """The points of an earlier start but for failed ones; raises UserError where it cannot be gone on with."""
        self.args.output_dir.mkdir(parents=True, exist_ok=True)
        known = read_points(self.file) if self.file.exists() else []
        points = [point for point in known if point["status"] != "failed"]
        remedy = "choose another --output_dir, so that no table mixes the two"
        trained_on = shlex.join(self.data[:2])
        for point in points:
            if point["configuration"]["lengths"] == self.lengths and f" {trained_on} " not in point["command"]:
                raise UserError(f"{self.file} was measured on other data than {trained_on}", remedy)
            for name in SAME:
                was, now = point["environment"].get(name), self.environment.get(name)
                if was is not None and was != now:
                    raise UserError(f"{self.file} was measured with {name} {was}, and this is {now}", remedy)
        with atomic_write(self.file) as file:
            file.writelines(json.dumps(point) + "\n" for point in points)
        return points
