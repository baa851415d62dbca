"""What a run is, for the log and for people, before its first step."""

import dataclasses

from common.checkpoint_files import find_checkpoints
from training.environment.description import describe_environment
from training.loop import METRICS
from training.metrics.logger import MetricsLogger
from training.run import TrainingRun


def announce(run: TrainingRun, logger: MetricsLogger) -> None:
    """Log every setting, and tell people what matters of them."""
    task, settings, start = run.task, run.settings, run.start
    logger.parameters(
        {
            "task": task.name,
            "arguments": settings.record,
            "model": dataclasses.asdict(settings.model),
            "precision": settings.precision.name,
            "batches": {**dataclasses.asdict(settings.batches), "global": settings.batches.overall},
            "environment": describe_environment(),
            "first_step": start.first_step,
            "total_steps": start.total_steps,
            "training_samples": task.dataset.n_samples if task.dataset else 0,
        }
    )
    for metric, unit, form in (*METRICS, *task.metrics):
        logger.metadata(metric, unit, form)
    for line in task.announce(run.devices(), start):
        logger.message(line)
    if not settings.trains:
        return
    flags = settings.optimization
    logger.message(
        f"{settings.batches} | learning rate {flags.learning_rate:g} | warm-up "
        f"{round(flags.warmup_proportion * start.total_steps):,} of {start.total_steps:,} steps"
    )
    reduced_in = settings.distribution.reduced_in
    if run.world.size == 1 and (settings.distribution.shard_optimizer or reduced_in != "fp32"):
        logger.message("one process has nobody to share with: --shard_optimizer and --reduce_dtype change nothing")
    elif reduced_in == "fp16" and run.loss_scale is None:
        logger.message(
            "warning: gradients are averaged in fp16 without a loss scale, and those below 6e-8 become zero; "
            "--reduce_dtype bf16 keeps them"
        )
    _announce_start(run, logger)


def _announce_start(run: TrainingRun, logger: MetricsLogger) -> None:
    settings, start, stage = run.settings, run.start, run.task.stage
    output_dir, flags = settings.output.output_dir, settings.checkpoints
    if start.first_step >= start.total_steps:
        logger.message(f"nothing is left to train: step {start.first_step} of {start.total_steps} is done")
    elif start.new_stage:
        logger.message(f"{stage.name} starts from {stage.name_before}'s step {stage.first_step}")
    elif start.first_step:
        logger.message(f"going on after step {start.first_step}, {run.samples_seen:,} sequences into the data")
        newest, path = find_checkpoints(output_dir)[-1]
        if newest > stage.first_step + start.first_step:
            logger.message(
                f"{path} is newer and stays until it is overwritten; a restart without --resume_step takes it"
            )
    elif flags.resume_from_checkpoint:
        weights = f"the weights of {flags.init_checkpoint}" if flags.init_checkpoint else "random weights"
        logger.message(f"no checkpoint in {output_dir}: starting fresh, from {weights}")
    elif stage.continues and not flags.init_checkpoint:
        logger.message(f"{stage.name} starts from random weights, as neither a checkpoint nor weights were given")
