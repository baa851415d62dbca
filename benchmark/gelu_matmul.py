#!/usr/bin/env python3
"""GELU in the epilogue of the feed-forward block's matmuls, compared with a matmul and a pass, on a Hopper GPU.

  python3 benchmark/gelu_matmul.py                                          # in bf16
  python3 benchmark/gelu_matmul.py --fp8
  python3 benchmark/gelu_matmul.py --bert_model base --tokens 8192

All are timed in turns; the table has medians in milliseconds. The first column is cuBLAS's matmul alone, which neither
can be much faster than.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns, spread
from common.errors import UserError, run_main
from kernels.launch import triton_problem
from models.config import BERT_CONFIGS, BertConfig
from training.metrics.measured_peak import seconds_of

HEADER = ("tokens", "direction", "matmul alone, ms", "matmul and pass, ms", "one kernel, ms", "saved")
DEVICE = "cuda"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="whose feed-forward block")
    parser.add_argument("--tokens", nargs="+", type=int, default=[32768, 4096], help="of a micro-batch")
    parser.add_argument("--tanh", action="store_true", help="take the tanh form")
    parser.add_argument("--fp8", action="store_true", help="multiply in fp8, and leave the results in fp8 beside bf16")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    return parser.parse_args(arguments)


def ways(n_tokens: int, config: BertConfig, in_fp8: bool, tanh: bool) -> dict[tuple[str, int], Callable[[], object]]:
    """By direction and column: what is to be timed."""
    from kernels.fused.fp8 import empty_rows, quantize_rows  # needs Triton
    from kernels.fused.gelu import gelu, gelu_backward_
    from kernels.fused.gelu_matmul import gelu_input_gradient, gelu_linear
    from kernels.fused.linear import input_gradient, linear, prepare

    hidden_size, inner_size = config.hidden_size, config.intermediate_size
    with torch.device(DEVICE):
        layers = torch.nn.Linear(hidden_size, inner_size), torch.nn.Linear(inner_size, hidden_size)
    first, last = (prepare([layer], torch.bfloat16, in_fp8)[0] for layer in layers)
    inputs, gradient = (torch.randn(n_tokens, hidden_size, device=DEVICE).bfloat16() for _ in range(2))
    inputs_rows, gradient_rows = (quantize_rows(each) if in_fp8 else None for each in (inputs, gradient))
    rows = empty_rows(n_tokens, inner_size, torch.device(DEVICE)) if in_fp8 else None
    forward = partial(linear, inputs, first, inputs_rows)
    inner = forward()
    backward = partial(input_gradient, gradient, last.weight, gradient_rows, torch.bfloat16)
    return {
        ("forward", 0): forward,
        ("forward", 1): lambda: gelu(forward(), rows, tanh),
        ("forward", 2): partial(gelu_linear, inputs, first, inputs_rows, rows, tanh),
        ("backward", 0): backward,
        ("backward", 1): lambda: gelu_backward_(backward(), inner, rows, tanh),
        ("backward", 2): partial(gelu_input_gradient, gradient, last.weight, gradient_rows, inner, rows, tanh),
    }


def check(args: argparse.Namespace, config: BertConfig) -> None:
    """Raise a UserError for what cannot run."""
    count_problems(args, "tokens", "repeats").raise_if_any()
    problem = "torch sees no GPU" if not torch.cuda.is_available() else triton_problem(torch.device(DEVICE))
    if problem is None:
        from kernels.fused.gelu_matmul import has_epilogue  # needs Triton

        states = torch.empty(1, dtype=torch.bfloat16, device=DEVICE)
        if not has_epilogue(states, config.hidden_size, config.intermediate_size):
            problem = "this GPU, this version of Triton or these sizes have no such kernel"
    if problem:
        raise UserError(f"There is nothing to measure: {problem}", "kernels/fused/gelu_matmul.py says where it runs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(arguments)
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    check(args, config)
    rows, spreads = [], []
    for n_tokens in args.tokens:
        works = {
            key: partial(seconds_of, work, torch.device(DEVICE))
            for key, work in ways(n_tokens, config, args.fp8, args.tanh).items()
        }
        found = in_turns(works, args.repeats)
        spreads.append(spread(found))
        for direction in ("forward", "backward"):
            alone, with_pass, fused = (1e3 * statistics.median(found[direction, column]) for column in range(3))
            cells = f"{alone:.4f}", f"{with_pass:.4f}", f"{fused:.4f}", f"{1 - fused / with_pass:.1%}"
            rows.append([f"{n_tokens:,}", direction, *cells])
    print(markdown_table(HEADER, rows))
    numbers, form = "fp8" if args.fp8 else "bf16", "tanh form" if args.tanh else "exact form"
    print(f"{args.bert_model}, {numbers}, {form}; repeats lie within {max(spreads):.1%}")


if __name__ == "__main__":
    run_main(main)
