#!/usr/bin/env python3
"""Which block shapes, warps, stages and registers are fastest for attention by hand: all of a list, timed on this GPU.

  python3 benchmark/attention_settings.py
  python3 benchmark/attention_settings.py --kernels keys --lengths 384 --tokens 12288

For BERT-large in bf16. Only one kernel's settings are changed at a time, and the pass that it belongs to is timed: the
times of a kernel's lines differ by that kernel alone. Before that, output and gradients are compared with those of the
settings in use, which come first. What does not compile, or gives something else, is said in a line of its own.

Passes are launched as CUDA graphs, so that short ones are not timed by what Python takes to launch them. Repeats go
round the settings, and the table has medians.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from benchmark.timing import in_turns
from benchmark.workloads.attention_inputs import AttentionInputs, random_inputs
from common.errors import Problems, run_main
from training.cuda_graphs import CudaRecorder
from training.metrics.measured_peak import seconds_of

HEADS, HEAD_SIZE, DROPOUT, SEED = 16, 64, 0.1, 1234
LENGTHS = (128, 384, 512)
TOKENS = MappingProxyType({384: 12288})  # as SQuAD's steps have them; others have 131,072
CHECKED_SEQUENCES = 4
TOLERANCE = 0.01  # of the norm: two roundings to bf16 apart
OPTIONS = ("num_warps", "num_stages", "maxnreg")  # 0 leaves one to Triton
BLOCKS = ("block_queries", "block_keys")
WHOLE_QUERIES, WHOLE_KEYS = ("block", "block_queries"), ("block", "block_keys")

Settings = Mapping[str, int]
"""As a kernel is launched with them."""


class Tuned(NamedTuple):
    """A kernel's settings, and what else there is to try."""

    function: str
    """That returns them, in kernels/attention/short.py."""
    is_backward: bool
    is_whole: bool
    """Whether it is for sequences of up to 128 tokens, else for longer ones."""
    shape: tuple[str, str]
    """Names of the first two numbers in `others`; OPTIONS follow."""
    others: tuple[tuple[int, ...], ...]

    def settings(self) -> list[Settings]:
        """Those to try."""
        names = *self.shape, *OPTIONS
        named = [dict(zip(names, numbers, strict=True)) for numbers in self.others]
        return [{name: number for name, number in each.items() if number or name not in OPTIONS} for each in named]


KERNELS = MappingProxyType({
    "whole forward": Tuned("whole_forward_settings", is_backward=False, is_whole=True, shape=WHOLE_QUERIES, others=(
        (128, 64, 4, 1, 128), (128, 64, 4, 1, 168), (128, 64, 4, 1, 0), (128, 128, 8, 1, 128), (128, 128, 8, 1, 0),
        (128, 128, 4, 1, 0), (128, 64, 8, 1, 128),
    )),
    "whole backward": Tuned("whole_backward_settings", is_backward=True, is_whole=True, shape=WHOLE_KEYS, others=(
        (128, 64, 8, 1, 128), (128, 64, 8, 1, 0), (128, 64, 4, 1, 0), (128, 128, 8, 1, 0),
    )),
    "forward": Tuned("forward_blocks_settings", is_backward=False, is_whole=False, shape=BLOCKS, others=(
        (128, 64, 8, 1, 128), (128, 64, 8, 2, 128), (128, 64, 8, 3, 128), (128, 64, 8, 4, 128), (128, 32, 8, 2, 128),
        (128, 32, 8, 3, 128), (128, 128, 8, 1, 128), (128, 128, 8, 2, 128), (128, 128, 8, 1, 0),
        (128, 128, 8, 2, 0), (128, 64, 4, 2, 0), (128, 64, 4, 3, 0), (128, 64, 4, 2, 168), (128, 32, 4, 2, 168),
        (64, 64, 4, 1, 128), (64, 64, 4, 2, 128), (64, 64, 4, 3, 128), (64, 32, 4, 2, 0), (64, 32, 4, 3, 0),
        (64, 128, 4, 1, 168), (64, 128, 4, 2, 168), (64, 128, 4, 2, 0),
    )),
    "queries": Tuned("query_blocks_settings", is_backward=True, is_whole=False, shape=BLOCKS, others=(
        (128, 64, 8, 1, 128), (128, 64, 8, 2, 128), (128, 64, 8, 3, 128), (128, 64, 8, 2, 0), (128, 32, 8, 1, 128),
        (128, 32, 8, 2, 128), (128, 32, 8, 3, 128), (128, 128, 8, 1, 0), (128, 128, 8, 2, 0), (128, 64, 4, 1, 0),
        (128, 64, 4, 2, 0), (128, 32, 4, 2, 168), (128, 32, 4, 2, 0),
        (64, 64, 4, 1, 128), (64, 64, 4, 2, 128), (64, 64, 4, 3, 128), (64, 64, 4, 2, 0), (64, 32, 4, 2, 128),
        (64, 32, 4, 3, 128), (64, 128, 4, 1, 0), (64, 128, 4, 2, 0),
    )),
    "keys": Tuned("key_blocks_settings", is_backward=True, is_whole=False, shape=BLOCKS, others=(
        (64, 64, 4, 1, 0), (64, 64, 4, 2, 0), (64, 64, 4, 3, 0), (64, 64, 4, 1, 168), (64, 64, 4, 2, 168),
        (64, 64, 8, 2, 128), (64, 32, 4, 1, 0), (64, 32, 4, 2, 0), (64, 32, 4, 2, 168),
        (128, 64, 8, 1, 128), (128, 64, 8, 1, 0), (128, 64, 8, 2, 0), (128, 64, 4, 1, 0), (128, 128, 8, 1, 0),
        (128, 128, 8, 2, 0),
        (64, 128, 8, 1, 0), (64, 128, 8, 2, 0), (64, 128, 4, 2, 0),
    )),
})  # fmt: skip


