#!/usr/bin/env python3
"""Attention alone, forward and backward, backend by backend: is it right, and how near is it to the speed of memory.

  python3 benchmark/attention.py
  python3 benchmark/attention.py --lengths 128 --mean_length 80              # sequences without padding
  python3 benchmark/attention.py --bert_model tiny --tokens 256 --lengths 64 --repeats 1    # on a CPU, in seconds

First every backend is compared with a loop in float64: the error of the output and of the gradients without dropout,
as a share of their norm, and with dropout the share of weights that it drops, which values of one brought out one by
one show. Only then it is timed, on the query, key and value of one layer.

What must be moved is, forward, reading query, key and value and writing the output; backward, reading these four and
the output's gradient and writing the three others. Backends that give the three as separate tensors have them copied
into one afterwards, which their times contain and their bytes too. The last column is the share of the speed of a copy
on the same device at which these bytes were moved.

Repeats go round the backends, so that a device that warms up or throttles shows as spread; the table has medians.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from benchmark.timing import in_turns, spread
from benchmark.workloads.attention_inputs import AttentionInputs, random_inputs
from common.errors import Problems, run_main
from data.loading.synthetic import FULL, mean_length, synthetic_problem
from kernels.attention.backends import CHOICES, variable_length_attention
from models.config import BERT_CONFIGS, BertConfig
from tasks.pretraining.synthetic import synthetic_batch
from training.metrics.measured_peak import copy_rate, seconds_of

DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
GRADIENTS_APART = ("flash", "sdpa")
LONGEST_OF_TRITON = 512
CHECKED_SEQUENCES = 16  # of each length: as many as a loop in float64 can do in no time
HEADER = ("backend", "length", "forward, ms", "both, ms", "forward, MB", "both, MB", "forward / copy", "both / copy")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--bert_model", default="large", choices=sorted(BERT_CONFIGS), help="(default: large)")
    parser.add_argument("--backends", nargs="+", choices=CHOICES, default=list(CHOICES) if on_gpu else ["sdpa"])
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[128, 512], help="longest sequences (default: 128 512)"
    )
    parser.add_argument("--mean_length", default=FULL, help="uniform around this, not full (default: full)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=131072,
        help="of a micro-batch if all sequences are full; many, so that the GPU and not the launching is timed "
        "(default: 131072)",
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention weights (default: 0.1)")
    parser.add_argument("--precision", default="bf16" if on_gpu else "fp32", choices=DTYPES, help="(default: bf16)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="(default: a GPU)")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Refuse what this device cannot do, before anything is timed.

    Raises:
        UserError: a backend needs a GPU, or a number is out of range.
    """
    problems = Problems()
    on_cpu, longest = not args.device.startswith("cuda"), max(args.lengths)
    if "flash" in args.backends:
        problems.check(not on_cpu, f"--backends has flash, which {args.device} cannot do", "take sdpa")
        is_16_bits = args.precision != "fp32"
        problems.check(is_16_bits, "--backends has flash, which has no --precision fp32", "take bf16 or fp16")
    if "triton" in args.backends:
        problems.check(
            not on_cpu or os.environ.get("TRITON_INTERPRET") == "1",
            f"--backends has triton, which {args.device} can do in its interpreter only",
            "set TRITON_INTERPRET=1",
        )
        problems.check(
            longest <= LONGEST_OF_TRITON,
            f"--lengths has {longest}, and backend triton goes to {LONGEST_OF_TRITON}",
            "take shorter ones, or other --backends",
        )
    problems.check(0 <= args.dropout < 1, f"--dropout is {args.dropout}", "it must be 0 or more, and below 1")
    problems.check(args.repeats >= 1, f"--repeats is {args.repeats}", "it must be 1 or more")
    for length in args.lengths:
        problems.check(
            1 <= length <= args.tokens, f"--lengths has {length}", f"it must lie between 1 and --tokens {args.tokens}"
        )
        if length >= 1:
            problems.extend([synthetic_problem(args.mean_length, length, "--mean_length", "--lengths")])
    problems.raise_if_any()


def made_inputs(args: argparse.Namespace, length: int, n_sequences: int) -> AttentionInputs:
    """Random numbers for sequences of that length, or of lengths around the mean, with the padding behind them."""
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    cu_seqlens = synthetic_batch(n_sequences, length, 1, config.vocab_size, mean_length(args.mean_length)).cu_seqlens
    heads = config.num_attention_heads, config.head_size
    return random_inputs(cu_seqlens, length, *heads, DTYPES[args.precision], torch.device(args.device))


