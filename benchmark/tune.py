#!/usr/bin/env python3
"""Which settings of our kernels are fastest on this GPU, as the row of kernels/tuning.py that makes them used.

  python3 benchmark/tune.py
  python3 benchmark/tune.py --kernels adam column_sums --repeats 5

Each kernel runs on what a training step gives it, with every combination of the values in benchmark/workloads/
tuned_kernels.py, in turns, and as a CUDA graph, so that short ones are not timed by what Python takes to launch them;
tables have medians. Settings that do not compile, or give other values than the others, are named and left out. The
last thing printed is the row: paste it into ROWS. All kernels have some 800 combinations to try, so this takes a
while; `--kernels` has some of them done.
"""

import argparse
import functools
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch
from torch import Tensor

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns
from benchmark.workloads.tuned_kernels import Pass, Step, Workload, workloads
from common.errors import run_main
from kernels import tuning
from kernels.launch import triton_problem
from models.config import BERT_CONFIGS, BertConfig
from training.config.precision import NEEDED_CAPABILITY
from training.cuda_graphs import CudaRecorder
from training.metrics.measured_peak import seconds_of

HEADER = ("settings", "ms", "of those in use")
SHOWN = 8  # of the fastest
GAIN = 0.02  # what is nearer to the settings in use is no reason to change them
TOLERANCE = 0.01  # of the norm: two roundings to bf16 apart

Settings = Mapping[str, int]


def described(settings: Settings) -> str:
    """Settings as tables have them."""
    return ", ".join(f"{name} {number}" for name, number in settings.items())


def candidates(used: Settings, grid: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """The settings in use, then those of the grid that differ."""
    all_of_grid = (dict(used) | dict(zip(grid, numbers, strict=True)) for numbers in itertools.product(*grid.values()))
    return [dict(used), *(settings for settings in all_of_grid if settings != used)]


def with_settings(kernel: str, settings: Settings, device: torch.device, work: Pass) -> Pass:
    """A pass in which a kernel has these settings, and all others those in use."""
    row = {**tuning.row(device), kernel: settings}

    def run() -> Sequence[Tensor]:
        with mock.patch.object(tuning, "row", return_value=row):
            return work()

    return run


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest one between tensors and those wanted, as a share of the norm."""
    shares = [(one.float() - two.float()).norm() / two.float().norm() for one, two in zip(found, wanted, strict=True)]
    return torch.stack(shares).max().item()


def usable(kernel: str, workload: Workload, step: Step, most: int | None) -> dict[str, dict[str, int]]:
    """The settings that run and give the same values, by description, those in use first; says why others do not."""
    used, *others = candidates(tuning.row(step.device)[kernel], workload.grid)
    wanted: Sequence[Tensor] | None = None
    able = {}
    for settings in (used, *others[:most]):
        name = described(settings)
        try:
            found = with_settings(kernel, settings, step.device, workload.make(step))()
            wanted = found if wanted is None else wanted
            if not (share := difference(found, wanted)) <= TOLERANCE:
                raise ValueError(f"values are {share:.1%} off")
            able[name] = settings
        except Exception as error:  # of many libraries; the next settings may do
            print(f"{kernel}: {name}: {type(error).__name__}: {' '.join(str(error).split())[-200:]}", flush=True)
    return able


def seconds_with(kernel: str, settings: Settings, workload: Workload, step: Step) -> float:
    """The mean time of a pass in which a kernel has these settings."""
    work = with_settings(kernel, settings, step.device, workload.make(step))
    if step.device.type == "cuda":
        work()  # sends to the device what later calls find there
        work = CudaRecorder()(work)
    return seconds_of(work, step.device)


def fastest(kernel: str, workload: Workload, step: Step, repeats: int, most: int | None) -> dict[str, int] | None:
    """The settings to put in the row, or None where those in use may stay; prints the table."""
    used = dict(tuning.row(step.device)[kernel])
    able = usable(kernel, workload, step, most)
    measurements = {
        name: functools.partial(seconds_with, kernel, settings, workload, step) for name, settings in able.items()
    }
    medians = {name: statistics.median(seconds) for name, seconds in in_turns(measurements, repeats).items()}
    ranked = sorted(medians, key=medians.__getitem__)
    in_use = medians.get(described(used), float("inf"))
    rows = [
        [
            name + (", in use" if able[name] == used else ""),
            f"{medians[name] * 1e3:.4g}",
            f"{medians[name] / in_use:.3f}",
        ]
        for number, name in enumerate(ranked)
        if number < SHOWN or able[name] == used
    ]
    print(f"{kernel}\n\n{markdown_table(HEADER, rows)}\n", flush=True)
    if ranked and medians[ranked[0]] < (1 - GAIN) * in_use:
        return able[ranked[0]]
    return None


def row_text(device: torch.device, found: Mapping[str, Settings]) -> str:
    """The device's row with what was found, as kernels/tuning.py has it."""
    is_gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if is_gpu else None
    lines = [f"        {capability}: {{  # {torch.cuda.get_device_name(device) if is_gpu else device.type}"]
    for kernel, settings in (dict(tuning.ROWS.get(capability, {})) | dict(found)).items():
        pairs = ", ".join(f'"{name}": {number}' for name, number in settings.items())
        lines.append(f'            "{kernel}": {{{pairs}}},')
    return "\n".join([*lines, "        },"])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--kernels", nargs="+", default=[], metavar="PART", help="those whose names contain one of these"
    )
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="whose step is tuned for")
    parser.add_argument("--tokens", type=int, default=32768, help="of a micro-batch")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--most", type=int, help="only so many settings of each kernel beside those in use")
    parser.add_argument("--device", default="cuda", help="to measure on")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise a UserError for what cannot be run."""
    problems = count_problems(args, "repeats", "tokens")
    problems.check(args.most is None or args.most >= 0, f"--most is {args.most}", "it must be 0 or more")
    known = workloads()
    for part in args.kernels:
        is_known = any(part in kernel for kernel in known)
        problems.check(is_known, f"--kernels {part} is in no name", f"there are {', '.join(known)}")
    is_there = not args.device.startswith("cuda") or torch.cuda.is_available()
    problem = triton_problem(torch.device(args.device)) if is_there else "torch sees no GPU"
    remedy = "take a GPU, or TRITON_INTERPRET=1 --device cpu for a trial"
    problems.check(problem is None, f"--device {args.device}: {problem}", remedy)
    problems.raise_if_any()


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, print a table of each kernel as soon as it is timed, and the row last."""
    args = parse_arguments(arguments)
    check(args)
    device = torch.device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    dtype = torch.float16 if device.type == "cpu" else torch.bfloat16  # Triton's interpreter multiplies no bf16
    step = Step(config, args.tokens, dtype, device)
    known = workloads()
    chosen = [kernel for kernel in known if any(part in kernel for part in args.kernels or [""])]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < NEEDED_CAPABILITY["fp8"]:
        left_out = [kernel for kernel in chosen if known[kernel].in_fp8]
        chosen = [kernel for kernel in chosen if kernel not in left_out]
        print(f"This GPU has no fp8. Left out: {', '.join(left_out) or 'nothing'}.\n")
    best = {kernel: fastest(kernel, known[kernel], step, args.repeats, args.most) for kernel in chosen}
    found = {kernel: settings for kernel, settings in best.items() if settings is not None}
    gain = "Faster settings are in this row" if found else f"Nothing is faster by {GAIN:.0%} than this row"
    print(f"{gain} of ROWS in kernels/tuning.py:\n\n{row_text(device, found)}")


if __name__ == "__main__":
    run_main(main)
