#!/usr/bin/env python3
"""Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

This file loops; pretraining_setup.py checks the command line before any work, and pretraining_run.py builds what is
trained. A run is one process on one GPU or on the CPU, or one process per GPU, started by torchrun.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from errors import UserError, run_main
from pretraining_run import Run
from pretraining_setup import check
from training import checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.distributed import World, connected, read_world, world_problems
from training.environment import describe_environment
from training.evaluation import evaluate_pretraining
from training.metrics import MetricsLogger
from training.pretraining_arguments import parse_arguments, reduce_dtype
from training.resume import first_global_step
from training.step import Outcome
from training.stop_signal import REQUEUE_EXIT_CODE, StopSignal
from training.throughput import ThroughputMeter, bert_flops

# Name, unit and printed form of what is logged.
METRICS = (
    ("average_loss", None, ":.4f"),
    ("mlm_loss", None, ":.4f"),
    ("nsp_loss", None, ":.4f"),
    ("learning_rate", None, ":.3e"),
    ("gradient_norm", None, ":.3f"),
    ("loss_scale", None, ":,g"),
    ("skipped_steps", None, ":,"),
    ("nonfinite_losses", None, ":,"),
    ("seconds", "s", ":.1f"),
    ("step_seconds", "s", ":.4f"),
    ("sequences_per_second", None, ":,.1f"),
    ("tokens_per_second", None, ":,.0f"),
    ("sequences_per_second_per_gpu", None, ":,.1f"),
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


def train(run: Run, logger: MetricsLogger, writer: CheckpointWriter) -> dict | None:
    """The loop: from where the run stands to its last step.

    Returns:
        the throughput and the last losses; None where a signal ended it before.
    """
    args, setup, config = run.args, run.setup, run.setup.config
    first_step, last_step = run.step, setup.last_step
    flops = functools.partial(
        bert_flops, config.encoder_parameters, config.hidden_size, config.num_hidden_layers, config.vocab_size
    )
    run.model.train()
    losses: dict = {}
    saved_step = first_step
    rate = 0.0  # of the last step taken
    with setup.dataset.iterate(run.samples_seen) as micro_batches, progress_bar(run, last_step) as progress:
        meter = ThroughputMeter(setup.window_start, args.benchmark_stop, flops, setup.device)
        while run.step < last_step:
            next_rate = run.schedule.learning_rate
            result = run.training_step(micro_batches)
            if result.outcome is Outcome.INTERRUPTED:
                if not args.skip_checkpoint and saved_step < run.step:
                    if run.training_step.has_losses:
                        log_step(run, logger, rate)
                    run.save(writer)
                return None
            run.samples_seen += setup.batches.overall
            if result.outcome is Outcome.SKIPPED:
                meter.discard_step()
                log_skipped_step(run, logger)
                continue
            rate = next_rate
            for batch in result.micro_batches:
                meter.add(len(batch.next_sentence_labels), batch.n_tokens, batch.sum_squared_lengths, batch.n_masked)
            meter.end_step()
            progress.update()
            step = run.step
            ends_average = step == 1 or step % args.log_freq == 0
            evaluates = args.num_steps_per_evaluation and step % args.num_steps_per_evaluation == 0 and step < last_step
            # Before an evaluation too: it may take longer than whoever sends a signal waits.
            is_due = step % args.num_steps_per_checkpoint == 0 or step == last_step or evaluates
            saves = is_due and not args.skip_checkpoint
            # What is saved is logged first: weights that are no longer numbers must not push good checkpoints out.
            if ends_average or saves or step in (first_step + 1, last_step):
                losses = log_step(run, logger, rate)
            if ends_average:
                run.training_step.clear_losses()
            if saves:
                with meter.paused():
                    run.save(writer)
                saved_step = step
            if evaluates:
                with meter.paused():
                    logger.log((setup.dataset.epoch(run.samples_seen), step), evaluate(run))
                run.model.train()
        return {**meter.result(run.world.gather), **losses}


def progress_bar(run: Run, last_step: int) -> tqdm:
    """A bar over the phase's steps, on the first rank only."""
    shown = run.world.is_first and not run.args.disable_progress_bar
    return tqdm(total=last_step, initial=run.step, unit="step", disable=None if shown else True)