@contextmanager
def in_use(kernel: str, settings: Settings | None) -> Iterator[None]:
    """Launches of a kernel have these settings; None: those in the code."""
    from kernels.attention import short

    if settings is None:
        yield
    else:
        with mock.patch.object(short, KERNELS[kernel].function, return_value=settings):
            yield


def work_of(kernel: str, inputs: AttentionInputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """The pass that a kernel belongs to: output and log-sum-exp, or the gradients of query, key and value and of their
    bias. What it reads lives as long as the pass does."""
    from kernels.attention.short import short_attention, short_attention_backward

    qkv, gradient, cu_seqlens, max_seqlen = inputs
    rest = cu_seqlens, max_seqlen, DROPOUT, torch.tensor([SEED], device=qkv.device)
    if not KERNELS[kernel].is_backward:
        return lambda: short_attention(qkv, *rest)
    output, log_sum_exp = short_attention(qkv, *rest)
    return lambda: short_attention_backward(gradient, qkv, output, log_sum_exp, *rest)


def problem_of(kernel: str, settings: Settings, inputs: AttentionInputs) -> str | None:
    """Why a kernel cannot be run with these settings, or what is wrong with its values."""
    work = work_of(kernel, inputs)
    wanted = work()
    # Whatever goes wrong in compiling or launching, from many libraries' exceptions, the next setting may do.
    try:
        with in_use(kernel, settings):
            found = work()
            if inputs.qkv.device.type == "cuda":
                torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
    for one, two in zip(found, wanted, strict=True):
        difference = ((one.double() - two.double()).norm() / two.double().norm()).item()
        if not difference <= TOLERANCE:
            return f"values are {difference:.1%} off"
    return None


def launched(
    kernel: str, settings: Settings | None, work: Callable[[], Any], record: CudaRecorder | None
) -> Callable[[], Any]:
    """The pass with these settings, ready to be timed: as a CUDA graph, if there is what records one."""

    def run() -> Any:
        with in_use(kernel, settings):
            return work()

    if record is None:
        return run
    run()  # compiles
    return record(run)


def shown(settings: Settings | None) -> str:
    """As text."""
    return "in use" if settings is None else ", ".join(f"{name} {number}" for name, number in settings.items())


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS), help="(default: all)")
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=list(LENGTHS), help="of all sequences (default: 128 384 512)"
    )
    parser.add_argument("--tokens", type=int, help="of a micro-batch (default: 12288 for length 384, else 131072)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--most", type=int, help="only so many settings of each kernel (default: all)")
    parser.add_argument("--device", default="cuda", help="(default: cuda)")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: a number is out of range, or there is no such device.
    """
    problems = Problems()
    for length in args.lengths:
        problems.check(1 <= length <= 512, f"--lengths has {length}", "it must lie between 1 and 512")
    problems.check(args.repeats >= 1, f"--repeats is {args.repeats}", "it must be 1 or more")
    problems.check(args.tokens is None or args.tokens >= 1, f"--tokens is {args.tokens}", "it must be 1 or more")
    problems.check(args.most is None or args.most >= 0, f"--most is {args.most}", "it must be 0 or more")
    able = torch.cuda.is_available() if args.device.startswith("cuda") else os.environ.get("TRITON_INTERPRET") == "1"
    problems.check(able, f"--device {args.device} cannot run Triton", "take a GPU, or TRITON_INTERPRET=1 --device cpu")
    problems.raise_if_any()


def made_inputs(length: int, n_sequences: int, device: torch.device) -> AttentionInputs:
    """Random numbers for full sequences."""
    # Triton's interpreter multiplies no bf16.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    cu_seqlens = torch.arange(n_sequences + 1, dtype=torch.int32) * length
    return random_inputs(cu_seqlens, length, HEADS, HEAD_SIZE, dtype, device)


def measured(kernel: str, inputs: AttentionInputs, args: argparse.Namespace) -> list[list[str]]:
    """The lines of one kernel at one length, the fastest first; says what cannot be used."""
    device, length = inputs.qkv.device, inputs.max_seqlen
    few = made_inputs(length, CHECKED_SEQUENCES, device)
    able: dict[str, Settings | None] = {shown(None): None}
    for settings in KERNELS[kernel].settings()[: args.most]:
        if problem := problem_of(kernel, settings, few):
            print(f"{kernel}, {length}: {shown(settings)}: {problem}", flush=True)
        else:
            able[shown(settings)] = settings
    record = CudaRecorder() if device.type == "cuda" else None
    the_pass = work_of(kernel, inputs)
    works = {name: launched(kernel, settings, the_pass, record) for name, settings in able.items()}
    seconds = in_turns({name: partial(seconds_of, work, device) for name, work in works.items()}, args.repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        [kernel, str(length), name, f"{median * 1e3:.4g}", f"{median / medians[shown(None)]:.3f}"]
        for name, median in sorted(medians.items(), key=lambda pair: pair[1])
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, time all, and print one table."""
    args = parse_arguments(arguments)
    check(args)
    from kernels.attention.short import is_whole  # needs Triton

    rows = []
    for length in args.lengths:
        n_tokens = args.tokens or TOKENS.get(length, 131072)
        inputs = made_inputs(length, max(1, n_tokens // length), torch.device(args.device))
        for kernel in args.kernels:
            if KERNELS[kernel].is_whole == is_whole(inputs.qkv, length):
                rows += measured(kernel, inputs, args)
    print(markdown_table(("kernel", "length", "settings", "the pass, ms", "of that in use"), rows))


if __name__ == "__main__":
    run_main(main)
