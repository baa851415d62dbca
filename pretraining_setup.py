"""From a command line to everything a pre-training run is built of, or to one list of all that is wrong with it.

Files are looked at as well as flags: the configuration, the vocabulary, the shapes of the shards, the checkpoint.
Nothing is written here, and no training begins before all of it holds.
"""

import argparse
import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from configuration import BertConfig
from data.pretraining_dataset import PretrainingDataset
from file_utils import Problems
from kernels.layers import layer_norm_function
from modeling import BertForPreTraining
from tokenization import load_vocab
from training import checkpoint
from training.precision import Precision, resolve_precision
from training.pretraining_arguments import BERT_CONFIGS, value_problems
from training.resume import find_start, first_global_step
from training.throughput import window_problem


@dataclasses.dataclass
class Setup:
    """What a checked command line comes to."""

    device: torch.device
    precision: Precision
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
    """The checkpoint to go on from; None: a fresh start."""
    initial_weights: dict[str, Tensor] | None


def check(args: argparse.Namespace) -> Setup:
    """Resolve the command line. Raises UserError with all that is wrong with it, a sentence each."""
    problems = Problems()
    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    for sentence in value_problems(args, device):
        problems.add(sentence)
    with problems.collect():
        layer_norm_function(args.layer_norm)
    config = _read_config(args, problems)
    dataset, eval_dataset = _open_shards(args, config, problems)
    total_steps = _total_steps(args, dataset)
    resumed, initial_weights = _read_weights(args, config, total_steps, problems)
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
    problems.raise_if_any()
    precision = resolve_precision(args.precision, device)
    steps = (total_steps, first_step, last_step, window_start, new_phase)
    return Setup(device, precision, config, dataset, eval_dataset, *steps, resumed, initial_weights)


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
    args: argparse.Namespace, config: BertConfig | None, problems: Problems
) -> tuple[PretrainingDataset | None, PretrainingDataset | None]:
    open_shards = functools.partial(
        PretrainingDataset,
        micro_batch_size=max(1, args.train_batch_size // max(1, args.gradient_accumulation_steps)),
        max_seq_length=args.max_seq_length,
        max_predictions_per_seq=args.max_predictions_per_seq,
        vocab_size=config.vocab_size if config else None,
    )
    dataset = eval_dataset = None
    with problems.collect():
        dataset = open_shards(args.input_dir, seed=args.seed, num_workers=args.num_workers)
    if args.eval_dir:
        with problems.collect():
            eval_dataset = open_shards(args.eval_dir, split="test")
    return dataset, eval_dataset


def _read_weights(
    args: argparse.Namespace, config: BertConfig | None, total_steps: int | None, problems: Problems
) -> tuple[dict | None, dict[str, Tensor] | None]:
    """The checkpoint to go on from and the weights to start from, where they are asked for and fit the model."""
    resumed = initial_weights = None
    with problems.collect():
        if not args.check_only:  # what it is asked about may go on from a checkpoint that is yet to be written
            resumed = find_start(args, total_steps or math.inf, dataclasses.asdict(config) if config else {})
    if args.init_checkpoint:
        with problems.collect():
            initial_weights = checkpoint.load_weights(args.init_checkpoint)
            if config is not None:
                _check_weights(initial_weights, config, args.init_checkpoint)
    return resumed, initial_weights


def _check_weights(weights: dict[str, Tensor], config: BertConfig, path: str) -> None:
    with torch.device("meta"):
        model = BertForPreTraining(config)
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


def _total_steps(args: argparse.Namespace, dataset: PretrainingDataset | None) -> int | None:
    """Optimizer steps of this phase; None where nothing is trained, or where a problem leaves them unknown."""
    steps = args.max_steps
    if args.num_train_epochs is not None:
        known = dataset is not None and args.train_batch_size > 0 and 0 < args.num_train_epochs < math.inf
        steps = math.ceil(args.num_train_epochs * dataset.n_samples / args.train_batch_size) if known else None
    return steps if args.do_train and steps is not None and steps > 0 else None
