#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

This file parses, builds and loops; each thing it builds has a file of its own. A run is one process on one GPU, or on
the CPU. Everything that can be wrong with its configuration is looked for before any work and reported in one list.
"""

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configuration import BertConfig
from data.flat_batch import PretrainingBatch
from data.pretraining_dataset import PretrainingDataset
from file_utils import Problems, UserError, run_main
from kernels.layers import layer_norm_function
from modeling import BertForPreTraining, compile_regions
from optimization import WarmupSchedule, build_optimizer, parameter_groups
from tokenization import load_vocab
from training import checkpoint
from training.environment import describe_environment
from training.evaluation import evaluate_pretraining
from training.metrics import MetricsLogger
from training.precision import Precision, resolve_precision
from training.pretraining_arguments import BERT_CONFIGS, parse_arguments, value_problems
from training.resume import find_start, first_global_step
from training.step import TrainingStep
from training.throughput import ThroughputMeter, bert_flops, window_problem


@dataclasses.dataclass
class Setup:
    """What a checked command line comes to."""

    device: torch.device
    precision: Precision
    config: BertConfig
    dataset: PretrainingDataset
    eval_dataset: PretrainingDataset | None
    total_steps: int
    initial_weights: dict[str, Tensor] | None
    resumed: dict | None
    """The checkpoint to go on from; None: a fresh start."""
    new_phase: bool
    """The checkpoint is phase 1's last and this is phase 2: weights and moments count, schedule and data start anew."""


