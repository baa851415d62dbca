"""From a task's parsed settings to a finished run: processes, signals, the log, the last line."""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from training.announcement import announce
from training.checkpointing.writer import CheckpointWriter
from training.config.settings import Settings
from training.determinism import deterministic
from training.distributed.stop_signal import REQUEUE_EXIT_CODE, StopSignal
from training.distributed.world import World, connected, read_world
from training.environment.allocator import use_expandable_segments
from training.loop import train
from training.metrics.logger import MetricsLogger
from training.run import TrainingRun
from training.task import Start, Task
from training.verdict import device_peaks, verdict

Prepare = Callable[[Task, World], tuple[Settings, Start, dict[str, Any] | None]]


def run_task(task: Task, prepare: Prepare) -> None:
    """Run a task. Ends with the code that asks for a restart where a signal stopped it.

    Args:
        task: with its settings as parsed.
        prepare: resolves and validates them, or raises UserError with all that is wrong; `tasks.setup.prepare`.
    """
    started = time.perf_counter()
    settings = task.settings
    flags = settings.distribution
    n_gpus = 0 if settings.runtime.no_cuda else torch.cuda.device_count()
    world = read_world(flags.local_rank, flags.use_env, n_gpus)
    device = torch.device("cuda", world.local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        use_expandable_segments()
        torch.cuda.set_device(device)
    task.settings = dataclasses.replace(settings, device=device)
    with connected(world, device, flags.startup_timeout, _description(settings)) as world:
        settings, start, resumed = prepare(task, world)
        if settings.runtime.check_only:
            if world.is_first:
                print("the flags, the configuration and the data are in order")
            return
        try:
            finished = run_prepared(task, start, resumed, world, started)
        except torch.OutOfMemoryError as error:
            saving = "--no-cuda_graphs" if settings.runtime.cuda_graphs else "--checkpoint_activations"
            raise UserError(
                f"the GPU is out of memory with micro-batches of {settings.batches.micro} sequences",
                f"take a smaller --micro_batch_size, more --gradient_accumulation_steps, {saving} "
                f"({str(error).split('. ')[0]})",
            ) from error
    if not finished:
        sys.exit(REQUEUE_EXIT_CODE)


def run_prepared(task: Task, start: Start, resumed: dict[str, Any] | None, world: World, started: float) -> bool:
    """Build, train, evaluate. Returns False where a signal ended it before."""
    settings = task.settings
    settings.precision.apply()
    summary: dict | None = {}
    with (
        deterministic(settings.runtime.deterministic),
        StopSignal(world) as stop_signal,
        _open_logger(task, world, start.first_step) as logger,
    ):
        run = TrainingRun(task, start, resumed, world, stop_signal)
        announce(run, logger)
        n_tokens = settings.batches.micro * settings.max_seq_length
        matmuls = task.matmuls(n_tokens) if settings.measurement.measure_peak else ()
        peaks = device_peaks(world, settings.device, settings.precision, matmuls, logger)
        if settings.trains:
            with CheckpointWriter(logger.message) as writer:
                summary = train(run, logger, writer)
        if summary is not None:
            if settings.trains:
                summary |= verdict(summary, task.guessing_loss, peaks, logger)
            if scores := run.evaluate():
                summary |= scores
                epoch = task.dataset.epoch(run.samples_seen) if task.dataset else 0
                logger.log((epoch, run.step), scores, console=False)
            summary |= _counts(run)
            summary["e2e_time"] = time.perf_counter() - started
            logger.log((), summary)
        saved = find_checkpoints(settings.output.output_dir)
        logger.message(f"log: {settings.output.log_file}" + (f" | checkpoint: {saved[-1][1]}" if saved else ""))
        if summary is None:
            logger.message(_how_it_was_stopped(run, stop_signal))
    return summary is not None


def _how_it_was_stopped(run: TrainingRun, stop_signal: StopSignal) -> str:
    remedy = "start again with --resume_from_checkpoint to go on"
    if run.settings.output.skip_checkpoint:
        remedy = "nothing was saved, as --skip_checkpoint says"
    signal_name = stop_signal.received or "a signal to another rank"
    return f"stopped by {signal_name} after step {run.step} of {run.start.total_steps}; {remedy}"


def _counts(run: TrainingRun) -> dict:
    """What went wrong on the way, for the last line. All ranks call it."""
    counts = {}
    if run.settings.trains:
        counts["nonfinite_losses"] = sum(count for count, _ in run.world.gather(run.training_step.nonfinite_losses()))
    if run.loss_scale is not None:
        counts["skipped_steps"] = run.loss_scale.skipped
    return counts


@contextlib.contextmanager
def _open_logger(task: Task, world: World, first_step: int) -> Iterator[MetricsLogger]:
    """The log of the first rank; others have one that writes nothing."""
    output = task.settings.output
    with contextlib.ExitStack() as stack:
        scalars = None
        if output.tensorboard_dir and world.is_first:
            from torch.utils.tensorboard import SummaryWriter  # an option that not everybody has installed

            stage_start = task.stage.first_step  # all stages on one axis
            # What an earlier run logged after the checkpoint that this one resumes is drawn by this one.
            writer = SummaryWriter(output.tensorboard_dir, purge_step=stage_start + first_step + 1)
            board = stack.enter_context(contextlib.closing(writer))

            def scalars(name: str, value: float, step: int) -> None:
                board.add_scalar(name, value, stage_start + step)

        path = output.log_file if world.is_first else None
        yield stack.enter_context(MetricsLogger(path, append=True, console=world.is_first, scalars=scalars))


def _description(settings: Settings) -> str:
    """What must be the same on all ranks."""
    shared = {name: value for name, value in settings.record.items() if name != "local_rank"}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    return f"torch {torch.__version__}, arguments {digest}"
