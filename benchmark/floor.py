#!/usr/bin/env python3
"""How fast a step's matrix products can be on this device, product by product and format by format.

  python3 benchmark/floor.py --bert_model large --batch_size 256
  python3 benchmark/floor.py --seconds 2 --repeats 1                                # on a GPU as hot as in training
  python3 benchmark/floor.py --bert_model tiny --formats bf16 fp32 --repeats 1      # on a CPU, in seconds

Each product of an encoder layer is timed by itself at its true shape and layout, forward and backward to the input and
to the weight, in turns; the table has medians. Behind attention, the last layer's are of [CLS] and the masked positions
alone, as in pre-training. What they take together, as often as a step makes them, is the floor of the step in that
format; attention, element-wise work, heads and optimizer come on top.

fp8 is e4m3 with fp32 accumulation and results in bf16, `tensor` with one scale per factor and `row` with one per row
and column. What it costs to bring factors into fp8 is left out.
"""

import argparse
import itertools
import math
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
from benchmark.timing import in_turns, spread
from common.errors import run_main
from common.work import Matmul
from models.config import BERT_CONFIGS, BertConfig
from models.flops import encoder_matmuls
from training.metrics.measured_peak import copy_rate, seconds_of, seconds_of_matmul

DTYPES = MappingProxyType({"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
FP8 = ("fp8-tensor", "fp8-row")
FP8_MAX = 448.0  # of e4m3, https://arxiv.org/abs/2209.05433


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="whose products are timed")
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per step")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    formats = *DTYPES, *FP8
    parser.add_argument("--formats", nargs="+", choices=formats, default=["bf16", *FP8], help="of the factors")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=0.1, help="that one takes; a GPU reaches its power limit in 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to measure on")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise a UserError for what this device cannot do, before anything is timed."""
    problems = count_problems(args, "batch_size", "max_seq_length", "max_predictions_per_seq", "repeats")
    problems.check(0 < args.seconds < math.inf, f"--seconds is {args.seconds:g}", "give more than 0")
    capability = torch.cuda.get_device_capability() if args.device.startswith("cuda") else (0, 0)
    for name in args.formats:
        needed = (8, 9) if name in FP8 else (8, 0) if name == "tf32" else (0, 0)
        remedy = "take a GPU of compute capability {}.{} or more, or other formats".format(*needed)
        problems.check(capability >= needed, f"--formats has {name}, which {args.device} cannot do", remedy)
    problems.raise_if_any()


def to_fp8(matrix: torch.Tensor, row_wise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix (rows, columns) scaled to the whole range of e4m3, in float8_e4m3fn, and fp32 scales to multiply it with
    again: (rows, 1) or, one for all, ()."""
    largest = matrix.abs().amax(1, keepdim=True) if row_wise else matrix.abs().amax()
    scale = (largest.float() / FP8_MAX).clamp(min=1e-12)
    return (matrix / scale.to(matrix.dtype)).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def fp8_product(left: torch.Tensor, right: torch.Tensor, row_wise: bool) -> Callable[[], torch.Tensor]:
    """The product of (m, k) and the transpose of (n, k), both brought into fp8 here and now; the result is bf16."""
    left_fp8, left_scale = to_fp8(left, row_wise)
    right_fp8, right_scale = to_fp8(right, row_wise)
    scales = {"scale_a": left_scale, "scale_b": right_scale.reshape(1, -1) if row_wise else right_scale}
    return lambda: torch._scaled_mm(left_fp8, right_fp8.T, **scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def seconds_by_format(product: Matmul, name: str, device: torch.device, seconds: float) -> float:
    """Time of one product in a format, measured over so many seconds."""
    if name not in FP8:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        return seconds_of_matmul(product, DTYPES[name], device, seconds)
    left, right = (torch.randn(rows, product.k, device=device, dtype=torch.bfloat16) for rows in (product.m, product.n))
    return seconds_of(fp8_product(left, right, name == "fp8-row"), device, seconds)


def table(products: Sequence[Matmul], formats: Sequence[str], seconds: Mapping[tuple[Matmul, str], list[float]]) -> str:
    """TFLOP/s of each product, and of all as often as a step makes them."""
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    rows = []
    for product in products:
        rates = [product.flops / medians[product, name] / 1e12 for name in formats]
        shape = f"{product.m} x {product.n} x {product.k}"
        rows.append([product.name, shape, *(f"{rate:,.4g}" for rate in rates)])
    totals = [sum(product.count * medians[product, name] for product in products) for name in formats]
    work = sum(product.count * product.flops for product in products)
    rows.append(["all of a step", "", *(f"{work / total / 1e12:,.4g}" for total in totals)])
    rows.append(["ms per step", "", *(f"{total * 1e3:,.4g}" for total in totals)])
    return markdown_table(("product, TFLOP/s", "m x n x k", *formats), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all, and print the table."""
    args = parse_arguments(arguments)
    check(args)
    device = torch.device(args.device)
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    products = encoder_matmuls(config, args.batch_size, args.max_seq_length, 1 + args.max_predictions_per_seq)
    pairs = itertools.product(products, args.formats)
    seconds = in_turns({pair: partial(seconds_by_format, *pair, device, args.seconds) for pair in pairs}, args.repeats)
    print(table(products, args.formats, seconds))
    copy = copy_rate(device) / 1e12
    print(f"repeats of a product lie within {spread(seconds):.1%}; a copy reads and writes {copy:,.3g} TB/s")


if __name__ == "__main__":
    run_main(main)
