"""The training loop: steps, what is logged of them, checkpoints, evaluations, the window of the throughput."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.profiler_ranges import named_range
from common.work import Work
from training.checkpointing.writer import CheckpointWriter
from training.distributed.watchdog import Watchdog
from training.metrics.gpu_telemetry import GpuTelemetry
from training.metrics.logger import MetricsLogger
from training.metrics.profiling import ProfiledSteps
from training.metrics.progress import Progress, evaluation_line
from training.metrics.ranks import probe, steps_between_probes
from training.metrics.throughput import ThroughputMeter
from training.run import TrainingRun
from training.step import Outcome
from training.step_log import log_skipped_step, log_step


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
    bar = {"desc": run.task.stage_name, "total": run.start.last_step, "initial": run.step, "unit": "step"}
    bar["disable"] = None if shows_bar else True  # None: where no terminal shows it
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
        steps = run.start.total_steps, run.start.last_step
        has_target = run.task.evaluations.target is not None
        self._progress = Progress(run.task.stage_name, *steps, has_target, run.world.size)
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
                log_skipped_step(run, self._logger, self._progress)
                continue
            self._rate = next_rate
            self._profiled.end_step()  # what it writes comes before the clock runs again
            work = sum((batch.work for batch in result.micro_batches), Work())
            self._meter.end_step(work)
            self._progress.end_step(work)
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
            self.losses = log_step(run, self._logger, self._progress, self._rate)
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
                log_step(run, self._logger, self._progress, self._rate)
            with self._watchdog.paused():
                run.save(self._writer)
        run.observer.training_ends(run.samples_seen, target_reached=False)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """What happens inside counts neither as throughput nor as a step that hangs."""
        with self._meter.paused(), self._progress.paused(), self._watchdog.paused():
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
        logger.log((epoch, run.step), scores)
        if console:
            logger.message(evaluation_line(run.step, run.task.scores_in_words(scores)))
