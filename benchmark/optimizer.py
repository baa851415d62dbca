#!/usr/bin/env python3
"""How long the optimizers take over a model's weights, and how near to a copy's rate they move their bytes.

  python3 benchmark/optimizer.py --bert_model large
  python3 benchmark/optimizer.py --bert_model tiny --windows 1 --steps 2        # on a CPU, in seconds

Timed is what a training step does once its gradients are there: their norm, clipping, the update. All optimizers take
turns on the same weights and gradients, in windows of several steps; the table has medians. Bytes are counted on paper,
for weights with decay: four for each parameter and tensor that a pass reads or writes, as if there were no caches. What
cannot run here is left out with a sentence.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns
from common.errors import UserError, run_main
from common.words import counted
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from optimization import build_optimizer, clip_and_step, clips_itself, gradient_norm, parameter_groups
from training.metrics.measured_peak import copy_rate, mean_seconds

MAX_GRAD_NORM = 1.0
LEARNING_RATE = 1e-6  # weights stay themselves over thousands of steps
WARM_UPS = 3

# An optimizer, its kernels, and the tensors of the model's size that each pass reads and writes, norm and division too.
CONTENDERS = MappingProxyType(
    {
        # norm, division; m; v twice; v to u and five steps of it with m and p; two norms; p
        "LAMB, PyTorch's operations": ("lamb", "torch", (1, 2, 3, 2, 3, 2, 2, 2, 2, 2, 3, 3, 1, 1, 3)),
        "LAMB, our kernels": ("lamb", "triton", (1, 6, 4)),  # norm; g, p, m, v to m, v; p, m, v to p
        "AdamW, PyTorch's fused": ("adamw", "torch", (1, 2, 7)),  # norm, division; g, p, m, v to p, m, v
        "AdamW, our kernels": ("adamw", "triton", (1, 7)),  # norm; g, p, m, v to p, m, v
        # the step's norm and its own; g, p, m, v to m, v, u; two norms; p, u to p
        "LAMB, apex's fused": ("apex_fused_lamb", "torch", (1, 1, 7, 1, 1, 3)),
    }
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="whose weights are updated")
    parser.add_argument("--steps", type=int, default=20, help="steps per window")
    parser.add_argument("--windows", type=int, default=5, help="windows of each optimizer")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to measure on")
    return parser.parse_args(arguments)


def optimizer_step(name: str, model: torch.nn.Module) -> Callable[[], None]:
    """What a training step does with the gradients that parameters have; a UserError if it cannot be done here."""
    optimizer_name, kernels, _ = CONTENDERS[name]
    optimizer = build_optimizer(optimizer_name, parameter_groups(model), LEARNING_RATE, MAX_GRAD_NORM, kernels)
    limit = float("inf") if clips_itself(optimizer_name) else MAX_GRAD_NORM
    return lambda: clip_and_step(optimizer, gradient_norm(optimizer.param_groups), limit)


def table(seconds: Mapping[str, Sequence[float]], n_parameters: int, bytes_per_second: float) -> str:
    """A line for each optimizer; `bytes_per_second` is a copy's."""
    rows = []
    for name, times in seconds.items():
        median, n_bytes = statistics.median(times), 4 * sum(CONTENDERS[name][2])
        rate = n_bytes * n_parameters / median
        milliseconds = (f"{time * 1e3:,.4g}" for time in (median, min(times), max(times)))
        rows.append([name, str(n_bytes), *milliseconds, f"{rate / 1e9:,.4g}", f"{rate / bytes_per_second:.1%}"])
    header = ("norm, clipping, update", "bytes per parameter", "ms", "from", "to", "GB/s", "of a copy's rate")
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all, and print the table."""
    args = parse_arguments(arguments)
    count_problems(args, "steps", "windows").raise_if_any()
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    measurements = {}
    for name in CONTENDERS:
        try:
            step = optimizer_step(name, model)
        except UserError as error:
            print(f"Left out: {name}. {error}")
            continue
        mean_seconds(step, WARM_UPS, device)
        measurements[name] = partial(mean_seconds, step, args.steps, device)
    seconds = in_turns(measurements, args.windows)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    bytes_per_second = copy_rate(device)
    print(f"{n_parameters / 1e6:,.1f} M parameters, medians of {args.windows} x {counted(args.steps, 'step')}\n")
    print(table(seconds, n_parameters, bytes_per_second))
    print(f"\nA copy reads and writes {bytes_per_second / 1e9:,.4g} GB/s.")


if __name__ == "__main__":
    run_main(main)
