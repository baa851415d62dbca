#!/usr/bin/env python3
"""Which block shapes, warps, stages and registers are fastest for attention in Triton: a grid, timed on this GPU.

  python3 benchmark/attention_settings.py
  python3 benchmark/attention_settings.py --kernels keys --lengths 384 --tokens 12288

For BERT-large in bf16. One kernel's settings are changed at a time, and the pass that it belongs to is timed, in turns
and as a CUDA graph, so that short ones are not timed by what Python takes to launch them; the tables have medians. What
does not compile, or gives other values than the settings in use, is said in a line of its own. Compiling takes minutes.
"""

import argparse
import functools
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch
from torch import Tensor

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns
from benchmark.workloads.attention_inputs import AttentionInputs, random_inputs
from common.errors import run_main
from training.cuda_graphs import CudaRecorder
from training.metrics.measured_peak import seconds_of

HEADS, HEAD_SIZE, DROPOUT, SEED = 16, 64, 0.1, 1234
HEADER = ("kernel", "length", "settings", "the pass, ms", "of that in use")
TOLERANCE = 0.01  # of the norm: two roundings to bf16 apart

# A kernel's function in kernels/attention/short.py, which returns its settings, and what to try. Those called whole are
# for sequences of up to 128 tokens, the others for longer ones.
WHOLE = MappingProxyType({"num_warps": (4, 8), "maxnreg": (128, 168, 255)})
SIZES = MappingProxyType({"block_queries": (64, 128), "block_keys": (64, 128)})
BLOCKS = MappingProxyType({**SIZES, "num_warps": (4, 8), "num_stages": (1, 2, 3), "maxnreg": (128, 255)})
KERNELS = MappingProxyType(
    {
        "whole forward": ("whole_forward_settings", {"block_queries": (64, 128), **WHOLE}),
        "whole backward": ("whole_backward_settings", {"block_keys": (64, 128), **WHOLE}),
        "forward": ("forward_blocks_settings", BLOCKS),
        "queries": ("query_blocks_settings", BLOCKS),
        "keys": ("key_blocks_settings", BLOCKS),
    }
)


def settings_of(kernel: str, inputs: AttentionInputs) -> list[dict[str, int]]:
    """What a kernel is launched with: the settings in use, then those of the grid that differ."""
    from kernels.attention import short

    function, grid = KERNELS[kernel]
    arguments = (inputs.max_seqlen,) if kernel.startswith("whole") else (HEAD_SIZE, inputs.qkv.element_size())
    used = getattr(short, function)(*arguments)
    others = (used | dict(zip(grid, numbers, strict=True)) for numbers in itertools.product(*grid.values()))
    return [used, *(settings for settings in others if settings != used)]


def pass_with(kernel: str, settings: dict[str, int], inputs: AttentionInputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """The pass that a kernel belongs to, with these settings of it: output and log-sum-exp, or the gradients of query,
    key and value and of their bias."""
    from kernels.attention import short

    qkv, gradient, cu_seqlens, max_seqlen = inputs
    rest = cu_seqlens, max_seqlen, DROPOUT, torch.tensor([SEED], device=qkv.device)
    work = functools.partial(short.short_attention, qkv, *rest)
    if not kernel.endswith("forward"):
        work = functools.partial(short.short_attention_backward, gradient, qkv, *work(), *rest)

    def run() -> tuple[Tensor, Tensor]:
        with mock.patch.object(short, KERNELS[kernel][0], return_value=settings):
            return work()

    return run


def problem_of(kernel: str, settings: dict[str, int], used: dict[str, int], inputs: AttentionInputs) -> str | None:
    """Why a kernel cannot be run with these settings, or what is wrong with its values."""
    wanted = pass_with(kernel, used, inputs)()
    try:
        found = pass_with(kernel, settings, inputs)()
        for one, two in zip(found, wanted, strict=True):
            difference = ((one.float() - two.float()).norm() / two.float().norm()).item()
            if not difference <= TOLERANCE:
                return f"values are {difference:.1%} off"
    except Exception as error:  # of many libraries; the next settings may do
        return f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
    return None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS), help="those to tune")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 384, 512], help="of all sequences")
    parser.add_argument("--tokens", type=int, help="of a micro-batch, if not 12288 for length 384 and else 131072")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--most", type=int, help="only so many settings of each kernel beside those in use")
    parser.add_argument("--device", default="cuda", help="to measure on")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise a UserError for what cannot be run."""
    problems = count_problems(args, "repeats", *(["tokens"] if args.tokens is not None else []))
    for length in args.lengths:
        problems.check(1 <= length <= 512, f"--lengths has {length}", "it must lie between 1 and 512")
    problems.check(args.most is None or args.most >= 0, f"--most is {args.most}", "it must be 0 or more")
    able = torch.cuda.is_available() if args.device.startswith("cuda") else os.environ.get("TRITON_INTERPRET") == "1"
    problems.check(able, f"--device {args.device} cannot run Triton", "take a GPU, or TRITON_INTERPRET=1 --device cpu")
    problems.raise_if_any()


def measured(kernel: str, inputs: AttentionInputs, repeats: int, most: int | None) -> list[list[str]]:
    """The lines of one kernel at one length, the fastest first; says what cannot be used."""
    device, length = inputs.qkv.device, inputs.max_seqlen
    record = CudaRecorder() if device.type == "cuda" else None
    used, *others = settings_of(kernel, inputs)
    works = {}
    for settings in (used, *others[:most]):
        name = ", ".join(f"{option} {number}" for option, number in settings.items())
        if problem := problem_of(kernel, settings, used, inputs):
            print(f"{kernel}, {length}: {name}: {problem}", flush=True)
            continue
        work = pass_with(kernel, settings, inputs)
        if record:
            work()  # compiles
            work = record(work)
        works[name if settings != used else "in use"] = functools.partial(seconds_of, work, device)
    medians = {name: statistics.median(seconds) for name, seconds in in_turns(works, repeats).items()}
    return [
        [kernel, str(length), name, f"{median * 1e3:.4g}", f"{median / medians['in use']:.3f}"]
        for name, median in sorted(medians.items(), key=lambda pair: pair[1])
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, and print a table of each kernel at each length as soon as it is timed."""
    args = parse_arguments(arguments)
    check(args)
    from kernels.attention.short import is_whole  # needs Triton

    dtype = torch.float16 if args.device == "cpu" else torch.bfloat16  # Triton's interpreter multiplies no bf16
    for length in args.lengths:
        n_tokens = args.tokens or (12288 if length == 384 else 131072)  # of 384, as SQuAD's steps have them
        n_sequences = max(1, n_tokens // length)
        inputs = random_inputs(n_sequences, length, None, (HEADS, HEAD_SIZE), dtype, args.device)
        for kernel in args.kernels:
            if kernel.startswith("whole") == is_whole(inputs.qkv, length):
                rows = measured(kernel, inputs, args.repeats, args.most)
                print(markdown_table(HEADER, rows), end="\n\n")


if __name__ == "__main__":
    run_main(main)
