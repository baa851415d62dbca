#!/usr/bin/env python3
"""Throughput over batch sizes, lengths, precisions, compilation and numbers of GPUs: each point by a fresh process.

  python3 benchmark/sweep.py pretrain --output_dir results/sweep --max_seq_lengths 128 512 --compile 0 1
  python3 benchmark/sweep.py squad --output_dir results/sweep --batch_sizes 16 32 --repeats 5
  python3 benchmark/sweep.py pretrain --output_dir results/cpu --bert_model tiny --batch_sizes 8 16 --repeats 1

scripts/measure_throughput_pretrain.sh and scripts/measure_throughput_squad.sh call it. Flags after `--` go to
run_pretraining.py or run_squad.py.

Each point is measured --repeats times; repeats go round all batch sizes, so that a machine that warms up shows as
spread. Without --batch_sizes, sizes double until memory ends. That it ends is a result and is recorded; any other
failure is shown with its last lines, and the sweep goes on. Started again with the same --output_dir, it measures what
is missing and what failed. Points are one line each in OUTPUT_DIR/points.jsonl; benchmark/report.py makes pictures of
them.
"""

import argparse
import dataclasses
import itertools
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.reports.data import Bar
from benchmark.sweeps.measurement import ROOT, Configuration, command, measure
from benchmark.sweeps.points import FILE_NAME, OPTIMIZERS, Point, by_configuration, rate_of, read_points, title, window
from benchmark.tables import MISSING, markdown_table, text
from common.errors import Problems, UserError, run_main
from file_utils import atomic_write
from models.config import BERT_CONFIGS, BertConfig
from optimization import OPTIMIZERS as ALL_OPTIMIZERS
from training.config.precision import PRECISIONS

