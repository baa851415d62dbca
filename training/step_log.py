"""What is logged of optimizer steps, and which of them end a run with an error."""

import math

from common.errors import UserError
from training.metrics.logger import MetricsLogger
from training.metrics.progress import Progress
from training.run import TrainingRun


def log_step(run: TrainingRun, logger: MetricsLogger, progress: Progress, rate: float) -> dict:
    """Log the means of the losses since the last average ended, and the step's rate and gradient.

    Raises UserError where they are no longer numbers, as nothing can come of that.
    """
    losses = dict(zip(run.task.loss_names, run.training_step.mean_losses(), strict=True))
    gradient_norm = float(run.training_step.gradient_norm)
    values = {"average_loss" if name == "loss" else name: value for name, value in losses.items()}
    values |= {"learning_rate": rate, "gradient_norm": gradient_norm}
    if run.loss_scale is not None:
        values["loss_scale"] = run.loss_scale.scale
    logger.log((run.task.dataset.epoch(run.samples_seen), run.step), values)
    logger.message(progress.line(run.step, losses["loss"]))
    if not (math.isfinite(losses["loss"]) and math.isfinite(gradient_norm)):
        raise UserError(
            f"the loss is {losses['loss']} and the gradient norm {gradient_norm} at step {run.step}, and there is no "
            f"way back from that{_where_losses_ended(run)}",
            "resume from an earlier checkpoint (--resume_from_checkpoint --resume_step) with a lower --learning_rate "
            "or a longer warm-up",
        )
    return {f"final_{name}": value for name, value in losses.items()}


def log_skipped_step(run: TrainingRun, logger: MetricsLogger, progress: Progress) -> None:
    """Log that a step's gradient was not finite in fp16, and was not used.

    Raises UserError where there are too many in a row, so that the scale is not what is wrong.
    """
    scale, step = run.loss_scale, run.step + 1
    values = {"loss_scale": scale.scale, "skipped_steps": scale.skipped}
    logger.log((run.task.dataset.epoch(run.samples_seen), step), values)
    logger.message(progress.skipped_line(step, scale.scale, scale.skipped))
    if scale.skipped_in_a_row >= run.settings.runtime.max_skipped_steps:
        raise UserError(
            f"the gradient was not finite {scale.skipped_in_a_row} times in a row before step {step}, down to a loss "
            f"scale of {scale.scale:g}{_where_losses_ended(run)}",
            "resume from the last checkpoint with --precision bf16 or a lower --learning_rate, or raise "
            "--max_skipped_steps",
        )


def _where_losses_ended(run: TrainingRun) -> str:
    """Which rank's batch first had a loss that is no number, as the rest of a sentence. All ranks call it."""
    found = run.world.gather(run.training_step.nonfinite_losses())
    firsts = [(first, rank) for rank, (_, first) in enumerate(found) if first is not None]
    if not firsts:
        return ""
    (first, rank), dataset, n_sequences = min(firsts), run.task.dataset, run.settings.batches.overall
    first -= first % n_sequences  # to the step's first, as samples are dealt among its micro-batches
    return (
        f" (the loss of {sum(count for count, _ in found)} micro-batches was no number, first on rank {rank}, among "
        f"the {n_sequences} sequences from {first % dataset.n_samples} of epoch {dataset.epoch(first)} on)"
    )
