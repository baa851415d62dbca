"""What the log of a run that trained to an accuracy says of its time, and whether such runs can be compared.

The clock is `training_seconds`, which the training loop writes down with each evaluation and keeps in checkpoints. What
compiles is taken off it: the evaluation before the first step, and that step. Steps after a checkpoint that a later
start resumed count as they were made the second time.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.tables import MISSING, number, text
from common.errors import Problem, UserError
from training.config.settings import Optimization
from training.metrics.logger import read_log

# What runs must have in common, or the seconds would not be to the same quality: besides these, all that concerns the
# optimizer and its schedule, but for how a batch is divided.
SHARED_FLAGS = (
    "max_steps",
    "max_seq_length",
    "max_predictions_per_seq",
    "masking",
    "num_steps_per_evaluation",
    "num_samples_per_evaluation",
    "target_mlm_accuracy",
    "log_freq",
    "skip_checkpoint",
)
DIVISION = ("train_batch_size", "global_batch_size", "gradient_accumulation_steps", "micro_batch_size", "seed")
# What makes a variant.
OWN_FLAGS = ("implementation", "precision", "fp8_weight_gradients", "kernels", "attention", "compile", "cuda_graphs")
NOT_REACHED = "not reached"


@dataclasses.dataclass
class TimedRun:
    """A run that has ended."""

    log: str
    settings: Mapping[str, Any]
    """The PARAMETER line of its last start."""
    first_seconds: float
    """Of its clock, when the first step was done."""
    evaluations: Mapping[int, Mapping[str, Any]]
    """What each logged, by step, from 1 on."""
    rate: float | None
    """Sequences per second of training alone, of the last start that measured it."""
    n_starts: int

    @property
    def variant(self) -> str:
        """The folder that holds its folder."""
        return Path(self.log).absolute().parent.parent.name

    @property
    def seed(self) -> int:
        return self.flags["seed"]

    @property
    def flags(self) -> Mapping[str, Any]:
        return self.settings["arguments"]

    @property
    def target(self) -> float | None:
        return self.flags.get("target_mlm_accuracy")

    @property
    def final_accuracy(self) -> float:
        return number(self.evaluations[max(self.evaluations)]["eval_mlm_accuracy"])

    @property
    def conditions(self) -> str:
        """A sentence on what the clock counted."""
        last = self.evaluations[max(self.evaluations)]
        flags, n_held_out = self.flags, last["eval_n_sequences"]
        every = (
            f"every {flags['num_steps_per_evaluation']:,} steps" if flags["num_steps_per_evaluation"] else "at times"
        )
        saving = "" if flags["skip_checkpoint"] else " and checkpoints"
        return (
            f"Wall clock from the end of the first step to the first evaluation at or above the accuracy, evaluations "
            f"of {n_held_out:,} held-out sequences {every}{saving} included; starting up and compilation excluded."
        )

    def steps_to(self, accuracy: float) -> int | None:
        """The step of the first evaluation at or above an accuracy; None where no evaluation found it."""
        reached = (step for step, data in self.evaluations.items() if number(data["eval_mlm_accuracy"]) >= accuracy)
        return min(reached, default=None)

    def seconds_to(self, accuracy: float) -> float | None:
        """Wall clock from the end of the first step to that evaluation."""
        step = self.steps_to(accuracy)
        return None if step is None else self.evaluations[step]["training_seconds"] - self.first_seconds


def read_timed_run(log: str) -> TimedRun:
    """What a log says; raises UserError where it cannot be read, is of another kind of run, or has not ended."""
    try:
        events = [event for event in read_log(log) if event.get("type") == "LOG"]
    except OSError as error:
        raise UserError(f"the log {log} cannot be read ({error.strerror})", "give a dllogger.json") from error
    settings: Mapping[str, Any] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    before, first_seconds, rate, has_ended, n_starts = None, None, None, False, 0
    for event in events:
        step, data = event["step"], event["data"]
        if step == "PARAMETER":
            settings, has_ended, first_step = data, False, data.get("first_step") or 0
            evaluations = {step: scores for step, scores in evaluations.items() if step <= first_step}
            n_starts += 1
            if first_step == 0:
                before, first_seconds, n_starts = None, None, 1
        elif step == []:
            has_ended, rate = True, number(data.get("sequences_per_second")) or rate
        elif "training_seconds" in data and step[-1] == 0:
            before = float(event["timestamp"]) - data["training_seconds"]
        elif "training_seconds" in data:
            evaluations.setdefault(step[-1], data)  # a run that is resumed after its end scores its last step again
        elif step[-1] == 1 and before is not None:
            first_seconds = float(event["timestamp"]) - before
    if not settings.get("arguments", {}).get("eval_dir"):
        raise UserError(f"{log} is no log of pre-training with held-out shards", "give the dllogger.json of such a run")
    if first_seconds is None:
        raise UserError(
            f"{log} has no evaluation before its first step, from which time is counted", "train with --evaluate_first"
        )
    if not has_ended or not evaluations:
        raise UserError(f"{log} is of a run that has not ended", "let it end, or leave it out")
    return TimedRun(log, settings, first_seconds, dict(sorted(evaluations.items())), rate, n_starts)


def comparison_problems(runs: Sequence[TimedRun]) -> Iterator[Problem]:
    """Why times of these runs say nothing of each other."""
    seen: dict[tuple[str, int], TimedRun] = {}
    firsts: dict[str, TimedRun] = {}
    for run in runs:
        same = seen.setdefault((run.variant, run.seed), run)
        if same is not run:
            yield Problem(f"{run.log} and {same.log} are runs of {run.variant} with seed {run.seed}", "leave one out")
        first = firsts.setdefault(run.variant, run)
        yield from _differences(run, first, _own(run), _own(first), "which one variant has in common")
        yield from _differences(run, runs[0], _shared(run), _shared(runs[0]), "so their times are not to one quality")


def _differences(
    run: TimedRun, other: TimedRun, values: Mapping[str, Any], others: Mapping[str, Any], why: str
) -> Iterator[Problem]:
    for name, value in values.items():
        if value != others.get(name, value):  # a log of another version may not know a flag
            what = f"{run.log} has {name} {value} and {other.log} has {others[name]}"
            yield Problem(f"{what}, {why}", "give logs that agree in it")


def _own(run: TimedRun) -> dict[str, Any]:
    return {name: run.flags.get(name) for name in OWN_FLAGS} | {"precision": run.settings.get("precision")}


def _shared(run: TimedRun) -> dict[str, Any]:
    last = run.evaluations[max(run.evaluations)]
    of_optimizer = [field.name for field in dataclasses.fields(Optimization) if field.name not in DIVISION]
    return {
        **{name: run.flags[name] for name in (*SHARED_FLAGS, *of_optimizer) if name in run.flags},
        "global batch": (run.settings.get("batches") or {}).get("global"),
        "model": run.settings.get("model"),
        "training sequences": run.settings.get("training_samples"),
        "held-out sequences": last.get("eval_n_sequences"),
        "GPU": (run.settings.get("environment") or {}).get("gpus"),
    }


def variant_rows(runs: Sequence[TimedRun], targets: Sequence[float], baseline: str) -> list[dict[str, str]]:
    """A row for each variant, in the order of their first logs; the last of the targets decides steps and ratio."""
    variants: dict[str, list[TimedRun]] = {}
    for run in runs:
        variants.setdefault(run.variant, []).append(run)
    theirs = _mean_seconds(variants.get(baseline, []), targets[-1])
    rows = []
    for name, several in variants.items():
        ours = _mean_seconds(several, targets[-1])
        row = {"variant": name, "seeds": " ".join(str(run.seed) for run in several)}
        row |= {f"seconds to {t:.4g}": _spread(several, lambda run, t=t: run.seconds_to(t), ",.1f") for t in targets}
        row |= {
            f"steps to {targets[-1]:.4g}": _spread(several, lambda run: run.steps_to(targets[-1]), ",.0f"),
            "accuracy at the end": _spread(several, lambda run: run.final_accuracy, ".4f"),
            "sequences/s": _spread(several, lambda run: run.rate, ",.1f", MISSING),
        }
        if baseline in variants:
            row[f"times as fast as {baseline}"] = text(theirs / ours if theirs and ours else None, ".2f")
        rows.append(row)
    return rows


def run_rows(runs: Sequence[TimedRun], targets: Sequence[float]) -> list[dict[str, str]]:
    """A row for each run."""
    return [
        {"variant": run.variant, "seed": str(run.seed)}
        | {f"seconds to {target:.4g}": text(run.seconds_to(target), ",.1f") for target in targets}
        | {
            f"steps to {targets[-1]:.4g}": text(run.steps_to(targets[-1]), ",.0f"),
            "accuracy at the end": text(run.final_accuracy, ".4f"),
            "sequences/s": text(run.rate, ",.1f"),
            "starts": str(run.n_starts),
        }
        for run in runs
    ]


def _mean_seconds(runs: Sequence[TimedRun], target: float) -> float | None:
    """None where one of them did not reach the target, or there is none."""
    seconds = [run.seconds_to(target) for run in runs]
    return statistics.fmean(seconds) if seconds and None not in seconds else None


def _spread(
    runs: Sequence[TimedRun], value_of: Callable[[TimedRun], float | None], form: str, nothing: str = NOT_REACHED
) -> str:
    """Mean and standard deviation over the runs that have this value, or `nothing` where none has."""
    values = [value for run in runs if (value := value_of(run)) is not None]
    if not values:
        return nothing
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    some = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
    return f"{statistics.fmean(values):{form}}{deviation}{some}"