LENGTHS = MappingProxyType({"pretrain": 128, "squad": 384})
STEPS_IN_WINDOW = 20  # where only its beginning is given
FAILURES_IN_A_ROW = 2  # of other causes than memory, after which larger batches are not tried
SAME = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit", "git_dirty")
HEADER = (
    "batch",
    "sequences/s",
    "lowest",
    "highest",
    "n",
    "tokens/s",
    "TFLOP/s",
    "of peak",
    "of products",
    "GiB",
    "sequences/J",
    "state",
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what stands behind `--` is in `extra`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, extra = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--start", type=int, default=10, help="step after which the window opens (default: 10)")
    parser.add_argument("--stop", type=int, help="step with which it closes (default: 20 after --start)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per point (default: 3)")
    parser.add_argument("--measure_peak", action="store_true", help="also time the model's products by themselves")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one measurement (default: 1800)")
    args = parser.parse_args(own)
    args.extra = extra
    args.stop = args.start + STEPS_IN_WINDOW if args.stop is None else args.stop
    return args


class Sweep:
    """A plan, and the points that there are of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.data = _data_flags(args)
        self.environment = _look_at_machine()
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
        n_gpus = len(self.environment["gpus"])
        lengths = args.max_seq_lengths or [LENGTHS[args.workload]]
        precisions = args.precisions or [self.environment["precision"]]
        choices = itertools.product(lengths, precisions, args.compile, args.num_gpus or [max(1, n_gpus)])
        for max_seq_length, precision, compiled, n_processes in choices:
            yield Configuration(
                workload=args.workload,
                model=str(args.bert_model),
                max_seq_length=max_seq_length,
                precision=precision,
                compile=bool(compiled),
                n_gpus=n_processes,
                batch_size=0,
                accumulation_steps=args.accumulation_steps,
                optimizer=args.optimizer or OPTIMIZERS[args.workload],
                lengths=_describe_data(args),
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
        args = self.args
        sizes = args.batch_sizes
        if not sizes:
            doubling = itertools.accumulate(
                itertools.repeat(2), lambda size, two: size * two, initial=args.first_batch_size
            )
            sizes = itertools.takewhile(lambda size: size <= args.last_batch_size, doubling)
        failures = 0
        for size in sizes:
            point = self._point(dataclasses.replace(series, batch_size=size), 0)
            if point["status"] == "ok":
                yield size
            failures = failures + 1 if point["status"] == "failed" else 0
            larger_is_hopeless = point["status"] == "out_of_memory" or failures >= FAILURES_IN_A_ROW
            if larger_is_hopeless and not args.batch_sizes:
                return

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
        trained_on, lengths = shlex.join(self.data[:2]), _describe_data(self.args)
        for point in points:
            if point["configuration"]["lengths"] == lengths and f" {trained_on} " not in point["command"]:
                raise UserError(
                    f"{self.file} was measured on other data than {trained_on}",
                    "choose another --output_dir, so that no table mixes the two",
                )
            for name in SAME:
                was, now = point["environment"].get(name), self.environment.get(name)
                if was is not None and was != now:
                    raise UserError(
                        f"{self.file} was measured with {name} {was}, and this is {now}",
                        "choose another --output_dir, so that no table mixes the two",
                    )
        with atomic_write(self.file) as file:
            file.writelines(json.dumps(point) + "\n" for point in points)
        return points


def check(args: argparse.Namespace) -> None:
    """Raise UserError with all that is wrong with the command line."""
    problems = Problems()
    counts = ("first_batch_size", "last_batch_size", "accumulation_steps", "repeats", "timeout")
    for name in counts:
        problems.check(getattr(args, name) > 0, f"--{name} is {getattr(args, name)}", "it must be greater than zero")
    model = args.bert_model
    problems.check(
        model in BERT_CONFIGS or (model.endswith(".json") and Path(model).is_file()),
        f"--bert_model is {model}",
        f"give one of {', '.join(BERT_CONFIGS)}, or a bert_config.json that is there",
    )
    for name in args.precisions or []:
        problems.check(name in PRECISIONS, f"--precisions has {name}", f"choose of {', '.join(PRECISIONS)}")
    problems.check(
        args.optimizer is None or args.optimizer in ALL_OPTIMIZERS,
        f"--optimizer is {args.optimizer}",
        f"choose one of {', '.join(ALL_OPTIMIZERS)}",
    )
    for name in ("batch_sizes", "max_seq_lengths", "num_gpus"):
        for value in getattr(args, name) or []:
            problems.check(value > 0, f"--{name} has {value}", "each must be greater than zero")
    problems.check(args.start >= 0, f"--start is {args.start}", "it must not be negative")
    problems.check(
        args.stop > args.start, f"--stop {args.stop} must be greater than --start {args.start}", "nothing lies between"
    )
    problems.check(
        not (args.input_dir and args.workload == "squad"), "--input_dir is for pretrain", "squad takes --train_file"
    )
    problems.check(
        not (args.train_file and args.workload == "pretrain"), "--train_file is for squad", "pretrain takes --input_dir"
    )
    problems.check(
        not (args.train_file and not args.vocab_file),
        "--train_file needs --vocab_file, the vocabulary to read it with.",
    )
    problems.raise_if_any()


def _data_flags(args: argparse.Namespace) -> list[str]:
    if args.input_dir:
        return ["--input_dir", args.input_dir]
    if args.train_file:
        cache = str(args.output_dir / "cache")
        return ["--train_file", args.train_file, "--vocab_file", args.vocab_file, "--cache_dir", cache]
    return ["--synthetic", args.synthetic]


def _describe_data(args: argparse.Namespace) -> str:
    if args.input_dir or args.train_file:
        return "shards" if args.input_dir else "questions"
    return "full" if args.synthetic == "full" else f"evenly around {args.synthetic}"


def _look_at_machine() -> dict:
    """The environment of a measuring process, its default precision, and each precision's default kernels; from another
    process, as CUDA would hold memory in this one."""
    program = (
        "import json, torch\n"
        "from kernels.defaults import fast_paths\n"
        "from training.environment.description import describe_environment\n"
        "from training.config.precision import PRECISIONS, precision_problem, resolve_precision\n"
        "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\n"
        "able = [resolve_precision(name, device) for name in PRECISIONS if not precision_problem(name, device)]\n"
        "kernels = {precision.name: fast_paths(device, precision.compute_dtype).kernels for precision in able}\n"
        "precision = resolve_precision(None, device).name\n"
        "print(json.dumps(describe_environment() | {'precision': precision, 'kernels': kernels}))"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UserError(f"PyTorch does not start here: {finished.stderr.strip().splitlines()[-1]}")
    return json.loads(finished.stdout.splitlines()[-1])


def _line(point: Point, repeats: int) -> str:
    """What came of a point, for the one who waits."""
    begin = f"batch {point['configuration']['batch_size']:>5} | {point['repeat'] + 1}/{repeats} | "
    if point["status"] != "ok":
        return begin + point["status"].replace("_", " ")
    measured = point["measured"]
    line = f"{begin}{measured['sequences_per_second']:,.1f} sequences/s"
    if "peak_memory_allocated_bytes" in measured:
        line += f", {measured['peak_memory_allocated_bytes'] / 2**30:.1f} GiB"
    if measured.get("loss_problem"):
        line += f", WRONG: {measured['loss_problem']}"
    return line


def print_tables(points: Sequence[Point]) -> None:
    """A table for each series, with the median of each batch size."""
    series: dict[str, list[list[str]]] = {}
    for repeats in by_configuration(points).values():
        configuration = repeats[0]["configuration"]
        name = f"{title(configuration)}, {window(configuration)}"
        series.setdefault(name, []).append([str(configuration["batch_size"]), *_cells(repeats)])
    for name, rows in series.items():
        print(f"\n{name}\n")
        print(markdown_table(HEADER, sorted(rows, key=lambda row: int(row[0]))))


def _cells(repeats: Sequence[Point]) -> list[str]:
    rate = rate_of(repeats)
    bar = Bar("", repeats[0]["configuration"], list(repeats))
    if rate is None:
        return [*[MISSING] * (len(HEADER) - 2), bar.state]
    memory = bar.median("peak_memory_allocated_bytes")
    return [
        text(rate.median, ",.1f"),
        text(rate.lowest, ",.1f"),
        text(rate.highest, ",.1f"),
        str(rate.n),
        text(bar.median("tokens_per_second"), ",.0f"),
        text(bar.median("model_tflops_per_second"), ".3g"),
        text(bar.utilisation, ".1%"),
        text(bar.share_of_products, ".1%"),
        text(memory and memory / 2**30, ".1f"),
        text(bar.median("sequences_per_joule"), ".3g"),
        bar.state,
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables; ends with 1 where a point failed, or trained wrongly."""
    args = parse_arguments(arguments)
    check(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep = Sweep(args)
    sweep.run()
    print_tables(sweep.points)
    failed = sum(point["status"] == "failed" for point in sweep.points)
    wrong = sum(bool((point.get("measured") or {}).get("loss_problem")) for point in sweep.points)
    if failed:
        print(f"\nmeasurements that failed: {failed}; start again to try them once more")
    if wrong:
        print(f"\nmeasurements that trained wrongly: {wrong}; their rates mean nothing")
    print(f"\npoints: {sweep.file}")
    sys.exit(1 if failed or wrong else 0)


if __name__ == "__main__":
    run_main(main)
