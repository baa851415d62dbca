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
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from common.errors import Problems, run_main
from training.cuda_graphs import CudaRecorder
from training.metrics.measured_peak import seconds_of

HEADS, HEAD_SIZE, DROPOUT = 16, 64, 0.1
LENGTHS = (128, 384, 512)
TOKENS = MappingProxyType({384: 12288})  # as SQuAD's steps have them; others have 131,072
TOLERANCE = 0.01  # of the norm: two roundings to bf16 apart
OPTIONS = ("num_warps", "num_stages", "maxnreg")


class Tuned(NamedTuple):
    """A kernel's settings, and what else there is to try."""

    function: str
    """That returns them, in kernels/attention/short.py."""
    is_backward: bool
    is_whole: bool
    """Whether it is for sequences of up to 128 tokens, else for longer ones."""
    names: tuple[str, ...]
    """Of the numbers in `others`; 0 leaves an option to Triton."""
    others: tuple[tuple[int, ...], ...]


BLOCKS = ("block_queries", "block_keys", "num_warps", "num_stages", "maxnreg")
KERNELS = MappingProxyType(
    {
        "whole forward": Tuned(
            "whole_forward_settings",
            is_backward=False,
            is_whole=True,
            names=("block", "block_queries", "num_warps", "num_stages", "maxnreg"),
            others=(
                (128, 64, 4, 1, 128),
                (128, 64, 4, 1, 168),
                (128, 64, 4, 1, 0),
                (128, 128, 8, 1, 128),
                (128, 128, 8, 1, 0),
                (128, 128, 4, 1, 0),
                (128, 64, 8, 1, 128),
            ),
        ),
        "whole backward": Tuned(
            "whole_backward_settings",
            is_backward=True,
            is_whole=True,
            names=("block", "block_keys", "num_warps", "num_stages", "maxnreg"),
            others=(
                (128, 64, 8, 1, 128),
                (128, 64, 8, 1, 0),
                (128, 64, 4, 1, 0),
                (128, 128, 8, 1, 0),
            ),
        ),
        "forward": Tuned(
            "forward_blocks_settings",
            is_backward=False,
            is_whole=False,
            names=BLOCKS,
            others=(
                (128, 64, 8, 1, 128),
                (128, 64, 8, 2, 128),
                (128, 64, 8, 3, 128),
                (128, 64, 8, 4, 128),
                (128, 32, 8, 2, 128),
                (128, 32, 8, 3, 128),
                (128, 128, 8, 1, 128),
                (128, 128, 8, 2, 128),
                (128, 128, 8, 1, 0),
                (128, 128, 8, 2, 0),
                (128, 64, 4, 2, 0),
                (128, 64, 4, 3, 0),
                (128, 64, 4, 2, 168),
                (128, 32, 4, 2, 168),
                (64, 64, 4, 1, 128),
                (64, 64, 4, 2, 128),
                (64, 64, 4, 3, 128),
                (64, 32, 4, 2, 0),
                (64, 32, 4, 3, 0),
                (64, 128, 4, 1, 168),
                (64, 128, 4, 2, 168),
                (64, 128, 4, 2, 0),
            ),
        ),
        "queries": Tuned(
            "query_blocks_settings",
            is_backward=True,
            is_whole=False,
            names=BLOCKS,
            others=(
                (128, 64, 8, 1, 128),
                (128, 64, 8, 2, 128),
                (128, 64, 8, 3, 128),
                (128, 64, 8, 2, 0),
                (128, 32, 8, 1, 128),
                (128, 32, 8, 2, 128),
                (128, 32, 8, 3, 128),
                (128, 128, 8, 1, 0),
                (128, 128, 8, 2, 0),
                (128, 64, 4, 1, 0),
                (128, 64, 4, 2, 0),
                (128, 32, 4, 2, 168),
                (128, 32, 4, 2, 0),
                (64, 64, 4, 1, 128),
                (64, 64, 4, 2, 128),
                (64, 64, 4, 3, 128),
                (64, 64, 4, 2, 0),
                (64, 32, 4, 2, 128),
                (64, 32, 4, 3, 128),
                (64, 128, 4, 1, 0),
                (64, 128, 4, 2, 0),
            ),
        ),
        "keys": Tuned(
            "key_blocks_settings",
            is_backward=True,
            is_whole=False,
            names=BLOCKS,
            others=(
                (64, 64, 4, 1, 0),
                (64, 64, 4, 2, 0),
                (64, 64, 4, 3, 0),
                (64, 64, 4, 1, 168),
                (64, 64, 4, 2, 168),
                (64, 64, 8, 2, 128),
                (64, 32, 4, 1, 0),
                (64, 32, 4, 2, 0),
                (64, 32, 4, 2, 168),
                (128, 64, 8, 1, 128),
                (128, 64, 8, 1, 0),
                (128, 64, 8, 2, 0),
                (128, 64, 4, 1, 0),
                (128, 128, 8, 1, 0),
                (128, 128, 8, 2, 0),
                (64, 128, 8, 1, 0),
                (64, 128, 8, 2, 0),
                (64, 128, 4, 2, 0),
            ),
        ),
    }
)  # fmt: skip


