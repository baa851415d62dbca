"""From a command line to everything a pre-training run is built of, or to one list of all that is wrong with it.

Files are looked at as well as flags: the configuration, the vocabulary, the shapes of the shards, the checkpoint.
Nothing is written here, and no training begins before all of it holds, on all ranks: a file may be missing on one host.
"""

import argparse
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from configuration import BertConfig
from data.layout import default_working_dir
from data.prepared import find_prepared, vocabulary_problem
from data.pretraining_dataset import PretrainingDataset
from errors import Problems, UserError
from kernels.attention import default_backend
from kernels.layers import layer_norm_function
from modeling import BertForPreTraining
from tokenization import load_vocab
from training import checkpoint
from training.batch_sizes import BatchSizes, resolve_batch_sizes
from training.distributed import World
from training.micro_batch import micro_batch_that_fits
from training.precision import Precision, precision_problem, resolve_precision
from training.pretraining_arguments import BERT_CONFIGS, precision_name, value_problems
from training.resume import find_start, first_global_step
from training.throughput import window_problem

CPU_MICRO_BATCH = 32


@dataclasses.dataclass
class Setup:
    """What a checked command line comes to."""

    device: torch.device
    precision: Precision
    batches: BatchSizes
    config: BertConfig
    dataset: PretrainingDataset
    eval_dataset: PretrainingDataset | None
    total_steps: int
    """Of this phase, which the schedule spans; 1 where nothing is trained."""
    first_step: int
    """Steps of this phase that lie behind."""
    last_step: int
    """The step of this phase after which this run ends."""
    window_start: int
    """Steps of this run before throughput is measured."""
    new_phase: bool
    """The checkpoint is phase 1's last and this is phase 2: weights and moments count, schedule and data start anew."""
    resumed: dict | None
    """The checkpoint to go on from; None: a fresh start, or the run has taken it over."""
    resumed_step: int | None
    """Its step, counted over both phases."""
    initial_weights: dict[str, Tensor] | None


