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
import warnings
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
    """Of this phase, which the schedule spans; 1 where nothing is trained."""
    first_step: int
    """Steps of this phase that lie behind."""
    last_step: int
    """The step of this phase after which this run ends."""
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
    if args.do_train and n_steps > 0:
        problem = window_problem(_window_start(args, n_steps), args.benchmark_stop, n_steps)
        problems.check(problem is None, problem)
    problems.raise_if_any()
    precision = resolve_precision(args.precision, device)
    steps = (total_steps, first_step, last_step, new_phase)
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
        self.training_step = TrainingStep(
            self.losses, self.optimizer, self.schedule, args.gradient_accumulation_steps, setup.device
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
        if not self.args.do_train:
            return
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
        self.training_step.load_state_dict(state["training_step"])
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
            "training_step": self.training_step.state_dict(),
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
    args, setup, config = run.args, run.setup, run.setup.config
    first_step, last_step = setup.first_step, setup.last_step
    flops = functools.partial(
        bert_flops, config.encoder_parameters, config.hidden_size, config.num_hidden_layers, config.vocab_size
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
            for batch in run.training_step(micro_batches):
                meter.add(len(batch.next_sentence_labels), batch.n_tokens, batch.sum_squared_lengths, batch.n_masked)
            meter.end_step()
            run.samples_seen += args.train_batch_size
            progress.update()
            ends_average = step == 1 or step % args.log_freq == 0
            saves = not args.skip_checkpoint and (step % args.num_steps_per_checkpoint == 0 or step == last_step)
            # What is saved is logged first: weights that are no longer numbers must not push good checkpoints out.
            if ends_average or saves or step in (first_step + 1, last_step):
                losses = log_step(run, logger, step, rate)
            if ends_average:
                run.training_step.clear_losses()
            if saves:
                with meter.paused():
                    run.save(step)
        return {**meter.result(), **losses}


def log_step(run: Run, logger: MetricsLogger, step: int, rate: float) -> dict:
    """Log the means of the losses since the last step that ended an average, and the step's rate and gradient.

    Raises:
        UserError: they are no longer numbers, and nothing can come of that.
    """
    average_loss, mlm_loss, nsp_loss = run.training_step.mean_losses()
    gradient_norm = float(run.optimizer.gradient_norm)
    values = {
        "average_loss": average_loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
    }
    logger.log((run.setup.dataset.epoch(run.samples_seen), step), values)
    if not (math.isfinite(average_loss) and math.isfinite(gradient_norm)):
        raise UserError(
            f"the loss is {average_loss} and the gradient norm {gradient_norm} at step {step}, and there is no way "
            "back from that; go on from an earlier checkpoint (--resume_from_checkpoint --resume_step) with a lower "
            "--learning_rate or a longer warm-up."
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
    args, setup, first_step = run.args, run.setup, run.setup.first_step
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
    if not args.do_train:
        step = first_global_step(args) + first_step
        weights = args.init_checkpoint or f"step {step} in {args.output_dir}"
        logger.message(f"evaluating the weights of {weights} on {args.eval_dir}")
        return
    logger.message(
        f"global batch {args.train_batch_size:,} = micro-batch {micro_batch:,} x {args.gradient_accumulation_steps} "
        f"accumulated x 1 process | learning rate {args.learning_rate:g} | warm-up "
        f"{round(args.warmup_proportion * setup.total_steps):,} of {setup.total_steps:,} steps"
    )
    if first_step >= setup.total_steps:
        logger.message(f"nothing is left to train: step {first_step} of {setup.total_steps} is done")
    elif setup.new_phase:
        logger.message(f"phase 2 starts from phase 1's step {args.phase1_end_step}")
    elif first_step:
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
    setup.resumed = setup.initial_weights = None  # the run holds their tensors, and BERT-large's take gigabytes
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