def check(args: argparse.Namespace) -> Setup:
    """Resolve the command line. Raises UserError with all that is wrong with it, a sentence each."""
    problems = Problems()
    device = torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")
    for sentence in value_problems(args, device):
        problems.add(sentence)
    config = dataset = eval_dataset = initial_weights = resumed = None
    with problems.collect():
        config = BertConfig.from_json_file(args.config_file or BERT_CONFIGS[args.bert_model])
    if config is not None:
        for sentence in _fit_problems(args, config):
            problems.add(sentence)
    if args.vocab_file and config is not None:
        with problems.collect():
            _check_vocabulary(args.vocab_file, config)
    with problems.collect():
        layer_norm_function(args.layer_norm)
    micro_batch = max(1, args.train_batch_size // max(1, args.gradient_accumulation_steps))
    open_shards = functools.partial(
        PretrainingDataset,
        micro_batch_size=micro_batch,
        max_seq_length=args.max_seq_length,
        max_predictions_per_seq=args.max_predictions_per_seq,
        vocab_size=config.vocab_size if config else None,
        num_workers=args.num_workers,
    )
    with problems.collect():
        dataset = open_shards(args.input_dir, seed=args.seed)
    if args.eval_dir:
        with problems.collect():
            eval_dataset = open_shards(args.eval_dir, seed=args.seed, split="test")
    total_steps = _total_steps(args, dataset.n_samples if dataset else 0)
    with problems.collect():
        resumed = find_start(args, total_steps, dataclasses.asdict(config) if config else {})
    if args.init_checkpoint:
        with problems.collect():
            initial_weights = checkpoint.load_weights(args.init_checkpoint)
    new_phase = resumed is not None and args.phase2 and resumed["step"] == args.phase1_end_step
    if resumed is not None and dataset is not None and not new_phase:
        for sentence in _position_problems(resumed["data_position"], dataset):
            problems.add(sentence)
    problems.raise_if_any()
    first_step = _first_step(args, resumed)
    n_steps = _last_step(args, first_step, total_steps) - first_step
    if (
        args.do_train
        and n_steps
        and (problem := window_problem(_window_start(args, n_steps), args.benchmark_stop, n_steps))
    ):
        raise UserError(problem)
    new_phase = resumed is not None and args.phase2 and resumed["step"] == args.phase1_end_step
    precision = resolve_precision(args.precision, device)
    return Setup(device, precision, config, dataset, eval_dataset, total_steps, initial_weights, resumed, new_phase)


def _fit_problems(args: argparse.Namespace, config: BertConfig) -> Iterator[str]:
    if args.max_seq_length > config.max_position_embeddings:
        yield (
            f"--max_seq_length {args.max_seq_length} is longer than the model's max_position_embeddings "
            f"{config.max_position_embeddings}; use shorter shards or another configuration."
        )


def _position_problems(position: dict, dataset: PretrainingDataset) -> Iterator[str]:
    if (position["seed"], position["n_samples"]) != (dataset.seed, dataset.n_samples):
        yield (
            f"the checkpoint stands at a place among {position['n_samples']} sequences in the order of seed "
            f"{position['seed']}, and {dataset.files[0].parent} holds {dataset.n_samples} with seed {dataset.seed}; go "
            "on with the --input_dir and --seed it was made with, or start anew with --init_checkpoint."
        )


def _check_vocabulary(vocab_file: str, config: BertConfig) -> None:
    n_tokens = len(load_vocab(vocab_file))
    if n_tokens != config.vocab_size:
        raise UserError(
            f"the vocabulary {vocab_file} has {n_tokens} entries and the model's configuration says vocab_size "
            f"{config.vocab_size}; use the vocabulary that the shards were made with and set vocab_size to its length."
        )


def _total_steps(args: argparse.Namespace, n_samples: int) -> int:
    if args.num_train_epochs is None:
        return args.max_steps or 1
    return math.ceil(args.num_train_epochs * n_samples / args.train_batch_size)


def _first_step(args: argparse.Namespace, resumed: dict | None) -> int:
    """Steps of this phase that lie behind."""
    return 0 if resumed is None else resumed["step"] - first_global_step(args)


def _last_step(args: argparse.Namespace, first_step: int, total_steps: int) -> int:
    return min(total_steps, first_step + args.steps_this_run) if args.steps_this_run else total_steps


def _window_start(args: argparse.Namespace, n_steps: int) -> int:
    return min(10, n_steps // 5) if args.benchmark_start is None else args.benchmark_start


class Run:
    """Model, optimizer, schedule and position of one phase, and what they are saved as."""

    def __init__(self, args: argparse.Namespace, setup: Setup):
        self.args, self.setup = args, setup
        torch.manual_seed(args.seed)
        self.model = BertForPreTraining(setup.config, args.layer_norm)
        if setup.initial_weights is not None:
            checkpoint.load_initial_weights(self.model, setup.initial_weights, args.init_checkpoint)
        self.model.to(setup.device)
        self.model.bert.compute_dtype = setup.precision.compute_dtype
        self.model.bert.encoder.checkpoint_activations = args.checkpoint_activations
        groups = parameter_groups(self.model.named_parameters(), args.weight_decay)
        self.optimizer = build_optimizer(args.optimizer, groups, args.learning_rate, args.max_grad_norm)
        self.schedule = WarmupSchedule(
            self.optimizer, setup.total_steps, args.warmup_proportion, args.learning_rate, args.schedule
        )
        self.samples_seen = 0
        if setup.resumed is not None:
            self._restore(setup.resumed)
        if args.compile:
            compile_regions(self.model)

    def losses(self, batch: PretrainingBatch) -> tuple[Tensor, ...]:
        """Total, masked-LM and next-sentence loss of a batch on the device."""
        return self.model(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.masked_lm_labels,
            batch.next_sentence_labels,
        )

    def predict(self, batch: PretrainingBatch) -> tuple[Tensor, Tensor]:
        """Logits of a batch on the device: masked positions (M, V), pairs (B, 2)."""
        return self.model.predict(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.next_sentence_labels.shape[0],
        )

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # what this run was told counts, not what the saved one was
        if self.setup.new_phase:
            for group in self.optimizer.param_groups:
                group["step"] = 0
            self.schedule.load_state_dict({"finished_steps": 0})
            return
        self.schedule.load_state_dict(state["schedule"])
        self.samples_seen = state["data_position"]["samples_seen"]
        checkpoint.restore_random_state(state["random_state"])

    def save(self, step: int) -> Path:
        """Write the checkpoint of this phase's step."""
        phase_start = first_global_step(self.args)
        dataset = self.setup.dataset
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random_state": checkpoint.random_state(),
            "data_position": {
                "samples_seen": self.samples_seen,
                "seed": dataset.seed,
                "n_samples": dataset.n_samples,
            },
            "configuration": {"model": dataclasses.asdict(self.setup.config), "arguments": vars(self.args)},
        }
        return checkpoint.save_checkpoint(
            self.args.output_dir, phase_start + step, state, self.args.keep_checkpoints, phase_start
        )


def train(run: Run, logger: MetricsLogger) -> dict:
    """The loop: from where the run stands to its last step. Returns the throughput and the last losses."""
    args, setup = run.args, run.setup
    first_step = _first_step(args, setup.resumed)
    last_step = _last_step(args, first_step, setup.total_steps)
    config = setup.config
    flops = functools.partial(
        bert_flops, config.encoder_parameters, config.hidden_size, config.num_hidden_layers, config.vocab_size
    )
    step_function = TrainingStep(
        run.losses, run.optimizer, run.schedule, args.gradient_accumulation_steps, setup.device
    )
    run.model.train()
    losses: dict = {}
    with (
        setup.dataset.iterate(run.samples_seen) as micro_batches,
        tqdm(total=last_step, initial=first_step, unit="step", disable=args.disable_progress_bar or None) as progress,
    ):
        meter = ThroughputMeter(_window_start(args, last_step - first_step), args.benchmark_stop, flops, setup.device)
        for step in range(first_step + 1, last_step + 1):
            rate = run.schedule.learning_rate
            for batch in step_function(micro_batches):
                meter.add(len(batch.next_sentence_labels), batch.n_tokens, batch.sum_squared_lengths, batch.n_masked)
            meter.end_step()
            run.samples_seen += args.train_batch_size
            progress.update()
            if step % args.log_freq == 0 or step in (first_step + 1, last_step):
                losses = log_step(run, logger, step_function, step, rate)
            due = step % args.num_steps_per_checkpoint == 0 or step == last_step
            if due and not args.skip_checkpoint:
                with meter.paused():
                    run.save(step)
        return {**meter.result(), **losses}


def log_step(run: Run, logger: MetricsLogger, step_function: TrainingStep, step: int, rate: float) -> dict:
    """Log the losses since the last log. Raises UserError when they are no longer numbers: nothing can come of that."""
    average_loss, mlm_loss, nsp_loss = step_function.mean_losses()
    values = {
        "average_loss": average_loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "learning_rate": rate,
        "gradient_norm": run.optimizer.gradient_norm,
    }
    logger.log((run.setup.dataset.epoch(run.samples_seen), step), values)
    if not math.isfinite(average_loss):
        raise UserError(
            f"the loss is {average_loss} at step {step}, and there is no way back from that; go on from an earlier "
            "checkpoint (--resume_from_checkpoint --resume_step) with a lower --learning_rate or a longer warm-up."
        )
    return {"final_loss": average_loss, "final_mlm_loss": mlm_loss, "final_nsp_loss": nsp_loss}


def evaluate(run: Run) -> dict:
    """Losses and accuracies on the held-out shards."""
    run.model.eval()
    with run.setup.eval_dataset.evaluation_batches() as batches:
        scores = evaluate_pretraining(run.predict, batches, run.setup.device)
    return {f"eval_{name}": value for name, value in dataclasses.asdict(scores).items()}


def announce(run: Run, logger: MetricsLogger) -> None:
    """Say what this run is, for the log and for people, before its first step."""
    args, setup = run.args, run.setup
    first_step = _first_step(args, setup.resumed)
    micro_batch = args.train_batch_size // args.gradient_accumulation_steps
    logger.parameters(
        {
            "arguments": vars(args),
            "model": dataclasses.asdict(setup.config),
            "precision": setup.precision.name,
            "environment": describe_environment(),
            "first_step": first_step,
            "total_steps": setup.total_steps,
            "training_samples": setup.dataset.n_samples,
        }
    )
    for metric, unit, form in (
        ("average_loss", None, ":.4f"),
        ("mlm_loss", None, ":.4f"),
        ("nsp_loss", None, ":.4f"),
        ("learning_rate", None, ":.3e"),
        ("gradient_norm", None, ":.3f"),
    ):
        logger.metadata(metric, unit, form)
    parameters = sum(p.numel() for p in run.model.parameters())
    logger.message(
        f"{setup.device.type} | {setup.precision.name} | {parameters / 1e6:.1f} M parameters | "
        f"{setup.dataset.n_samples:,} sequences in {args.input_dir}"
    )
    logger.message(
        f"global batch {args.train_batch_size:,} = micro-batch {micro_batch:,} x {args.gradient_accumulation_steps} "
        f"accumulated x 1 process | learning rate {args.learning_rate:g} | warm-up "
        f"{round(args.warmup_proportion * setup.total_steps):,} of {setup.total_steps:,} steps"
    )
    if args.do_train and first_step >= setup.total_steps:
        logger.message(f"nothing is left to train: step {first_step} of {setup.total_steps} is done")
    elif setup.new_phase:
        logger.message(f"phase 2 starts from phase 1's step {args.phase1_end_step}")
    elif setup.resumed is not None:
        logger.message(f"going on after step {first_step}, {run.samples_seen:,} sequences into the data")
    elif args.resume_from_checkpoint:
        logger.message(f"no checkpoint in {args.output_dir}: starting fresh")


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    started = time.perf_counter()
    args = parse_arguments(arguments)
    setup = check(args)
    setup.precision.apply()
    run = Run(args, setup)
    log_file = Path(args.json_summary or Path(args.output_dir) / "dllogger.json")
    with MetricsLogger(log_file, append=True) as logger:
        announce(run, logger)
        summary: dict = {}
        if args.do_train:
            summary |= train(run, logger)
        if setup.eval_dataset is not None:
            summary |= evaluate(run)
        summary["e2e_time"] = time.perf_counter() - started
        logger.log((), summary)
        checkpoints = checkpoint.latest_checkpoint(args.output_dir)
        logger.message(f"log: {log_file}" + (f" | checkpoint: {checkpoints}" if checkpoints else ""))


if __name__ == "__main__":
    run_main(main)