def log_step(run: Run, logger: MetricsLogger, rate: float) -> dict:
    """Log the means of the losses since the last step that ended an average, and the step's rate and gradient.

    Raises:
        UserError: they are no longer numbers, and nothing can come of that.
    """
    average_loss, mlm_loss, nsp_loss = run.training_step.mean_losses()
    gradient_norm = float(run.training_step.gradient_norm)
    values = {
        "average_loss": average_loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
    }
    if run.loss_scale is not None:
        values["loss_scale"] = run.loss_scale.scale
    logger.log((run.setup.dataset.epoch(run.samples_seen), run.step), values)
    if not (math.isfinite(average_loss) and math.isfinite(gradient_norm)):
        raise UserError(
            f"the loss is {average_loss} and the gradient norm {gradient_norm} at step {run.step}, and there is no "
            f"way back from that{_where_losses_ended(run)}; go on from an earlier checkpoint (--resume_from_checkpoint "
            "--resume_step) with a lower --learning_rate or a longer warm-up."
        )
    return {"final_loss": average_loss, "final_mlm_loss": mlm_loss, "final_nsp_loss": nsp_loss}


def log_skipped_step(run: Run, logger: MetricsLogger) -> None:
    """Log that a step's gradient was not finite in fp16, and was not used.

    Raises:
        UserError: too many in a row, so that the scale is not what is wrong.
    """
    scale = run.loss_scale
    logger.log(
        (run.setup.dataset.epoch(run.samples_seen), run.step + 1),
        {"loss_scale": scale.scale, "skipped_steps": scale.skipped},
    )
    where = _where_losses_ended(run)
    if where:
        logger.message(f"skipped{where}")
    if scale.skipped_in_a_row >= run.args.max_skipped_steps:
        raise UserError(
            f"the gradient was not finite {scale.skipped_in_a_row} times in a row before step {run.step + 1}, down to "
            f"a loss scale of {scale.scale:g}{where}; go on from the last checkpoint with "
            "--precision bf16 or a lower --learning_rate, or raise --max_skipped_steps."
        )


def _where_losses_ended(run: Run) -> str:
    """Which rank's batch first had a loss that is no number, as the rest of a sentence. All ranks call it."""
    found = run.world.gather(run.training_step.nonfinite_losses())
    firsts = [(first, rank) for rank, (_, first) in enumerate(found) if first is not None]
    if not firsts:
        return ""
    first, rank = min(firsts)
    epoch, sample = run.setup.dataset.epoch(first), first % run.setup.dataset.n_samples
    count = sum(count for count, _ in found)
    return (
        f" (the loss of {count} micro-batches was no number, first on rank {rank}, in the {run.setup.batches.micro} "
        f"sequences from {sample} of epoch {epoch} on)"
    )


def evaluate(run: Run) -> dict:
    """Losses and accuracies on the held-out shards. All ranks call it."""
    run.model.eval()
    with run.setup.eval_dataset.evaluation_batches() as batches:
        scores = evaluate_pretraining(run.predict, batches, run.setup.device, run.world.sum_)
    return {f"eval_{name}": value for name, value in dataclasses.asdict(scores).items()}


