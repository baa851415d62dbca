#!/usr/bin/env python3
"""How fast a step's matrix products can be on this device, product by product and format by format.

  python3 benchmark/floor.py --bert_model large --batch_size 256
  python3 benchmark/floor.py --bert_model tiny --formats bf16 fp32 --repeats 1      # on a CPU, in seconds

Each product of an encoder layer is timed by itself at its true shape and layout: forward, and backward to the input and
to the weight. What they take together, as often as a step makes them, is the floor of the step in that format; the
encoder's attention, all element-wise work, the heads and the optimizer come on top.

fp8 is e4m3 with fp32 accumulation and results in bf16, `tensor` with one scale per factor and `row` with one per row
and column; hardware wants its right factor column by column, so all three products are timed in that layout, and what
it costs to bring factors into fp8 (`cast`: largest value, scale, rounding) is a row of its own, since only a step that
does this within its neighbors has it for nothing.

Repeats go round the formats, so that a device that warms up or throttles shows as spread; the tables have medians.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from benchmark.timing import in_turns, spread
from common.errors import UserError, run_main
from common.matmul import Matmul
from models.config import BERT_CONFIGS, BertConfig
from models.flops import encoder_matmuls
from training.metrics.measured_peak import copy_rate, seconds_of, seconds_of_matmul

DTYPES = MappingProxyType({"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
FP8 = ("fp8-tensor", "fp8-row")
FP8_MAX = 448.0  # of e4m3, https://arxiv.org/abs/2209.05433


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert_model", default="large", choices=sorted(BERT_CONFIGS), help="(default: large)")
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per step (default: 256)")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence (default: 128)")
    parser.add_argument(
        "--formats", nargs="+", choices=(*DTYPES, *FP8), default=["bf16", *FP8], help="(default: bf16 and both of fp8)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU)")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Refuse what this device cannot do, before anything is timed.

    Raises:
        UserError: fp8 or tf32 is asked for where there is none, or a number is below one.
    """
    capability = torch.cuda.get_device_capability() if args.device.startswith("cuda") else (0, 0)
    fp8 = [name for name in args.formats if name in FP8]
    if fp8 and capability < (8, 9):
        raise UserError(
            f"--formats has {' and '.join(fp8)}, which {args.device} cannot do",
            "take a GPU of compute capability 8.9 or more, or other formats",
        )
    if "tf32" in args.formats and capability < (8, 0):
        raise UserError(f"--formats has tf32, which {args.device} cannot do", "take fp32")
    for name in ("batch_size", "max_seq_length", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}", "it must be 1 or more")


def to_fp8(matrix: torch.Tensor, row_wise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled to the whole range of e4m3.

    Args:
        matrix: (rows, columns).
        row_wise: one scale per row, else one for all.

    Returns:
        The matrix in float8_e4m3fn, and fp32 scales, (rows, 1) or (), with which it is to be multiplied again.
    """
    largest = matrix.abs().amax(1, keepdim=True) if row_wise else matrix.abs().amax()
    scale = (largest.float() / FP8_MAX).clamp(min=1e-12)
    return (matrix / scale.to(matrix.dtype)).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def fp8_product(left: torch.Tensor, right: torch.Tensor, row_wise: bool) -> Callable[[], torch.Tensor]:
    """The product of (m, k) and the transpose of (n, k), both brought into fp8 here and now; the result is bf16."""
    left_fp8, left_scale = to_fp8(left, row_wise)
    right_fp8, right_scale = to_fp8(right, row_wise)
    scales = {"scale_a": left_scale, "scale_b": right_scale.reshape(1, -1) if row_wise else right_scale}
    return lambda: torch._scaled_mm(left_fp8, right_fp8.T, **scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def seconds_by_format(product: Matmul, name: str, device: torch.device) -> float:
    """Time of one product in a format."""
    if name not in FP8:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        return seconds_of_matmul(product, DTYPES[name], device)
    left = torch.randn(product.m, product.k, device=device, dtype=torch.bfloat16)
    right = torch.randn(product.n, product.k, device=device, dtype=torch.bfloat16)
    return seconds_of(fp8_product(left, right, name == "fp8-row"), device)


def seconds_of_casts(product: Matmul, name: str, device: torch.device) -> float:
    """Time to bring both factors of a product into fp8, in passes of their own; nothing for other formats."""
    if name not in FP8:
        return 0.0
    cast = torch.compile(to_fp8)
    factors = [torch.randn(rows, product.k, device=device, dtype=torch.bfloat16) for rows in (product.m, product.n)]
    return seconds_of(lambda: [cast(factor, name == "fp8-row") for factor in factors], device)


def table(products: Sequence[Matmul], formats: Sequence[str], seconds: dict[tuple[Matmul, str], list[float]]) -> str:
    """TFLOP/s of each product, and of all as often as a step makes them."""
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    rows = []
    for product in products:
        rates = [product.flops / medians[product, name] / 1e12 for name in formats]
        shape = f"{product.m} x {product.n} x {product.k}"
        rows.append([product.name, shape, *(f"{rate:,.4g}" for rate in rates)])
    totals = {name: sum(product.count * medians[product, name] for product in products) for name in formats}
    work = sum(product.count * product.flops for product in products)
    rows.append(["all of a step", "", *(f"{work / totals[name] / 1e12:,.4g}" for name in formats)])
    rows.append(["ms per step", "", *(f"{totals[name] * 1e3:,.4g}" for name in formats)])
    return markdown_table(("product, TFLOP/s", "m x n x k", *formats), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all, and print the table."""
    args = parse_arguments(arguments)
    check(args)
    device = torch.device(args.device)
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    products = encoder_matmuls(config, args.batch_size * args.max_seq_length)
    measurements = {
        (product, name): partial(seconds_by_format, product, name, device)
        for product in products
        for name in args.formats
    }
    seconds = in_turns(measurements, args.repeats)
    print(table(products, args.formats, seconds))
    for name in args.formats:
        if casts := sum(product.count * seconds_of_casts(product, name, device) for product in products):
            print(f"{name}: casts of both factors in passes of their own: {casts * 1e3:,.4g} ms per step")
    if args.repeats > 1:
        print(f"repeats of a product lie within {spread(seconds):.1%}")
    print(f"a copy reads and writes {copy_rate(device) / 1e12:,.3g} TB/s")


if __name__ == "__main__":
    run_main(main)
