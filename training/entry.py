"""From a task's parsed settings to a finished run: processes, signals, the log, the final table."""

import contextlib
import dataclasses
import hashlib
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from common.output import forgiving_output
from common.words import counted
from file_utils import locked
from training.announcement import announce
from training.checkpointing.writer import CheckpointWriter
from training.determinism import deterministic
from training.distributed.stop_signal import REQUEUE_EXIT_CODE, StopSignal
from training.distributed.world import World, connected, read_world
from training.environment.allocator import use_expandable_segments
from training.evaluation import TARGET_MISSED_EXIT_CODE, Target
from training.loop import evaluate, train
from training.metrics.boards import Place, asked_for
from training.metrics.final_table import final_table
from training.metrics.logger import MetricsLogger
from training.metrics.measured_peak import measure_peak
from training.metrics.ranks import slow_ranks
from training.observer import RunObserver
from training.run import TrainingRun
from training.task import Start, Task
from training.verdict import verdict

Prepare = Callable[[Task, World, Callable[[], object]], tuple[Start, dict[str, Any] | None]]
LOCK = ".lock"  # of an output folder, held by the first rank of the run that writes there


def run_task(task: Task, prepare: Prepare) -> None:
    """Run a task, with its settings as parsed. Ends with the code that asks for a restart where a signal stopped it.

    `prepare` resolves and validates the settings, or raises UserError with every problem: `tasks.setup.prepare`. It
    calls its last argument on the first rank before it looks for a checkpoint: from then on the folder is this run's.
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
    # What must be the same on all ranks.
    shared = {name: value for name, value in settings.record.items() if name != "local_rank"}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    description = f"torch {torch.__version__}, arguments {digest}"
    folder = Path(settings.output.output_dir)
    remedy = "wait until it ends, or choose another --output_dir (--init_checkpoint takes weights from anywhere)"
    # What only reads a checkpoint, and logs elsewhere, may do so while another run writes here.
    writes = settings.trains or folder.absolute() in settings.output.log_file.absolute().parents
    lock = locked(folder / LOCK, remedy=remedy) if writes else contextlib.nullcontext()
    with (
        connected(world, device, flags.startup_timeout, description) as world,
        contextlib.ExitStack() as owned,
    ):
        start, resumed = prepare(task, world, lambda: owned.enter_context(lock))
        settings = task.settings
        if settings.runtime.check_only:
            if world.is_first:
                print("the flags, the model and the data are in order; checkpoints to resume were not read")
            return
        try:
            status = run_prepared(task, start, resumed, world, started)
        except (RuntimeError, MemoryError) as error:  # PyTorch's for a GPU is a RuntimeError, and says so by its type
            is_on_gpu = isinstance(error, torch.OutOfMemoryError)
            if not (is_on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
                raise
            saving = "--no-cuda_graphs" if settings.runtime.cuda_graphs else "--checkpoint_activations"
            where = "the GPU" if is_on_gpu else "this machine"
            raise UserError(
                f"{where} is out of memory with micro-batches of {counted(settings.batches.micro, 'sequence')}",
                f"take a smaller --micro_batch_size, more --gradient_accumulation_steps, {saving} "
                f"({str(error).split('. ')[0]})",
            ) from error
    if status:
        sys.exit(status)


def run_prepared(task: Task, start: Start, resumed: dict[str, Any] | None, world: World, started: float) -> int:
    """Build, train, evaluate. Returns the status of the process.

    It is `REQUEUE_EXIT_CODE` where a signal ended the run before, and `TARGET_MISSED_EXIT_CODE` where its last step is
    done and the score that it trains for is not reached.
    """
    settings = task.settings
    output, device, precision = settings.output, settings.device, settings.precision
    precision.apply()
    summary: dict | None = {}
    with (
        forgiving_output(),
        deterministic(settings.runtime.deterministic),
        StopSignal(world) as stop_signal,
        _open_logger(task, world, start.first_step) as logger,
        _observer(task, world, start, started, logger) as observer,
    ):
        run = TrainingRun(task, start, resumed, world, stop_signal, observer)
        announce(run, logger)
        measured: dict[str, Any] = {}
        if settings.measurement.measure_peak:
            matmuls = task.matmuls(settings.batches.micro)
            measured = measure_peak(matmuls, precision.compute_dtype, device)
            matmul, copy = measured["matrix_tflops"], measured["copy_bytes_per_second"] / 1e12
            logger.message(f"this device by itself: encoder's matmuls {matmul:.4g} TFLOP/s, a copy {copy:.3g} TB/s")
        if settings.trains:
            with CheckpointWriter(logger.message) as writer:
                summary = train(run, logger, writer)
        else:
            evaluate(run, logger, console=False)
            summary = dict(run.scores)
        if summary is not None:
            if settings.trains:
                gpus = world.gather(torch.cuda.get_device_name(device) if device.type == "cuda" else None)
                summary |= verdict(summary, task.guessing_loss, gpus, precision.name, measured, logger)
                nonfinite = world.gather(run.training_step.nonfinite_losses())
                summary["nonfinite_losses"] = sum(count for count, _ in nonfinite)
            if run.loss_scale is not None:
                summary["skipped_steps"] = run.loss_scale.skipped
            target = task.evaluations.target if settings.trains else None
            if target:
                summary["target_reached"] = run.target_reached
            hosts = world.gather(socket.gethostname())
            for sentence in slow_ranks(summary.get("ranks", ()), hosts):
                logger.message(f"warning: {sentence}")
            summary["e2e_time"] = time.perf_counter() - started
            if summary.get("measured_steps"):
                useful = (run.step - start.first_step) * summary["step_seconds"]
                summary["goodput"] = useful / summary["e2e_time"]
            logger.log((), summary)
            logger.message(_end(run))
            for line in final_table(summary, task.scores_in_words(run.scores), task.loss_names):
                logger.message(line)
        saved = find_checkpoints(output.output_dir)
        logger.message(f"log: {output.log_file}" + (f" | checkpoint: {saved[-1][1]}" if saved else ""))
        if summary is None:
            remedy = "start again with --resume_from_checkpoint to go on"
            if output.skip_checkpoint:
                remedy = "nothing was saved, as --skip_checkpoint says"
            signal_name = stop_signal.received or "a signal to another rank"
            logger.message(f"stopped by {signal_name} after step {run.step} of {start.total_steps}; {remedy}")
            return REQUEUE_EXIT_CODE
        if target:
            logger.message(_outcome(run, target))
        is_over = run.step >= start.total_steps
    return TARGET_MISSED_EXIT_CODE if target and is_over and not run.target_reached else 0


def _end(run: TrainingRun) -> str:
    """What the final table is of."""
    if not run.settings.trains:
        return f"{run.task.stage_name} | scores"
    return f"{run.task.stage_name} | ended after step {run.step:,} of {run.start.total_steps:,}"


def _outcome(run: TrainingRun, target: Target) -> str:
    """Whether a run that has ended reached its target, for people."""
    after = f"{run.samples_seen:,} sequences and {run.scores['training_seconds']:,.1f} s of training"
    if run.target_reached:
        return f"the target, {target.description}, was reached after {after}"
    what = f"the target, {target.description}, was not reached in {after}: it is {run.scores[target.score]:.5g}"
    if run.step < run.start.total_steps:
        what += "; start again with --resume_from_checkpoint to go on"
    return what


def _observer(task: Task, world: World, start: Start, started: float, logger: MetricsLogger) -> RunObserver:
    """The task's, of a training; where weights are only scored, nobody is told."""
    return task.observer(world, start, started, logger.message) if task.settings.trains else RunObserver()


def _open_logger(task: Task, world: World, first_step: int) -> MetricsLogger:
    """The log of the first rank; others have one that writes nothing."""
    output, stage_start = task.settings.output, task.stage.first_step
    if not world.is_first:
        return MetricsLogger(None, console=False)
    folder = Path(output.output_dir)
    boards = [(kind, Place(name, folder, stage_start + first_step)) for _, kind, name in asked_for(output)]
    return MetricsLogger(output.log_file, boards=boards, stage_start=stage_start)
