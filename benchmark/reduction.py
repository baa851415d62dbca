#!/usr/bin/env python3
r"""What averaging gradients over the ranks adds to a training step, way by way.

  torchrun --standalone --nproc_per_node 2 benchmark/reduction.py                    # tiny; on CPUs by gloo
  torchrun --standalone --nproc_per_node 2 benchmark/reduction.py --bert_model large --batch_size 256     # phase 1
  torchrun --standalone --nproc_per_node 2 benchmark/reduction.py --bert_model large --task squad --batch_size 32 \
      --max_seq_length 384 --cuda_graphs

`alone`: each rank by itself. `unsent`: gradients lie in buckets, and are not averaged. `beside`: buckets are averaged
during the backward pass, by NCCL, on a CPU by gloo; `after`: all gradients at once after it; `engines`: as `beside`, by
copy engines. Each way has a model of its own, on a GPU in bf16 or with --fp8 in fp8, with Triton's kernels and LAMB.
With --reduce_dtype bf16, GPUs also make gradients in bf16 in all ways but `alone`. Steps are taken in windows, of one
way after the other, since a card that warms up slows down. The slowest rank's step counts, and `added` compares it with
the slowest alone. `averages` is the time of a reduction alone.
"""

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch
from torch import Tensor

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_turns
from benchmark.workloads.step_variants import MODELS, Workload, our_step
from common.errors import UserError, run_main
from kernels.launch import triton_problem
from models.config import BERT_CONFIGS, BertConfig, Execution
from tasks.pretraining.synthetic import synthetic_batch
from training.config.precision import precision_problem
from training.distributed.bucket_reduction import BucketReduction
from training.distributed.copy_engines import CopyEngines, work_between
from training.distributed.data_parallel import REDUCE_DTYPES, average
from training.distributed.world import World, connected, read_world
from training.environment.allocator import use_expandable_segments
from training.metrics.measured_peak import mean_seconds

WARM_UP_STEPS = 3
WAYS = ("alone", "unsent", "beside", "after", "engines")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; raises a UserError for numbers below 1."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny", help="its shape")
    parser.add_argument("--task", choices=MODELS, default="pretraining", help="its heads")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="of averaging (default: those that work here)")
    parser.add_argument("--reduce_dtype", choices=REDUCE_DTYPES, default="fp32", help="to average gradients in")
    parser.add_argument("--bucket_mib", type=int, default=64, help="MiB in a bucket")
    parser.add_argument("--batch_size", type=int, default=4, help="sequences per rank and step")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    parser.add_argument("--fp8", action="store_true", help="run the encoder's matmuls in fp8")
    parser.add_argument("--cuda_graphs", action="store_true", help="compute gradients by CUDA graphs")
    parser.add_argument("--steps", type=int, default=10, help="steps per window")
    parser.add_argument("--windows", type=int, default=3, help="windows; the median counts")
    args = parser.parse_args(arguments)
    counts = "bucket_mib", "batch_size", "max_seq_length", "max_predictions_per_seq", "steps", "windows"
    count_problems(args, *counts).raise_if_any()
    return args


def maker_of(
    way: str, args: argparse.Namespace, world: World, device: torch.device
) -> Callable[[list[Tensor]], BucketReduction] | None:
    """What makes a way's reduction of parameters; None: there is none."""
    if way == "alone":
        return None
    options = {"average": functools.partial(average, reduce_dtype=args.reduce_dtype)}
    if way == "unsent":
        options = {"average": lambda bucket: None}
    elif way == "engines":
        engines = CopyEngines(world, device)
        options = {"average": engines.average, "allocate": engines.allocate}
    dtype = torch.bfloat16 if args.reduce_dtype == "bf16" and device.type == "cuda" else torch.float32
    options |= {"overlaps": way in ("beside", "engines"), "bucket_bytes": args.bucket_mib * 2**20, "dtype": dtype}
    return functools.partial(BucketReduction, **options)


def ways_here(args: argparse.Namespace, world: World, device: torch.device) -> Sequence[str]:
    """Those that are asked for, or that work; raises a UserError for one that does not."""
    engines_work = device.type == "cuda" and args.reduce_dtype != "fp16" and work_between(world, device)
    if engines_work:
        return args.ways or WAYS
    if args.ways and "engines" in args.ways:
        raise UserError(
            "copy engines average in fp32 and bf16, between GPUs of one host that reach each other's memory",
            "leave engines out of --ways",
        )
    return args.ways or [way for way in WAYS if way != "engines"]


def seconds_of(function: Callable[[], None], calls: int, world: World, device: torch.device) -> float:
    """Of a call, on the slowest rank; all begin together."""
    world.barrier()
    return max(world.gather(mean_seconds(function, calls, device)))


def measure(args: argparse.Namespace, world: World, device: torch.device) -> list[list[str]]:
    """A row for each way."""
    on_gpu = device.type == "cuda"
    kernels = {"kernels": "triton", "attention": "triton", "compute_dtype": torch.bfloat16} if on_gpu else {}
    execution = Execution(**kernels, in_fp8=args.fp8)
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    shape = args.batch_size, args.max_seq_length, args.max_predictions_per_seq
    batch = synthetic_batch(*shape, config.vocab_size, seed=world.rank).to(device)
    work = Workload(args.task, config, batch)
    windows, averages = {}, {}
    for way in ways_here(args, world, device):
        torch.manual_seed(0)
        make = maker_of(way, args, world, device)
        step, reduction = our_step(execution, "lamb", work, args.cuda_graphs, make)
        for _ in range(WARM_UP_STEPS):
            step()
        windows[way] = functools.partial(seconds_of, step, args.steps, world, device)
        averages[way] = seconds_of(reduction.reduce, args.steps, world, device) if reduction else 0.0
    seconds = {way: statistics.median(found) for way, found in in_turns(windows, args.windows).items()}
    alone = seconds.get("alone", math.nan)
    return [
        [way, *(f"{1e3 * number:.2f}" for number in (value, value - alone, averages[way])), f"{alone / value:.1%}"]
        for way, value in seconds.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; rank 0 prints."""
    args = parse_arguments(arguments)
    n_gpus = torch.cuda.device_count()
    world = read_world(n_gpus=n_gpus)
    if world.size == 1:
        raise UserError("one process has nobody to average with", "start with torchrun --nproc_per_node 2")
    device = torch.device("cuda", world.local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        use_expandable_segments()
        torch.cuda.set_device(device)
    needs_gpu = (args.cuda_graphs or args.fp8) and "--cuda_graphs and --fp8 need an NVIDIA GPU"
    if reason := (triton_problem(device) if n_gpus else needs_gpu):
        raise UserError(reason, "see benchmark/training_step.py for other kernels")
    if args.fp8 and (problem := precision_problem("fp8", device)):
        raise UserError(problem.problem, "leave out --fp8")
    with connected(world, device, 60, str(vars(args))) as world:
        rows = measure(args, world, device)
        if world.is_first:
            print(markdown_table(["way", "ms a step", "added", "averages", "of alone"], rows))


if __name__ == "__main__":
    run_main(main)