class Inputs(NamedTuple):
    """Of sequences that are all full."""

    qkv: Tensor  # (T, 3, N, D)
    gradient: Tensor  # (T, N, D), of the output
    cu_seqlens: Tensor  # (B + 1,) int32
    max_seqlen: int
    seed: Tensor


def made_inputs(length: int, n_tokens: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Random numbers for as many sequences of that length as there is room for."""
    n_sequences = max(1, n_tokens // length)
    generator = torch.Generator(device).manual_seed(0)
    qkv, gradient = (
        torch.randn(n_sequences * length, *shape, HEAD_SIZE, generator=generator, device=device, dtype=dtype)
        for shape in ((3, HEADS), (HEADS,))
    )
    cu_seqlens = torch.arange(n_sequences + 1, dtype=torch.int32, device=device) * length
    return Inputs(qkv, gradient, cu_seqlens, length, torch.tensor([1234], device=device))


def settings_of(kernel: str, numbers: Sequence[int]) -> dict[str, int]:
    """As a kernel is launched with them."""
    named = zip(KERNELS[kernel].names, numbers, strict=True)
    return {name: number for name, number in named if number or name not in OPTIONS}


@contextmanager
def in_use(kernel: str, settings: Mapping[str, int] | None) -> Iterator[None]:
    """Launches of a kernel have these settings; None: those in the code."""
    from kernels.attention import short as short_attention

    if settings is None:
        yield
    else:
        with mock.patch.object(short_attention, KERNELS[kernel].function, return_value=settings):
            yield


def forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    from kernels.attention.short import short_attention

    return short_attention(inputs.qkv, inputs.cu_seqlens, inputs.max_seqlen, DROPOUT, inputs.seed)


def backward(inputs: Inputs, output: Tensor, log_sum_exp: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of query, key and value, and of their bias."""
    from kernels.attention.short import short_attention_backward

    rest = inputs.cu_seqlens, inputs.max_seqlen, DROPOUT, inputs.seed
    return short_attention_backward(inputs.gradient, inputs.qkv, output, log_sum_exp, *rest)


def work_of(kernel: str, inputs: Inputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """The pass that a kernel belongs to."""
    if not KERNELS[kernel].is_backward:
        return lambda: forward(inputs)
    output, log_sum_exp = forward(inputs)
    return lambda: backward(inputs, output, log_sum_exp)


def problem_of(kernel: str, settings: Mapping[str, int], inputs: Inputs) -> str | None:
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
    kernel: str, settings: Mapping[str, int] | None, work: Callable[[], Any], record: CudaRecorder | None
) -> Callable[[], Any]:
    """The pass with these settings, ready to be timed: as a CUDA graph, if there is what records one.

    What the pass reads must live as long as the graph.
    """

    def run() -> Any:
        with in_use(kernel, settings):
            return work()

    if record is None:
        return run
    run()  # compiles
    return record(run)


def shown(settings: Mapping[str, int] | None) -> str:
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


def measured(kernel: str, inputs: Inputs, args: argparse.Namespace) -> list[list[str]]:
    """The lines of one kernel at one length, the fastest first; says what cannot be used."""
    able: list[dict[str, int] | None] = [None]
    few = inputs._replace(
        qkv=inputs.qkv[: inputs.max_seqlen * 4],
        gradient=inputs.gradient[: inputs.max_seqlen * 4],
        cu_seqlens=inputs.cu_seqlens[:5],
    )
    for numbers in KERNELS[kernel].others[: args.most]:
        settings = settings_of(kernel, numbers)
        if problem := problem_of(kernel, settings, few):
            print(f"{kernel}, {inputs.max_seqlen}: {shown(settings)}: {problem}", flush=True)
        else:
            able.append(settings)
    record = CudaRecorder() if inputs.qkv.device.type == "cuda" else None
    the_pass = work_of(kernel, inputs)
    works = [launched(kernel, settings, the_pass, record) for settings in able]
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(args.repeats):
        for work, times in zip(works, seconds, strict=True):
            times.append(seconds_of(work, inputs.qkv.device))
    medians = [statistics.median(times) for times in seconds]
    return [
        [kernel, str(inputs.max_seqlen), shown(settings), f"{median * 1e3:.4g}", f"{median / medians[0]:.3f}"]
        for median, settings in sorted(zip(medians, able, strict=True), key=lambda pair: pair[0])
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check all, time all, and print one table."""
    args = parse_arguments(arguments)
    check(args)
    from kernels.attention.short import is_whole  # needs Triton

    device = torch.device(args.device)
    # Triton's interpreter multiplies no bf16.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    rows = []
    for length in args.lengths:
        inputs = made_inputs(length, args.tokens or TOKENS.get(length, 131072), device, dtype)
        for kernel in args.kernels:
            if KERNELS[kernel].is_whole == is_whole(inputs.qkv, length):
                rows += measured(kernel, inputs, args)
    print(markdown_table(("kernel", "length", "settings", "the pass, ms", "of that in use"), rows))


if __name__ == "__main__":
    run_main(main)
