"""The training loop: steps, what is logged of them, checkpoints, evaluations, the window of the throughput."""

import contextlib
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.profiler_ranges import named_range
from common.work import Work
from training.checkpointing.writer import CheckpointWriter
from training.distributed.watchdog import Watchdog
from training.metrics.gpu_telemetry import GpuTelemetry
from training.metrics.logger import MetricsLogger
from training.metrics.profiling import ProfiledSteps
from training.metrics.ranks import probe, steps_between_probes
from training.metrics.throughput import ThroughputMeter
from training.run import TrainingRun
from training.step import Outcome


def train(run: TrainingRun, logger: MetricsLogger, writer: CheckpointWriter) -> dict | None:
    """Train from where the run stands; throughput, last losses and scores, or None where a signal ended it."""
    settings, output, device = run.settings, run.settings.output, run.settings.device
    _score_before(run, logger)
    profiled = _profiled_steps(run)
    meter = ThroughputMeter(
        run.start.window_start,
        settings.measurement.benchmark_stop,
        run.task.flops,
        device,
        times=run.step_times,
        telemetry=GpuTelemetry.of_device(device),
        left_out=profiled.steps,
    )
    shows_bar = run.world.is_first and not output.disable_progress_bar
    bar = {"total": run.start.last_step, "initial": run.step, "unit": "step", "disable": None if shows_bar else True}
    with (
        run.task.dataset.iterate(run.samples_seen, settings.batches.per_step) as micro_batches,
        tqdm(**bar) as progress,
        contextlib.closing(profiled),
        Watchdog(settings.distribution.max_step_seconds).watching() as watchdog,
    ):
        steps = _Steps(run, logger, writer, meter, profiled, watchdog)
        if not steps.take(micro_batches, progress):
            return None
        result = {**meter.result(run.world.gather), **steps.losses}
    if account := profiled.account():
        logger.message(account)
    evaluate(run, logger, console=False)
    run.observer.training_ends(run.samples_seen, run.target_reached)
    return {**result, **run.scores}


def _score_before(run: TrainingRun, logger: MetricsLogger) -> None:
    """The training begins, with the scores of what it begins from where they are due."""
    run.start_clock()
    run.observer.training_starts()
    if run.step == 0 and run.task.evaluations.before_training:
        evaluate(run, logger)
        for warning in run.task.warnings(run.scores):
            logger.message(f"warning: {warning}")
    if run.step and evaluates_after(run, run.step):
        evaluate(run, logger)  # the run that saved this step was killed before its scores, or after them
    run.model.train()


def _profiled_steps(run: TrainingRun) -> ProfiledSteps:
    flags = run.settings.measurement
    steps = range(flags.profile_start, flags.profile_start + flags.profile_steps)
    trace = Path(run.settings.output.output_dir) / "profile" / f"trace_rank{run.world.rank}.json"
    return ProfiledSteps(flags.profile, steps, trace, run.settings.device)


