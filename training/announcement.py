"""What a run is, for the log and for people, before its first step."""

import dataclasses
from collections.abc import Iterator

from common.words import counted
from training.environment.description import describe_environment
from training.metrics.estimate import estimate
from training.metrics.logger import MetricsLogger
from training.run import TrainingRun

# Name, unit and printed form of what runs of all tasks log.
METRICS = (
    ("average_loss", None, ":.4f"),
    ("learning_rate", None, ":.3e"),
    ("gradient_norm", None, ":.3f"),
    ("loss_scale", None, ":,g"),
    ("skipped_steps", None, ":,"),
    ("nonfinite_losses", None, ":,"),
    ("seconds", "s", ":.1f"),
    ("samples_seen", None, ":,"),
    ("training_seconds", "s", ":.1f"),
    ("step_seconds", "s", ":.4f"),
    ("sequences_per_second", None, ":,.1f"),
    ("tokens_per_second", None, ":,.0f"),
    ("sequences_per_second_per_gpu", None, ":,.1f"),
    ("model_tflops_per_second", "TFLOP/s", ":.3g"),
    ("peak_memory_allocated_bytes", "B", ":,"),
    ("peak_memory_reserved_bytes", "B", ":,"),
    ("final_loss", None, ":.4f"),
    ("e2e_time", "s", ":.1f"),
    ("goodput", None, ":.1%"),
)


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
    for metric in (*METRICS, *task.metrics):
        logger.metadata(*metric)
    devices = f"{settings.device.type} x {run.world.size}" if run.world.size > 1 else settings.device.type
    fast_paths = "Triton's kernels | " if settings.runtime.kernels == "triton" else ""
    fast_paths += "CUDA graphs | " if settings.runtime.cuda_graphs else ""
    fast_paths += f"gradients averaged {run.way_to_average.value} | " if run.way_to_average else ""
    millions = sum(parameter.numel() for parameter in run.model.parameters()) / 1e6
    devices += f" | {settings.precision.name} | {fast_paths}{millions:.1f} M parameters"
    for line in (*task.announce(devices, start), *(_training_lines(run) if settings.trains else ())):
        logger.message(line)


def _training_lines(run: TrainingRun) -> Iterator[str]:
    settings, start, stage = run.settings, run.start, run.task.stage
    weights, flags = settings.checkpoints.init_checkpoint, settings.optimization
    if flags.schedule == "mlperf":
        n_warmup_steps = max(0, flags.warmup_steps + flags.start_warmup_step)
    else:
        n_warmup_steps = round(flags.warmup_proportion * start.total_steps)
    rate = f"learning rate {flags.learning_rate:g} | warm-up {n_warmup_steps:,} of {counted(start.total_steps, 'step')}"
    yield f"{settings.batches} | {rate}"
    yield str(estimate(run.task, start, run.world.size))
    if run.world.size > 1 and settings.distribution.reduced_in == "fp16" and run.loss_scale is None:
        yield "warning: averaged in fp16 without a loss scale, gradients below 6e-8 become 0; use --reduce_dtype bf16"
    if start.first_step >= start.total_steps:
        yield f"nothing is left to train: step {start.first_step} of {start.total_steps} is done"
    elif start.new_stage:
        yield f"starting from the last checkpoint of the phase before, step {stage.first_step}"
    elif start.first_step:
        yield f"going on after step {start.first_step}, {counted(run.samples_seen, 'sequence')} into the data"
    elif settings.checkpoints.resume_from_checkpoint or stage.continues:
        origin = f"the weights of {weights}" if weights else "random weights"
        yield f"no checkpoint in {settings.output.output_dir}: starting fresh, from {origin}"
