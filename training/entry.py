"""From a parsed command line to a finished run, for both entries: processes, signals, the log, the last line."""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from common.errors import UserError
from training.checkpointing import checkpoint
from training.checkpointing.resume import first_global_step
from training.checkpointing.writer import CheckpointWriter
from training.config.arguments import reduce_dtype
from training.determinism import deterministic
from training.distributed.stop_signal import REQUEUE_EXIT_CODE, StopSignal
from training.distributed.world import World, connected, read_world, world_problems
from training.environment.allocator import use_expandable_segments
from training.environment.description import describe_environment
from training.loop import METRICS, train
from training.metrics.logger import MetricsLogger
from training.run import TrainingRun, TrainingSetup
from training.verdict import device_peaks, verdict

Check = Callable[[argparse.Namespace, World, torch.device], TrainingSetup]
MakeRun = Callable[[argparse.Namespace, TrainingSetup, World, StopSignal], TrainingRun]


def run_entry(args: argparse.Namespace, check: Check, make_run: MakeRun) -> None:
    """Run what the command line asks for. Ends with the code that asks for a restart where a signal stopped it.

    Args:
        check: resolves the command line, or raises UserError with all that is wrong with it.
        make_run: builds what is trained and scored.
    """
    started = time.perf_counter()
    n_gpus = 0 if args.no_cuda else torch.cuda.device_count()
    if problems := world_problems(os.environ, args.local_rank, args.use_env, n_gpus):
        raise UserError(problems)
    world = read_world(os.environ, args.local_rank)
    device = torch.device("cuda", world.local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        use_expandable_segments()
        torch.cuda.set_device(device)
    with connected(world, device, args.startup_timeout, _description(args)) as world:
        setup = check(args, world, device)
        if args.check_only:
            if world.is_first:
                print("the flags, the configuration and the data are in order")
            return
        try:
            finished = run_checked(args, setup, world, make_run, started)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU is out of memory with micro-batches of {setup.batches.micro} sequences",
                "take a smaller "
                "--micro_batch_size, more --gradient_accumulation_steps, "
                f"{'--no-cuda_graphs' if args.cuda_graphs else '--checkpoint_activations'} "
                f"({str(error).split('. ')[0]})",
            ) from error
    if not finished:
        sys.exit(REQUEUE_EXIT_CODE)


def run_checked(
    args: argparse.Namespace, setup: TrainingSetup, world: World, make_run: MakeRun, started: float
) -> bool:
    """Build, train, evaluate. Returns False where a signal ended it before."""
    setup.precision.apply()
    log_file = Path(args.json_summary or Path(args.output_dir) / "dllogger.json")
    summary: dict | None = {}
    with (
        deterministic(args.deterministic),
        StopSignal(world) as stop_signal,
        _open_logger(args, world, log_file, setup.first_step) as logger,
    ):
        run = make_run(args, setup, world, stop_signal)
        _announce(run, logger)
        matmuls = run.matmuls(setup.batches.micro * args.max_seq_length) if args.measure_peak else ()
        peaks = device_peaks(world, setup.device, setup.precision, matmuls, logger)
        if args.do_train:
            with CheckpointWriter(logger.message) as writer:
                summary = train(run, logger, writer)
        if summary is not None:
            summary |= verdict(summary, run.guessing_loss, peaks, logger) if args.do_train else {}
            if scores := run.evaluate():
                summary |= scores
                epoch = setup.dataset.epoch(run.samples_seen) if setup.dataset else 0
                logger.log((epoch, run.step), scores, console=False)
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


def _announce(run: TrainingRun, logger: MetricsLogger) -> None:
    """Say what this run is, for the log and for people, before its first step."""
    args, setup = run.args, run.setup
    logger.parameters(
        {
            "arguments": vars(args),
            "model": dataclasses.asdict(setup.config),
            "precision": setup.precision.name,
            "batches": {**dataclasses.asdict(setup.batches), "global": setup.batches.overall},
            "environment": describe_environment(),
            "first_step": setup.first_step,
            "total_steps": setup.total_steps,
            "training_samples": setup.dataset.n_samples if setup.dataset else 0,
        }
    )
    for metric, unit, form in (*METRICS, *run.metrics):
        logger.metadata(metric, unit, form)
    run.announce(logger)
    if not args.do_train:
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
    _announce_start(run, logger)


def _announce_start(run: TrainingRun, logger: MetricsLogger) -> None:
    args, setup, first_step = run.args, run.setup, run.setup.first_step
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


def _counts(run: TrainingRun) -> dict:
    """What went wrong on the way, for the last line. All ranks call it."""
    counts = {}
    if run.args.do_train:
        counts["nonfinite_losses"] = sum(count for count, _ in run.world.gather(run.training_step.nonfinite_losses()))
    if run.loss_scale is not None:
        counts["skipped_steps"] = run.loss_scale.skipped
    return counts


@contextlib.contextmanager
def _open_logger(args: argparse.Namespace, world: World, log_file: Path, first_step: int) -> Iterator[MetricsLogger]:
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