def attend(inputs: AttentionInputs, backend: str, dropout: float) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of query, key and value."""
    qkv = inputs.qkv.detach().requires_grad_()
    output = variable_length_attention(qkv, inputs.cu_seqlens, inputs.max_seqlen, dropout, backend)
    return output.detach(), torch.autograd.grad(output, qkv, inputs.gradient)[0]


def errors(inputs: AttentionInputs, backend: str) -> list[float]:
    """Of output and gradients of query, key and value without dropout: the norm of the difference from the reference
    in float64, over the norm of the latter."""
    exact = inputs._replace(qkv=inputs.qkv.double(), gradient=inputs.gradient.double())
    (output, gradient), (wanted, wanted_gradient) = attend(inputs, backend, 0.0), attend(exact, "reference", 0.0)
    pairs = [(output, wanted), *zip(gradient.unbind(1), wanted_gradient.unbind(1), strict=True)]
    return [((actual.double() - exact).norm() / exact.norm()).item() for actual, exact in pairs]


def dropped_share(inputs: AttentionInputs, backend: str, dropout: float) -> tuple[float, float]:
    """The share of weights that are dropped, and its standard deviation if each is dropped by itself.

    With zero queries no weight is zero, and values of one bring out those of a sequence's first D keys.
    """
    head_size = inputs.qkv.shape[-1]
    starts = inputs.cu_seqlens[:-1].long()
    lengths = inputs.cu_seqlens.diff().long()
    places = torch.arange(len(inputs.qkv), device=starts.device) - starts.repeat_interleave(lengths)
    columns = torch.arange(head_size, device=starts.device)
    qkv = torch.zeros_like(inputs.qkv)
    qkv[:, 2] = (places[:, None] == columns).unsqueeze(1).to(qkv.dtype)
    weights = variable_length_attention(qkv, inputs.cu_seqlens, inputs.max_seqlen, dropout, backend)
    exists = (columns < lengths.repeat_interleave(lengths)[:, None]).unsqueeze(1).expand_as(weights)
    share = (weights[exists] == 0).double().mean().item()
    return share, (dropout * (1 - dropout) / int(exists.sum())) ** 0.5


def bytes_to_move(inputs: AttentionInputs, backend: str) -> tuple[int, int]:
    """At least, forward and in both directions; what each backend saves beyond the output is left out."""
    part = inputs.gradient.numel() * inputs.gradient.element_size()
    joining = 6 * part if backend in GRADIENTS_APART else 0
    return 4 * part, (4 + 8) * part + joining


def works(inputs: AttentionInputs, backend: str, dropout: float) -> tuple[Callable[[], object], Callable[[], object]]:
    """What is timed: forward, and forward and backward."""

    def forward() -> Tensor:
        with torch.no_grad():
            return variable_length_attention(inputs.qkv, inputs.cu_seqlens, inputs.max_seqlen, dropout, backend)

    return forward, lambda: attend(inputs, backend, dropout)


def check_table(args: argparse.Namespace, inputs: Sequence[AttentionInputs]) -> str:
    """Errors and dropped shares of all backends."""
    rows = []
    for some in inputs:
        for backend in args.backends:
            share, deviation = dropped_share(some, backend, args.dropout)
            shown = (*(f"{error:.1e}" for error in errors(some, backend)), f"{share:.4f} ± {deviation:.4f}")
            rows.append([backend, str(some.max_seqlen), *shown])
    names = "error of output", "of query's gradient", "of key's", "of value's", f"dropped, of {args.dropout:g}"
    return markdown_table(("backend", "length", *names), rows)


def time_table(
    args: argparse.Namespace,
    inputs: Sequence[AttentionInputs],
    seconds: dict[tuple[int, str, int], list[float]],
    copy: float,
) -> str:
    """Medians.

    Args:
        seconds: of each length, backend and direction (0: forward, 1: both).
        copy: bytes per second.
    """
    rows = []
    for some in inputs:
        for backend in args.backends:
            times = [statistics.median(seconds[some.max_seqlen, backend, direction]) for direction in (0, 1)]
            moved = bytes_to_move(some, backend)
            shares = [n_bytes / time / copy for n_bytes, time in zip(moved, times, strict=True)]
            cells = *(f"{t * 1e3:,.4g}" for t in times), *(f"{n / 1e6:,.4g}" for n in moved)
            rows.append([backend, str(some.max_seqlen), *cells, *(f"{share:.1%}" for share in shares)])
    return markdown_table(HEADER, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, time all, and print both tables."""
    args = parse_arguments(arguments)
    check(args)
    device = torch.device(args.device)
    numbers = {length: args.tokens // length for length in args.lengths}
    few = [made_inputs(args, length, min(number, CHECKED_SEQUENCES)) for length, number in numbers.items()]
    print(check_table(args, few), end="\n\n", flush=True)
    inputs = [made_inputs(args, length, number) for length, number in numbers.items()]
    measurements = {
        (some.max_seqlen, backend, direction): partial(seconds_of, work, device)
        for some in inputs
        for backend in args.backends
        for direction, work in enumerate(works(some, backend, args.dropout))
    }
    seconds = in_turns(measurements, args.repeats)
    copy = copy_rate(device)
    print(time_table(args, inputs, seconds, copy))
    tokens = ", ".join(f"{len(some.qkv):,}" for some in inputs)
    print(
        f"tokens: {tokens}; repeats lie within {spread(seconds):.1%}; a copy reads and writes {copy / 1e12:,.3g} TB/s"
    )


if __name__ == "__main__":
    run_main(main)
