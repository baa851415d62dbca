#!/usr/bin/env python3
"""Attention alone, forward and backward, backend by backend: is it right, and how near is it to the speed of memory.

  python3 benchmark/attention.py
  python3 benchmark/attention.py --lengths 128 --mean_length 80              # sequences without padding
  python3 benchmark/attention.py --bert_model tiny --tokens 256 --lengths 64 --repeats 1    # on a CPU, in seconds

First every backend is compared with a loop in float64: the error of the output and of the gradients without dropout,
as a share of their norm, and with dropout the share of weights that it drops, which values of one brought out one by
one show. Then it is timed on the query, key and value of one layer, in turns; the table has medians. Beside each time
is the share of a copy's rate at which it moved what must be moved: forward, query, key, value and output; backward,
these four, the output's gradient and the three others, and those again where a backend gives them as separate tensors.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch
from torch import Tensor

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns, spread
from benchmark.workloads.attention_inputs import AttentionInputs, random_inputs
from common.errors import run_main
from data.loading.synthetic import FULL, mean_length, synthetic_problem
from kernels.attention.backends import BACKENDS, CHOICES, variable_length_attention
from models.config import BERT_CONFIGS, BertConfig
from training.metrics.measured_peak import copy_rate, seconds_of

DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
GRADIENTS_APART = ("flash", "sdpa")
CHECKED_SEQUENCES = 16  # of each length: as many as a loop in float64 can do in no time


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="of which one layer is taken")
    backends = list(CHOICES) if on_gpu else ["sdpa"]
    parser.add_argument("--backends", nargs="+", choices=CHOICES, default=backends, help="to compare")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512], help="longest sequences")
    parser.add_argument("--mean_length", default=FULL, help="uniform around this, not full")
    parser.add_argument("--tokens", type=int, default=131072, help="of a micro-batch if all sequences are full")
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention weights")
    parser.add_argument("--precision", default="bf16" if on_gpu else "fp32", choices=DTYPES, help="of all tensors")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="to measure on")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise a UserError for what this device cannot do, before anything is timed."""
    problems = count_problems(args, "repeats")
    problems.check(0 <= args.dropout < 1, f"--dropout is {args.dropout}", "it must be 0 or more, and below 1")
    head_size = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model]).head_size
    shape = torch.device(args.device), DTYPES[args.precision], head_size, max(args.lengths)
    for backend in args.backends:
        if problem := BACKENDS[backend].problem(*shape):
            problems.add(f"--backends has {backend}: {problem.problem}", "take another")
    for length in args.lengths:
        if 1 <= length <= args.tokens:
            problems.extend([synthetic_problem(args.mean_length, length, "--mean_length", "--lengths")])
        else:
            problems.add(f"--lengths has {length}", f"it must lie between 1 and --tokens {args.tokens}")
    problems.raise_if_any()


def made_inputs(args: argparse.Namespace, length: int, most: int) -> AttentionInputs:
    """Of `--tokens`, in `most` sequences of that length at most, or of lengths around the mean."""
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    heads, n_sequences = (config.num_attention_heads, config.head_size), min(args.tokens // length, most)
    mean, dtype = mean_length(args.mean_length), DTYPES[args.precision]
    return random_inputs(n_sequences, length, mean, heads, dtype, args.device)


def attend(inputs: AttentionInputs, backend: str, dropout: float) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of query, key and value."""
    qkv = inputs.qkv.detach().requires_grad_()
    output = variable_length_attention(qkv, inputs.cu_seqlens, inputs.max_seqlen, dropout, backend)
    return output.detach(), torch.autograd.grad(output, qkv, inputs.gradient)[0]


def errors(inputs: AttentionInputs, backend: str) -> list[float]:
    """Of output and gradients of query, key and value without dropout: that of the difference, over that in float64."""
    exact = inputs._replace(qkv=inputs.qkv.double(), gradient=inputs.gradient.double())
    (output, gradient), (wanted, wanted_gradient) = attend(inputs, backend, 0.0), attend(exact, "reference", 0.0)
    pairs = [(output, wanted), *zip(gradient.unbind(1), wanted_gradient.unbind(1), strict=True)]
    return [((actual.double() - exact).norm() / exact.norm()).item() for actual, exact in pairs]


def dropped_share(inputs: AttentionInputs, backend: str, dropout: float) -> tuple[float, float]:
    """The share of weights that are dropped, and its standard deviation if each is dropped by itself. With zero queries
    no weight is zero, and values of one bring out those of a sequence's first D keys."""
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


def time_table(
    inputs: Mapping[int, AttentionInputs], seconds: Mapping[tuple[int, str, int], list[float]], copy: float
) -> str:
    """Medians, of each length, backend and direction (0: forward, 1: both); `copy` is a copy's bytes per second."""
    rows: dict[tuple[int, str], list[str]] = {}
    for (length, backend, direction), times in seconds.items():
        median = statistics.median(times)
        rate = bytes_to_move(inputs[length], backend)[direction] / median
        row = rows.setdefault((length, backend), [backend, str(length)])
        row += [f"{median * 1e3:,.4g}", f"{rate / copy:.1%}"]
    header = ("backend", "length", "forward, ms", "of a copy's rate", "both, ms", "of a copy's rate")
    return markdown_table(header, list(rows.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, time all, and print both tables."""
    args = parse_arguments(arguments)
    check(args)
    rows = []
    for length, backend in itertools.product(args.lengths, args.backends):
        few = made_inputs(args, length, CHECKED_SEQUENCES)
        share, deviation = dropped_share(few, backend, args.dropout)
        shown = (*(f"{error:.1e}" for error in errors(few, backend)), f"{share:.4f} ± {deviation:.4f}")
        rows.append([backend, str(length), *shown])
    names = "error of output", "of query's gradient", "of key's", "of value's", f"dropped, of {args.dropout:g}"
    print(markdown_table(("backend", "length", *names), rows), end="\n\n", flush=True)
    inputs = {length: made_inputs(args, length, args.tokens) for length in args.lengths}
    measurements = {}
    for (length, some), backend in itertools.product(inputs.items(), args.backends):
        forward = partial(variable_length_attention, some.qkv, some.cu_seqlens, length, args.dropout, backend)
        both = partial(attend, some, backend, args.dropout)
        for direction, work in enumerate((torch.no_grad()(forward), both)):
            measurements[length, backend, direction] = partial(seconds_of, work, torch.device(args.device))
    seconds = in_turns(measurements, args.repeats)
    copy = copy_rate(torch.device(args.device))
    print(time_table(inputs, seconds, copy))
    tokens = ", ".join(f"{len(some.qkv):,}" for some in inputs.values())
    print(
        f"tokens: {tokens}; repeats lie within {spread(seconds):.1%}; a copy reads and writes {copy / 1e12:,.3g} TB/s"
    )


if __name__ == "__main__":
    run_main(main)