def announce(run: Run, logger: MetricsLogger) -> None:
    """Say what this run is, for the log and for people, before its first step."""
    args, setup, first_step = run.args, run.setup, run.setup.first_step
    logger.parameters(
        {
            "arguments": vars(args),
            "model": dataclasses.asdict(setup.config),
            "precision": setup.precision.name,
            "batches": {**dataclasses.asdict(setup.batches), "global": setup.batches.overall},
            "environment": describe_environment(),
            "first_step": first_step,
            "total_steps": setup.total_steps,
            "training_samples": setup.dataset.n_samples,
        }
    )
    for metric, unit, form in METRICS:
        logger.metadata(metric, unit, form)
    parameters = sum(p.numel() for p in run.model.parameters())
    devices = f"{setup.device.type} x {run.world.size}" if run.world.size > 1 else setup.device.type
    logger.message(
        f"{devices} | {setup.precision.name} | {parameters / 1e6:.1f} M parameters | "
        f"{setup.dataset.n_samples:,} sequences in {setup.dataset.files[0].parent}"
    )
    if not args.do_train:
        step = first_global_step(args) + first_step
        weights = args.init_checkpoint if setup.resumed_step is None else f"step {step} in {args.output_dir}"
        logger.message(f"evaluating the weights of {weights} on {args.eval_dir}")
        return
    logger.message(
        f"{setup.batches} | learning rate {args.learning_rate:g} | warm-up "
        f"{round(args.warmup_proportion * setup.total_steps):,} of {setup.total_steps:,} steps"
    )
    if run.world.size == 1 and (args.shard_optimizer or reduce_dtype(args) != "fp32"):
        logger.message("one process has nobody to share with: --shard_optimizer and --reduce_dtype change nothing")
    elif reduce_dtype(args) == "fp16" and run.loss_scale is None:
        logger.message(
            "warning: gradients are averaged in fp16 without a loss scale, and those below 6e-8 become zero; "
            "--reduce_dtype bf16 keeps them"
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
        weights = f"the weights of {args.init_checkpoint}" if args.init_checkpoint else "random weights"
        logger.message(f"no checkpoint in {args.output_dir}: starting fresh, from {weights}")
    elif args.phase2 and not args.init_checkpoint:
        logger.message("phase 2 starts from random weights, as neither a checkpoint nor weights were given")


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for. Ends with the code that asks for a restart where a signal stopped it."""
    started = time.perf_counter()
    args = parse_arguments(arguments)
    n_gpus = 0 if args.no_cuda else torch.cuda.device_count()
    if problems := world_problems(os.environ, args.local_rank, args.use_env, n_gpus):
        raise UserError(problems)
    world = read_world(os.environ, args.local_rank)
    device = torch.device("cuda", world.local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        torch.cuda.set_device(device)
    with connected(world, device, args.startup_timeout, _description(args)) as world:
        finished = run_phase(args, world, device, started)
    if not finished:
        sys.exit(REQUEUE_EXIT_CODE)


def run_phase(args: argparse.Namespace, world: World, device: torch.device, started: float) -> bool:
    """Check, build, train, evaluate. Returns False where a signal ended it before."""
    setup = check(args, world, device)
    if args.check_only:
        if world.is_first:
            print("the flags, the configuration and the shards are in order")
        return True
    setup.precision.apply()
    log_file = Path(args.json_summary or Path(args.output_dir) / "dllogger.json")
    summary: dict | None = {}
    with StopSignal(world) as stop_signal, open_logger(args, world, log_file, setup.first_step) as logger:
        run = Run(args, setup, world, stop_signal)
        setup.resumed = setup.initial_weights = None  # the run holds their tensors, and BERT-large's take gigabytes
        announce(run, logger)
        if args.do_train:
            with CheckpointWriter(logger.message) as writer:
                summary = train(run, logger, writer)
        if summary is not None:
            if setup.eval_dataset is not None:
                scores = evaluate(run)
                summary |= scores
                logger.log((setup.dataset.epoch(run.samples_seen), run.step), scores, console=False)
            summary |= _counts(run)
            summary["e2e_time"] = time.perf_counter() - started
            logger.log((), summary)
        newest = checkpoint.latest_checkpoint(args.output_dir)
        logger.message(f"log: {log_file}" + (f" | checkpoint: {newest}" if newest else ""))
        if summary is None:
            remedy = "nothing was saved, as --skip_checkpoint says"
            if not args.skip_checkpoint:
                remedy = "start again with --resume_from_checkpoint to go on"
            signal_name = stop_signal.received or "a signal to another rank"
            logger.message(f"stopped by {signal_name} after step {run.step} of {setup.total_steps}; {remedy}")
    return summary is not None


def _counts(run: Run) -> dict:
    """What went wrong on the way, for the last line. All ranks call it."""
    counts = {}
    if run.args.do_train:
        counts["nonfinite_losses"] = sum(count for count, _ in run.world.gather(run.training_step.nonfinite_losses()))
    if run.loss_scale is not None:
        counts["skipped_steps"] = run.loss_scale.skipped
    return counts


@contextlib.contextmanager
def open_logger(args: argparse.Namespace, world: World, log_file: Path, first_step: int) -> Iterator[MetricsLogger]:
    """The log of the first rank; others have one that writes nothing."""
    with contextlib.ExitStack() as stack:
        scalars = None
        if args.tensorboard_dir and world.is_first:
            from torch.utils.tensorboard import SummaryWriter  # an option that not everybody has installed

            phase_start = first_global_step(args)  # both phases on one axis
            # What an earlier run logged after the checkpoint that this one goes on from is drawn by this one.
            writer = SummaryWriter(args.tensorboard_dir, purge_step=phase_start + first_step + 1)
            board = stack.enter_context(contextlib.closing(writer))

            def scalars(name: str, value: float, step: int) -> None:
                board.add_scalar(name, value, phase_start + step)

        path = log_file if world.is_first else None
        yield stack.enter_context(MetricsLogger(path, append=True, console=world.is_first, scalars=scalars))


def _description(args: argparse.Namespace) -> str:
    """What must be the same on all ranks."""
    shared = {name: value for name, value in vars(args).items() if name != "local_rank"}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    return f"torch {torch.__version__}, arguments {digest}"


if __name__ == "__main__":
    run_main(main)
