"""A sweep: which points are measured, in which order, and which are there already."""

import argparse
import dataclasses
import itertools
import json
import shlex
from collections.abc import Iterator
from types import MappingProxyType

from benchmark.sweeps.machine import look_at_machine
from benchmark.sweeps.measurement import Configuration, command, measure
from benchmark.sweeps.points import FILE_NAME, OPTIMIZERS, Point, read_points, title
from benchmark.sweeps.repeats import Repeats
from benchmark.tables import MISSING
from common.errors import UserError
from file_utils import atomic_write
from models.config import BERT_CONFIGS, BertConfig

LENGTHS = MappingProxyType({"pretrain": 128, "squad": 384})
FAILURES_IN_A_ROW = 2  # of other causes than memory, after which larger batches are not tried
SAME = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit", "git_dirty")


class Sweep:
    """A plan, and the points that there are of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.data, self.lengths = _data_of(args)
        self.environment = look_at_machine()
        self.file = args.output_dir / FILE_NAME
        self.points = self._read_earlier()

    def run(self) -> None:
        """Measure all that is missing."""
        for series in self._series():
            print(f"{title(dataclasses.asdict(series))}:", flush=True)
            sizes = list(self._first_round(series))
            for repeat in range(1, self.args.repeats):
                for size in sizes:
                    self._point(dataclasses.replace(series, batch_size=size), repeat)

    def _series(self) -> Iterator[Configuration]:
        args = self.args
        lengths = args.max_seq_lengths or [LENGTHS[args.workload]]
        precisions = args.precisions or [self.environment["precision"]]
        n_processes = args.num_gpus or [max(1, len(self.environment["gpus"]))]
        for max_seq_length, precision, compiled, n_gpus in itertools.product(
            lengths, precisions, args.compile, n_processes
        ):
            yield Configuration(
                workload=args.workload,
                model=str(args.bert_model),
                max_seq_length=max_seq_length,
                precision=precision,
                compile=bool(compiled),
                n_gpus=n_gpus,
                batch_size=0,
                accumulation_steps=args.accumulation_steps,
                optimizer=args.optimizer or OPTIMIZERS[args.workload],
                lengths=self.lengths,
                start=args.start,
                stop=args.stop,
                flags=shlex.join([*self._kernels(precision), *args.extra]),
            )

    def _kernels(self, precision: str) -> list[str]:
        """Names what a run would choose by itself, so that results say it and differ from those of other kernels."""
        is_named = any(word.split("=")[0] in ("--kernels", "--layer_norm") for word in self.args.extra)
        model = BertConfig.from_json_file(BERT_CONFIGS.get(self.args.bert_model, self.args.bert_model))
        chosen = self.environment.get("kernels", {}).get(precision) if model.hidden_act == "gelu" else None
        return ["--kernels", "triton"] if chosen == "triton" and not is_named else []

    def _first_round(self, series: Configuration) -> Iterator[int]:
        """Measure each batch size once, in rising order while they double; the sizes that fit."""
        failures = 0
        for size in self.args.batch_sizes or self._doubling():
            point = self._point(dataclasses.replace(series, batch_size=size), 0)
            if point["status"] == "ok":
                yield size
            failures = failures + 1 if point["status"] == "failed" else 0
            larger_is_hopeless = point["status"] == "out_of_memory" or failures >= FAILURES_IN_A_ROW
            if larger_is_hopeless and not self.args.batch_sizes:
                return

    def _doubling(self) -> Iterator[int]:
        size = self.args.first_batch_size
        while size <= self.args.last_batch_size:
            yield size
            size *= 2

    def _point(self, configuration: Configuration, repeat: int) -> Point:
        for point in self.points:
            if point["configuration"] == dataclasses.asdict(configuration) and point["repeat"] == repeat:
                print(f"  {_line(point, self.args.repeats)} (measured before)", flush=True)
                return point
        folder = self.args.output_dir / "runs" / f"{configuration.name}_{repeat}"
        words = command(configuration, self.data, shlex.split(configuration.flags), folder)
        words += ["--measure_peak"] if self.args.measure_peak else []
        point = measure(configuration, repeat, words, folder, self.args.timeout)
        self.points.append(point)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
        print(f"  {_line(point, self.args.repeats)}", flush=True)
        if point["status"] == "failed":
            print("    " + point["error"].replace("\n", "\n    ") + f"\n    all of it: {folder}/output.log", flush=True)
        return point

    def _read_earlier(self) -> list[Point]:
        """The points of an earlier start, if it was on this machine and with this code; failed ones are forgotten.

        Raises:
            UserError: they are of another environment, or of other shards or questions.
        """
        if not self.file.exists():
            self.args.output_dir.mkdir(parents=True, exist_ok=True)
            return []
        points = [point for point in read_points(self.file) if point["status"] != "failed"]
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


def _data_of(args: argparse.Namespace) -> tuple[list[str], str]:
    """The flags that say what to train on, and the same in a configuration's words."""
    if args.input_dir:
        return ["--input_dir", args.input_dir], "shards"
    if args.train_file:
        cache = str(args.output_dir / "cache")
        flags = ["--train_file", args.train_file, "--vocab_file", args.vocab_file, "--cache_dir", cache]
        return flags, "questions"
    lengths = "full" if args.synthetic == "full" else f"evenly around {args.synthetic}"
    return ["--synthetic", args.synthetic], lengths


def _line(point: Point, total: int) -> str:
    """What came of a point, for the one who waits."""
    repeats = Repeats(point["configuration"], points=[point])
    begin = f"batch {repeats.batch_size:>5} | {point['repeat'] + 1}/{total} | "
    if point["status"] != "ok":
        return begin + repeats.status
    cells = repeats.cells()
    memory = "" if cells["GiB"] == MISSING else f", {cells['GiB']} GiB"
    wrong = f", WRONG: {repeats.problem}" if repeats.problem else ""
    return f"{begin}{cells['sequences/s']} sequences/s{memory}{wrong}"
