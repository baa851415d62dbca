#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

This file builds and loops; each thing it builds has a file of its own, and pretraining_setup.py checks the command line
before any work. A run is one process on one GPU, or on the CPU.
"""

import argparse
import dataclasses
import functools
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.flat_batch import PretrainingBatch
from file_utils import UserError, run_main
from modeling import BertForPreTraining, compile_regions
from optimization import WarmupSchedule, build_optimizer, parameter_groups
from pretraining_setup import Setup, check
from training import checkpoint
from training.environment import describe_environment
from training.evaluation import evaluate_pretraining
from training.metrics import MetricsLogger
from training.pretraining_arguments import parse_arguments
from training.resume import first_global_step
from training.step import TrainingStep
from training.throughput import ThroughputMeter, bert_flops

# Name, unit and printed form of what is logged.
METRICS = (
    ("average_loss", None, ":.4f"),
    ("mlm_loss", None, ":.4f"),
    ("nsp_loss", None, ":.4f"),
    ("learning_rate", None, ":.3e"),
    ("gradient_norm", None, ":.3f"),
    ("seconds", "s", ":.1f"),
    ("step_seconds", "s", ":.4f"),
    ("sequences_per_second", None, ":,.1f"),
    ("tokens_per_second", None, ":,.0f"),
    ("model_tflops_per_second", "TFLOP/s", ":.3g"),
    ("peak_memory_allocated_bytes", "B", ":,"),
    ("peak_memory_reserved_bytes", "B", ":,"),
    ("final_loss", None, ":.4f"),
    ("final_mlm_loss", None, ":.4f"),
    ("final_nsp_loss", None, ":.4f"),
    ("eval_mlm_loss", None, ":.4f"),
    ("eval_mlm_accuracy", None, ":.2%"),
    ("eval_nsp_loss", None, ":.4f"),
    ("eval_nsp_accuracy", None, ":.2%"),
    ("e2e_time", "s", ":.1f"),
)


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
        meter = ThroughputMeter(setup.window_start, args.benchmark_stop, flops, setup.device)
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
    for metric, unit, form in METRICS:
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
        newest, path = checkpoint.find_checkpoints(args.output_dir)[-1]
        if newest > first_global_step(args) + first_step:
            logger.message(
                f"{path} is newer and stays until it is overwritten; a restart without --resume_step takes it"
            )
    elif args.resume_from_checkpoint:
        logger.message(f"no checkpoint in {args.output_dir}: starting fresh")
    elif args.phase2 and not args.init_checkpoint:
        logger.message("phase 2 starts from random weights, as neither a checkpoint nor weights were given")


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    started = time.perf_counter()
    args = parse_arguments(arguments)
    setup = check(args)
    if args.check_only:
        print("the flags, the configuration and the shards are in order")
        return
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
