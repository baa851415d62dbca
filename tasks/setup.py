"""What both entries check of a command line, and how the ranks come to one mind about it.

Files are looked at as well as flags, on all ranks: a file may be missing on one host. Nothing is written here.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import Problems, UserError
from kernels.attention.backends import backend_problem, default_backend
from kernels.launch import default_kernels, is_hopper, triton_problem
from kernels.layers import layer_norm_function
from models.config import BertConfig, Execution
from models.memory import fits, micro_batch_that_fits
from tokenization import load_vocab
from training.checkpointing import checkpoint
from training.checkpointing.resume import find_start, first_global_step
from training.config.arguments import precision_name
from training.config.batch_sizes import BatchSizes, resolve_batch_sizes
from training.config.precision import precision_problem, resolve_precision
from training.distributed.world import World
from training.metrics.throughput import window_problem
from training.run import TrainingSetup

CPU_MICRO_BATCH = 32
MOST_TOKENS_OF_GRAPHS = 16384  # of a micro-batch; with twice as many the GPU is the limit, and memory counts
FP8_MULTIPLE = 16  # elements of fp8 in the 16 bytes that products are aligned to


def check_kernels(
    args: argparse.Namespace, config: BertConfig | None, device: torch.device, problems: Problems
) -> None:
    """Note where the kernels asked for are not installed, cannot run here, or do not compute this model.

    Those that nobody asked for are chosen here, and put into `args`, where the log finds them.
    """
    choose_kernels(args, config, device)
    with problems.collect():
        layer_norm_function(args.layer_norm)
    problem = triton_problem(device) if args.kernels == "triton" else None
    problems.check(problem is None, f"--kernels triton: {problem}", "use torch")
    for sentence in _without_triton(args, device) if args.kernels == "torch" else _with_triton(args, config):
        problems.add(sentence)
    dtype = _compute_dtype(args, device)
    has_backend = args.attention != "triton" or (args.kernels == "triton" and not problem)
    if args.attention and config and has_backend and dtype:
        problems.extend([backend_problem(args.attention, device, dtype, config.head_size, args.max_seq_length)])


def choose_kernels(args: argparse.Namespace, config: BertConfig | None, device: torch.device) -> None:
    """Put into `args` the kernels that nobody named: the fastest by docs/performance-log.md that compute this model."""
    dtype = _compute_dtype(args, device)
    is_triton_faster = config is not None and dtype is not None and default_kernels(device, dtype) == "triton"
    if args.kernels is None:
        is_fused = is_triton_faster and config.hidden_act == "gelu" and args.layer_norm == "torch"
        args.kernels = "triton" if is_fused else "torch"
    if args.attention is None and args.kernels == "triton" and is_triton_faster:
        problem = backend_problem("triton", device, dtype, config.head_size, args.max_seq_length)
        args.attention = "triton" if problem is None else None


def _compute_dtype(args: argparse.Namespace, device: torch.device) -> torch.dtype | None:
    """Of the precision asked for, or of the device's own; None where the device has no such precision."""
    name = precision_name(args)
    if name and precision_problem(name, device):
        return None
    return resolve_precision(name, device).compute_dtype