class _Steps:
    """The optimizer steps of a run, and what is due between them.

    Attributes:
        losses: by the names that a summary gives them, as they were logged last.
    """

    def __init__(
        self,
        run: TrainingRun,
        logger: MetricsLogger,
        writer: CheckpointWriter,
        meter: ThroughputMeter,
        profiled: ProfiledSteps,
        watchdog: Watchdog,
    ):
        self._run, self._logger, self._writer = run, logger, writer
        self._meter, self._profiled, self._watchdog = meter, profiled, watchdog
        self._first_step = self._saved_step = run.step
        self._rate = 0.0  # of the last step taken
        asked, device = run.settings.distribution.steps_between_probes, run.settings.device
        self._probes_every = steps_between_probes(asked, run.world.size, device)
        self.losses: dict[str, float] = {}

    def take(self, micro_batches: Iterator[Any], progress: tqdm) -> bool:
        """Take all steps; False where a signal ended them."""
        run = self._run
        while run.step < run.start.last_step and not run.target_reached:
            if self._probes_every and (run.step - self._first_step) % self._probes_every == 0:
                with self._paused():
                    probe_ranks(run, self._logger)
            self._profiled.begin_step()
            self._watchdog.step_begins()
            next_rate = run.schedule.learning_rate
            with named_range(f"step {run.step + 1}"):
                result = run.training_step(micro_batches)
            if result.outcome is Outcome.INTERRUPTED:
                self._keep_what_was_done()
                return False
            run.samples_seen += run.settings.batches.overall
            if result.outcome is Outcome.SKIPPED:
                log_skipped_step(run, self._logger)
                continue
            self._rate = next_rate
            self._profiled.end_step()  # what it writes comes before the clock runs again
            self._meter.end_step(sum((batch.work for batch in result.micro_batches), Work()))
            progress.update()
            self._log_save_evaluate()
        return True

    def _log_save_evaluate(self) -> None:
        """What is due after the step that was just taken."""
        run, step, output = self._run, self._run.step, self._run.settings.output
        ends_average = step == 1 or step % output.log_freq == 0
        evaluates = evaluates_after(run, step)
        # Before an evaluation too: it may take longer than whoever sends a signal waits.
        every, is_last = run.settings.checkpoints.num_steps_per_checkpoint, step == run.start.last_step
        saves = (step % every == 0 or is_last or evaluates) and not output.skip_checkpoint
        # What is saved is logged first: weights that are no longer numbers must not push good checkpoints out.
        if ends_average or saves or is_last or step == self._first_step + 1:
            self.losses = log_step(run, self._logger, self._rate)
        if ends_average:
            run.training_step.clear_losses()
        if saves:
            with self._paused():
                run.save(self._writer)
            self._saved_step = step
        if evaluates:
            with self._paused():
                evaluate(run, self._logger)
            run.model.train()

    def _keep_what_was_done(self) -> None:
        """What a signal leaves time for: the steps since the last checkpoint, logged and saved."""
        run = self._run
        if not run.settings.output.skip_checkpoint and self._saved_step < run.step:
            if run.training_step.has_losses:
                log_step(run, self._logger, self._rate)
            with self._watchdog.paused():
                run.save(self._writer)
        run.observer.training_ends(run.samples_seen, target_reached=False)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """What happens inside counts neither as throughput nor as a step that hangs."""
        with self._meter.paused(), self._watchdog.paused():
            yield


def probe_ranks(run: TrainingRun, logger: MetricsLogger) -> None:
    """Name ranks that are slow or sick. All ranks call it."""
    for sentence in probe(run.world, run.settings.device, run.settings.precision.compute_dtype, socket.gethostname()):
        logger.message(f"warning: before step {run.step + 1}: {sentence}")


def evaluates_after(run: TrainingRun, step: int) -> bool:
    """Whether a step on the way is scored; the last one always is, after training."""
    is_on_the_way = step < run.start.last_step
    return is_on_the_way and run.task.evaluations.follow(step, run.settings.batches.overall)


def evaluate(run: TrainingRun, logger: MetricsLogger, console: bool = True) -> None:
    """Score the weights as they stand and log it, where they were not scored yet.

    All ranks call it; the model is left to evaluate.
    """
    if run.scored_step == run.step:
        return  # the run ends where it reached its target
    run.observer.evaluation_starts(run.samples_seen)
    scores = run.task.evaluate(run.model, run.world)
    run.observer.evaluation_ends(run.samples_seen, scores)
    if scores and run.settings.trains:
        scores = {**scores, "samples_seen": run.samples_seen, "training_seconds": run.training_seconds}
    run.scores, run.scored_step = scores, run.step
    if scores:
        epoch = run.task.dataset.epoch(run.samples_seen) if run.task.dataset else 0
        logger.log((epoch, run.step), scores, console)


def log_step(run: TrainingRun, logger: MetricsLogger, rate: float) -> dict:
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
    if not (math.isfinite(losses["loss"]) and math.isfinite(gradient_norm)):
        raise UserError(
            f"the loss is {losses['loss']} and the gradient norm {gradient_norm} at step {run.step}, and there is no "
            f"way back from that{_where_losses_ended(run)}",
            "resume from an earlier checkpoint (--resume_from_checkpoint --resume_step) with a lower --learning_rate "
            "or a longer warm-up",
        )
    return {f"final_{name}": value for name, value in losses.items()}


def log_skipped_step(run: TrainingRun, logger: MetricsLogger) -> None:
    """Log that a step's gradient was not finite in fp16, and was not used.

    Raises UserError where there are too many in a row, so that the scale is not what is wrong.
    """
    scale, step = run.loss_scale, run.step + 1
    values = {"loss_scale": scale.scale, "skipped_steps": scale.skipped}
    logger.log((run.task.dataset.epoch(run.samples_seen), step), values)
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
