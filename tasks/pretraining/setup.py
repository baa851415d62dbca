"""From the command line of pre-training to everything a run is built of, or to one list of all that is wrong with it.

Nothing is written here, and no training begins before all of it holds, on all ranks.
"""

import argparse
import dataclasses
import functools
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from common.errors import Problems, UserError
from data.artifacts.layout import default_working_dir
from data.loading.prepared import find_prepared, vocabulary_problem
from data.loading.pretraining_dataset import PretrainingDataset
from data.loading.synthetic import synthetic_problem
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from tasks.pretraining.arguments import value_problems
from tasks.pretraining.synthetic import SyntheticPretraining
from tasks.setup import (
    check_all_see_the_same,
    check_config,
    check_graphs,
    check_kernels,
    choose_graphs,
    count_parameters,
    count_steps,
    divide_batch,
    find_resumed,
    position_problem,
    resolve_setup,
)
from training.checkpointing import checkpoint
from training.config.batch_sizes import BatchSizes
from training.distributed.world import World
from training.run import TrainingSetup


@dataclasses.dataclass
class PretrainingSetup(TrainingSetup):
    """What a checked command line comes to."""

    eval_dataset: PretrainingDataset | None


def check(args: argparse.Namespace, world: World, device: torch.device) -> PretrainingSetup:
    """Resolve the command line. All ranks call it.

    Raises:
        UserError: all that is wrong, a sentence each; on rank 0 what any rank found, on the others without sentences.
    """
    problems = Problems()
    for sentence in value_problems(args, device):
        problems.add(sentence)
    config = _read_config(args, problems)
    check_kernels(args, config, device, problems)
    check_graphs(args, world, device, problems)
    n_parameters = count_parameters(BertForPreTraining, config) if config else None
    batches = divide_batch(args, config, n_parameters, world, device, problems)
    choose_graphs(args, config, n_parameters, batches, world, device)
    dataset, eval_dataset = _open_shards(args, config, batches, world, problems)
    for what, value in (("training shards", dataset), ("evaluation shards", eval_dataset)):
        rows = _files_and_rows(value) if isinstance(value, PretrainingDataset) else None
        check_all_see_the_same(what, rows, world, problems)
    check_all_see_the_same("model", config, world, problems)
    total_steps = count_steps(args, batches, dataset and dataset.n_samples)
    resumed = find_resumed(args, config, total_steps, world, problems)
    initial_weights = None
    if args.init_checkpoint and resumed is None:
        with problems.collect():
            initial_weights = checkpoint.load_weights(args.init_checkpoint)
            if config is not None:
                _check_weights(initial_weights, config, args.init_checkpoint)
    goes_on = resumed is not None and args.do_train and not (args.phase2 and resumed["step"] == args.phase1_end_step)
    if goes_on and dataset is not None:
        problem = position_problem(resumed["data_position"], dataset, dataset.source, "--input_dir and --seed")
        problems.check(problem is None, problem)
    setup = resolve_setup(
        args, world, device, problems, batches, config, dataset, total_steps, resumed, initial_weights
    )
    return PretrainingSetup(**vars(setup), eval_dataset=eval_dataset)


def _files_and_rows(dataset: PretrainingDataset) -> list[tuple[str, int]]:
    return [(file.name, int(n)) for file, n in zip(dataset.files, dataset.rows_per_file, strict=True)]


def _read_config(args: argparse.Namespace, problems: Problems) -> BertConfig | None:
    config = None
    with problems.collect():
        config = BertConfig.from_json_file(args.config_file or BERT_CONFIGS[args.bert_model])
        check_config(config, args, problems)
    return config


def _open_shards(
    args: argparse.Namespace,
    config: BertConfig | None,
    batches: BatchSizes | None,
    world: World,
    problems: Problems,
) -> tuple[PretrainingDataset | SyntheticPretraining | None, PretrainingDataset | None]:
    shape = {
        "micro_batch_size": batches.micro if batches else 1,
        "max_seq_length": args.max_seq_length,
        "max_predictions_per_seq": args.max_predictions_per_seq,
        "vocab_size": config.vocab_size if config else None,
        "rank": world.rank,
        "world_size": world.size,
    }
    open_shards = functools.partial(PretrainingDataset, **shape)
    dataset = eval_dataset = None
    if args.synthetic is not None:
        if problem := synthetic_problem(args.synthetic, args.max_seq_length):
            problems.add(problem)
        elif args.max_predictions_per_seq > args.max_seq_length:
            problems.add(
                f"--max_predictions_per_seq {args.max_predictions_per_seq} is more than --max_seq_length "
                f"{args.max_seq_length} has tokens",
                "give fewer",
            )
        elif config is not None:
            dataset = SyntheticPretraining(args.synthetic, **shape, seed=args.seed)
        return dataset, eval_dataset
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


def _check_weights(weights: dict[str, Tensor], config: BertConfig, path: str) -> None:
    with torch.device("meta"):
        model = BertForPreTraining(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied to a model without memory, which is the point of it
        checkpoint.load_initial_weights(model, weights, path)