def _without_triton(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    problem = triton_problem(device)
    for name, value, other in (("attention", args.attention, "sdpa"), ("precision", precision_name(args), "bf16")):
        if value in ("triton", "fp8"):
            remedy = "add --kernels triton" if problem is None else f"{problem}; use {other}"
            yield f"--{name} {value} is of the kernels written in Triton alone; {remedy}."


def _with_triton(args: argparse.Namespace, config: BertConfig | None) -> Iterator[str]:
    if args.layer_norm != "torch":
        yield f"--kernels triton has a LayerNorm of its own, and --layer_norm is {args.layer_norm}; leave one out."
    if config is None:
        return
    if config.hidden_act != "gelu":
        yield f"--kernels triton computes gelu, and the model's hidden_act is {config.hidden_act}; use torch."
    for name in ("hidden_size", "intermediate_size") if precision_name(args) == "fp8" else ():
        if getattr(config, name) % FP8_MULTIPLE:
            yield (
                f"--precision fp8 takes matrices whose sides are multiples of {FP8_MULTIPLE}, and the model's {name} "
                f"is {getattr(config, name)}; use bf16."
            )


def check_graphs(args: argparse.Namespace, world: World, device: torch.device, problems: Problems) -> None:
    """Note what CUDA graphs are asked for and cannot do."""
    if not args.cuda_graphs:
        return
    problems.check(args.do_train, "--cuda_graphs is for training, and there is no --do_train", "leave it out")
    problems.check(
        device.type == "cuda", f"--cuda_graphs needs an NVIDIA GPU, and this run is on {device.type}", "leave it out"
    )
    problems.check(
        world.size == 1,
        f"--cuda_graphs reduces no gradients over processes, and there are {world.size}",
        "leave it out",
    )
    problems.check(
        not args.checkpoint_activations,
        "--cuda_graphs and --checkpoint_activations, which saves random states that only the host can read, exclude "
        "each other",
        "leave one out",
    )


def choose_graphs(
    args: argparse.Namespace,
    config: BertConfig | None,
    n_parameters: int | None,
    batches: BatchSizes | None,
    world: World,
    device: torch.device,
) -> None:
    """Put into `args` whether to record CUDA graphs, where nobody said: as far as docs/performance-log.md has it."""
    if args.cuda_graphs is not None:
        return
    is_measured = args.kernels == "triton" and is_hopper(device)
    is_possible = args.do_train and world.size == 1 and not args.checkpoint_activations
    n_tokens = batches.micro * args.max_seq_length if batches and config else math.inf
    if not (is_measured and is_possible and n_tokens <= MOST_TOKENS_OF_GRAPHS):
        args.cuda_graphs = False
        return
    with_graphs = _memory_facts(args, config, n_parameters, device) | {"cuda_graphs": True}
    args.cuda_graphs = fits(_memory_bytes(device), n_tokens, **with_graphs)


def check_config(config: BertConfig, args: argparse.Namespace, problems: Problems) -> None:
    """Note where the flags ask for what the model cannot."""
    problems.check(
        args.max_seq_length <= config.max_position_embeddings,
        f"--max_seq_length {args.max_seq_length} is longer than the model's max_position_embeddings "
        f"{config.max_position_embeddings}",
        "use shorter shards or another configuration",
    )
    if args.vocab_file:
        n_tokens = len(load_vocab(args.vocab_file))
        problems.check(
            n_tokens == config.vocab_size,
            f"the vocabulary {args.vocab_file} has {n_tokens} entries and the model's configuration says "
            f"vocab_size {config.vocab_size}",
            "use the vocabulary that the shards were made with and set vocab_size to its length",
        )


class _NoInitialization(torch.overrides.TorchFunctionMode):
    """Weights keep what they hold: to draw numbers on the meta device, PyTorch imports its compiler, for seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def count_parameters(model_class: type[nn.Module], config: BertConfig) -> int:
    """Elements of all weights of a model, which takes no memory for them."""
    with torch.device("meta"), _NoInitialization():
        return sum(parameter.numel() for parameter in model_class(config).parameters())


def divide_batch(
    args: argparse.Namespace,
    config: BertConfig | None,
    n_parameters: int | None,
    world: World,
    device: torch.device,
    problems: Problems,
) -> BatchSizes | None:
    """Global batch to micro-batches, the same on all ranks. All ranks call it.

    Args:
        n_parameters: of the model that is trained; None where the configuration is not known.
    """
    fitting = functools.partial(_fitting, args, config, n_parameters, device)
    batches = resolve_batch_sizes(args, world.size, fitting, problems)
    sizes = sorted({size for size in world.gather(batches and batches.micro) if size is not None})
    problems.check(
        len(sizes) < 2,
        f"the GPUs have room for different micro-batches, of {', '.join(map(str, sizes))} sequences, and all must take "
        "the same",
        f"give --micro_batch_size {min(sizes, default=1)}",
    )
    return batches


def _fitting(
    args: argparse.Namespace, config: BertConfig | None, n_parameters: int | None, device: torch.device, batch_size: int
) -> int | None:
    """The micro-batch for this device: see `training.micro_batch`; 32 at most on a CPU, whose caches are small."""
    if device.type == "cpu" or config is None or precision_problem(precision_name(args) or "fp32", device):
        return max(size for size in range(1, min(batch_size, CPU_MICRO_BATCH) + 1) if batch_size % size == 0)
    facts = _memory_facts(args, config, n_parameters, device)
    return micro_batch_that_fits(_memory_bytes(device), batch_size, args.max_seq_length, **facts)


def _memory_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory


def _memory_facts(
    args: argparse.Namespace, config: BertConfig, n_parameters: int, device: torch.device
) -> dict[str, int | bool]:
    """What `models.memory.estimated_memory` asks for."""
    dtype = resolve_precision(precision_name(args), device).compute_dtype
    return {
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "layers": config.num_hidden_layers,
        "vocab": config.vocab_size,
        "n_parameters": n_parameters,
        "bytes_per_element": dtype.itemsize,
        "checkpoint_activations": args.checkpoint_activations,
        "padded_attention": (args.attention or default_backend(device, dtype)) == "sdpa",
        "cuda_graphs": bool(args.cuda_graphs),
    }


def check_all_see_the_same(what: str, value: Any, world: World, problems: Problems) -> None:
    """Note where ranks have different values: machines may have other files under the same names. All ranks call it.

    Ranks that see different ones wait for each other; one that has None complains of that by itself.
    """
    seen = world.gather(value)
    others = [rank for rank, other in enumerate(seen) if None not in (other, seen[0]) and other != seen[0]]
    problems.check(
        not others,
        f"rank {', '.join(map(str, others))} and rank 0 see different files of the {what}",
        "give all machines the same",
    )


def find_resumed(
    args: argparse.Namespace, config: BertConfig | None, total_steps: int | None, world: World, problems: Problems
) -> dict | None:
    """The checkpoint to go on from. All ranks call it.

    Rank 0 alone chooses it, or ranks might see different ones in a folder that changes.
    """
    resumed = None
    # What is only checked may go on from a checkpoint that is yet to be written.
    if world.is_first and not args.check_only:
        with problems.collect():
            resumed = find_start(args, total_steps or math.inf, dataclasses.asdict(config) if config else {})
    step = world.broadcast(resumed and resumed["step"])
    if step is not None and not world.is_first:
        with problems.collect():
            resumed = checkpoint.load_checkpoint(Path(args.output_dir) / f"ckpt_{step}.pt")
    return resumed


def position_problem(position: dict, dataset: Any, where: str, flags: str) -> str | None:
    """Why a checkpoint's place in the data is none in this dataset, a sentence; None where it is.

    Args:
        where: what the dataset was read from.
        flags: those that choose it.
    """
    if (position["seed"], position["n_samples"]) == (dataset.seed, dataset.n_samples):
        return None
    return (
        f"the checkpoint stands at a place among {position['n_samples']} sequences in the order of seed "
        f"{position['seed']}, and {where} holds {dataset.n_samples} with seed {dataset.seed}; go on with the {flags} "
        "it was made with, or start anew with --init_checkpoint."
    )


def count_steps(args: argparse.Namespace, batches: BatchSizes | None, n_samples: int | None) -> int | None:
    """Optimizer steps of this phase; None where nothing is trained, or where a problem leaves them unknown."""
    steps = args.max_steps
    if steps is None and args.num_train_epochs is not None:
        known = n_samples is not None and batches is not None and 0 < args.num_train_epochs < math.inf
        steps = math.ceil(args.num_train_epochs * n_samples / batches.overall) if known else None
    return steps if args.do_train and steps is not None and steps > 0 else None


def resolve_setup(
    args: argparse.Namespace,
    world: World,
    device: torch.device,
    problems: Problems,
    batches: BatchSizes | None,
    config: BertConfig | None,
    dataset: Any,
    total_steps: int | None,
    resumed: dict | None,
    initial_weights: Any,
) -> TrainingSetup:
    """The last of the checks, and what all of it comes to. All ranks call it.

    Raises:
        UserError: all that was and is wrong, a sentence each; on rank 0 what any rank found, on the others without
            sentences.
    """
    new_phase = resumed is not None and args.phase2 and resumed["step"] == args.phase1_end_step
    total_steps = total_steps or 1
    first_step = 0 if resumed is None else resumed["step"] - first_global_step(args)
    last_step = min(total_steps, first_step + args.steps_this_run) if args.steps_this_run else total_steps
    n_steps = last_step - first_step
    window_start = min(10, n_steps // 5) if args.benchmark_start is None else args.benchmark_start
    if args.do_train and n_steps > 0 and (problem := window_problem(window_start, args.benchmark_stop, n_steps)):
        problems.add(problem)
    _raise_if_any_rank_has_problems(problems, world)
    precision = resolve_precision(precision_name(args), device)
    return TrainingSetup(
        device=device,
        precision=precision,
        execution=Execution(
            precision.compute_dtype,
            checkpoint_activations=args.checkpoint_activations,
            compiled=args.compile,
            kernels=args.kernels,
            attention=args.attention,
            in_fp8=precision.in_fp8,
        ),
        batches=batches,
        config=config,
        dataset=dataset,
        total_steps=total_steps,
        first_step=first_step,
        last_step=last_step,
        window_start=window_start,
        new_phase=new_phase,
        resumed=resumed,
        resumed_step=resumed and resumed["step"],
        initial_weights=initial_weights,
    )


def _raise_if_any_rank_has_problems(problems: Problems, world: World) -> None:
    found = world.gather(problems.sentences)
    if not any(found):
        return
    if not world.is_first:
        raise UserError([])
    ranks_of: dict[str, list[int]] = {}
    for rank, sentences in enumerate(found):
        for sentence in dict.fromkeys(sentences):  # a folder for training and evaluation is complained of twice
            ranks_of.setdefault(sentence, []).append(rank)
    raise UserError(
        [
            sentence if len(ranks) == world.size else f"rank {', '.join(map(str, ranks))}: {sentence}"
            for sentence, ranks in ranks_of.items()
        ]
    )