def check(args: argparse.Namespace, world: World, device: torch.device) -> Setup:
    """Resolve the command line. All ranks call it.

    Raises:
        UserError: all that is wrong, a sentence each; on rank 0 what any rank found, on the others without sentences.
    """
    problems = Problems()
    for sentence in value_problems(args, device):
        problems.add(sentence)
    with problems.collect():
        layer_norm_function(args.layer_norm)
    config = _read_config(args, problems)
    batches = resolve_batch_sizes(args, world.size, functools.partial(_fitting, args, config, device), problems)
    sizes = sorted({size for size in world.gather(batches and batches.micro) if size is not None})
    problems.check(
        len(sizes) < 2,
        f"the GPUs have room for different micro-batches, of {', '.join(map(str, sizes))} sequences, and all must take "
        f"the same; give --micro_batch_size {min(sizes, default=1)}.",
    )
    dataset, eval_dataset = _open_shards(args, config, batches, world, problems)
    _check_all_see_the_same(dataset, eval_dataset, config, world, problems)
    total_steps = _total_steps(args, batches, dataset)
    resumed, initial_weights = _read_weights(args, config, total_steps, world, problems)
    new_phase = resumed is not None and args.phase2 and resumed["step"] == args.phase1_end_step
    if resumed is not None and dataset is not None and args.do_train and not new_phase:
        for sentence in _position_problems(resumed["data_position"], dataset):
            problems.add(sentence)
    total_steps = total_steps or 1
    first_step = 0 if resumed is None else resumed["step"] - first_global_step(args)
    last_step = min(total_steps, first_step + args.steps_this_run) if args.steps_this_run else total_steps
    n_steps = last_step - first_step
    window_start = min(10, n_steps // 5) if args.benchmark_start is None else args.benchmark_start
    if args.do_train and n_steps > 0 and (problem := window_problem(window_start, args.benchmark_stop, n_steps)):
        problems.add(problem)
    _raise_if_any_rank_has_problems(problems, world)
    precision = resolve_precision(precision_name(args), device)
    steps = (total_steps, first_step, last_step, window_start, new_phase)
    resumed_step = resumed and resumed["step"]
    return Setup(
        device, precision, batches, config, dataset, eval_dataset, *steps, resumed, resumed_step, initial_weights
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


def _fitting(args: argparse.Namespace, config: BertConfig | None, device: torch.device, batch_size: int) -> int | None:
    """The micro-batch for this device: see `training.micro_batch`; 32 at most on a CPU, whose caches are small."""
    if device.type == "cpu" or config is None or precision_problem(precision_name(args) or "fp32", device):
        return max(size for size in range(1, min(batch_size, CPU_MICRO_BATCH) + 1) if batch_size % size == 0)
    precision = resolve_precision(precision_name(args), device)
    dtype = precision.compute_dtype
    return micro_batch_that_fits(
        torch.cuda.get_device_properties(device).total_memory,
        batch_size,
        args.max_seq_length,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        vocab=config.vocab_size,
        n_parameters=count_parameters(config),
        bytes_per_element=dtype.itemsize,
        checkpoint_activations=args.checkpoint_activations,
        padded_attention=default_backend(device, dtype) != "flash",
    )


def _read_config(args: argparse.Namespace, problems: Problems) -> BertConfig | None:
    config = None
    with problems.collect():
        config = BertConfig.from_json_file(args.config_file or BERT_CONFIGS[args.bert_model])
        problems.check(
            args.max_seq_length <= config.max_position_embeddings,
            f"--max_seq_length {args.max_seq_length} is longer than the model's max_position_embeddings "
            f"{config.max_position_embeddings}; use shorter shards or another configuration.",
        )
        if args.vocab_file:
            n_tokens = len(load_vocab(args.vocab_file))
            problems.check(
                n_tokens == config.vocab_size,
                f"the vocabulary {args.vocab_file} has {n_tokens} entries and the model's configuration says "
                f"vocab_size {config.vocab_size}; use the vocabulary that the shards were made with and set vocab_size "
                "to its length.",
            )
    return config


def _open_shards(
    args: argparse.Namespace,
    config: BertConfig | None,
    batches: BatchSizes | None,
    world: World,
    problems: Problems,
) -> tuple[PretrainingDataset | None, PretrainingDataset | None]:
    open_shards = functools.partial(
        PretrainingDataset,
        micro_batch_size=batches.micro if batches else 1,
        max_seq_length=args.max_seq_length,
        max_predictions_per_seq=args.max_predictions_per_seq,
        vocab_size=config.vocab_size if config else None,
        rank=world.rank,
        world_size=world.size,
    )
    dataset = eval_dataset = None
    with problems.collect():
        folder = _shard_folder(args, args.input_dir or default_working_dir(), config)
        dataset = open_shards(folder, seed=args.seed, num_workers=args.num_workers)
    if args.eval_dir:
        with problems.collect():
            eval_dataset = open_shards(_shard_folder(args, args.eval_dir, config), split="test")
    return dataset, eval_dataset


def _shard_folder(args: argparse.Namespace, folder: str | os.PathLike, config: BertConfig | None) -> Path:
    found = find_prepared(Path(folder), args.max_seq_length, args.max_predictions_per_seq, args.dataset)
    problem = config and vocabulary_problem(found, args.vocab_file, config.vocab_size)
    if problem:
        raise UserError(problem)
    return found


def _check_all_see_the_same(
    dataset: PretrainingDataset | None,
    eval_dataset: PretrainingDataset | None,
    config: BertConfig | None,
    world: World,
    problems: Problems,
) -> None:
    """Machines may have other files under the same names, and ranks that see different ones wait for each other."""
    for what, value in (("training shards", dataset), ("evaluation shards", eval_dataset), ("model", config)):
        if isinstance(value, PretrainingDataset):
            value = [(file.name, int(n)) for file, n in zip(value.files, value.rows_per_file, strict=True)]
        seen = world.gather(value)
        others = [rank for rank, other in enumerate(seen) if None not in (other, seen[0]) and other != seen[0]]
        problems.check(
            not others,
            f"rank {', '.join(map(str, others))} and rank 0 see different files of the {what}; give all machines the "
            "same.",
        )


def _read_weights(
    args: argparse.Namespace, config: BertConfig | None, total_steps: int | None, world: World, problems: Problems
) -> tuple[dict | None, dict[str, Tensor] | None]:
    """The checkpoint to go on from and the weights to start from, where they are asked for and fit the model.

    Rank 0 alone chooses the checkpoint, or ranks might see different ones in a folder that changes.
    """
    resumed = initial_weights = None
    # What is only checked may go on from a checkpoint that is yet to be written.
    if world.is_first and not args.check_only:
        with problems.collect():
            resumed = find_start(args, total_steps or math.inf, dataclasses.asdict(config) if config else {})
    step = world.broadcast(resumed and resumed["step"])
    if step is not None and not world.is_first:
        with problems.collect():
            resumed = checkpoint.load_checkpoint(Path(args.output_dir) / f"ckpt_{step}.pt")
    if args.init_checkpoint and resumed is None:
        with problems.collect():
            initial_weights = checkpoint.load_weights(args.init_checkpoint)
            if config is not None:
                _check_weights(initial_weights, config, args.init_checkpoint)
    return resumed, initial_weights


def count_parameters(config: BertConfig) -> int:
    """Elements of all weights of the model that is pre-trained."""
    return sum(parameter.numel() for parameter in _model_without_memory(config).parameters())


def _model_without_memory(config: BertConfig) -> BertForPreTraining:
    with torch.device("meta"):
        return BertForPreTraining(config)


def _check_weights(weights: dict[str, Tensor], config: BertConfig, path: str) -> None:
    model = _model_without_memory(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied to a model without memory, which is the point of it
        checkpoint.load_initial_weights(model, weights, path)


def _position_problems(position: dict, dataset: PretrainingDataset) -> Iterator[str]:
    if (position["seed"], position["n_samples"]) != (dataset.seed, dataset.n_samples):
        yield (
            f"the checkpoint stands at a place among {position['n_samples']} sequences in the order of seed "
            f"{position['seed']}, and {dataset.files[0].parent} holds {dataset.n_samples} with seed {dataset.seed}; go "
            "on with the --input_dir and --seed it was made with, or start anew with --init_checkpoint."
        )


def _total_steps(
    args: argparse.Namespace, batches: BatchSizes | None, dataset: PretrainingDataset | None
) -> int | None:
    """Optimizer steps of this phase; None where nothing is trained, or where a problem leaves them unknown."""
    steps = args.max_steps
    if args.num_train_epochs is not None:
        known = dataset is not None and batches is not None and 0 < args.num_train_epochs < math.inf
        steps = math.ceil(args.num_train_epochs * dataset.n_samples / batches.overall) if known else None
    return steps if args.do_train and steps is not None and steps > 0 else None
