"""A run as a log of MLPerf Training's form, which MLCommons' checkers of results read (package mlperf-logging).

A line is `:::MLLOG ` and a JSON object. The checkers want keys in an order of theirs, each with a value and metadata,
and samples under the name of an epoch's number. A log stands for one uninterrupted run: one that was stopped ends with
the status "aborted", and so does one that was resumed.

What is logged is no result of MLPerf: MLCommons verified nothing, and takes no results of BERT any more.

Source: https://github.com/mlcommons/logging, ruleset 5.0.0.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import Problem, UserError
from training.config.settings import Settings
from training.observer import RunObserver
from training.task import Start

PREFIX = ":::MLLOG "


class MlperfLog(RunObserver):
    """Writes the log of a run that trains to a target, on its first rank.

    Args:
        path: of the log; what is there is written anew. Raises UserError where that cannot be.
        settings: resolved.
        n_gpus: over all ranks.
        n_eval_samples: held-out sequences.
        started: when the process began, on the clock of `time.perf_counter`.
        tell: how people are told that lines are lost.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        start: Start,
        n_gpus: int,
        n_eval_samples: int,
        started: float,
        tell: Callable[[str], object] = print,
    ) -> None:
        self._n_eval_samples, self._tell = n_eval_samples, tell
        self._samples: int | None = None  # of training, as long as it goes on
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UserError(f"--mllog {path} cannot be written ({error.strerror})", "choose another file") from error
        before = time.perf_counter() - started
        self._log("cache_clear", settings.task.mllog_caches_cleared, seconds_ago=before)
        self._log("init_start", kind="INTERVAL_START", seconds_ago=before)
        for key, value in (*_submission(settings, n_gpus), *_hyperparameters(settings, start.total_steps)):
            self._log(key, value)

    def __exit__(self, *exception) -> None:
        if self._samples is not None:
            self.training_ends(self._samples, target_reached=False)
        self._file.close()

    def training_starts(self) -> None:
        self._samples = 0
        self._log("init_stop", kind="INTERVAL_END")
        self._log("run_start", kind="INTERVAL_START")
        self._log("block_start", kind="INTERVAL_START", first_epoch_num=1, epoch_count=1)

    def evaluation_starts(self, samples: int) -> None:
        self._samples = samples
        self._log("eval_start", samples, "INTERVAL_START", epoch_num=samples)

    def evaluation_ends(self, samples: int, scores: Mapping[str, float]) -> None:
        self._log("eval_stop", samples, "INTERVAL_END", epoch_num=samples)
        self._log("eval_accuracy", scores["eval_mlm_accuracy"], epoch_num=samples)

    def training_ends(self, samples: int, target_reached: bool) -> None:
        self._samples = None
        self._log("block_stop", kind="INTERVAL_END", first_epoch_num=1)
        self._log("train_samples", samples)
        self._log("eval_samples", self._n_eval_samples)
        self._log("run_stop", kind="INTERVAL_END", status="success" if target_reached else "aborted")

    def _log(self, key: str, value: Any = None, kind: str = "POINT_IN_TIME", seconds_ago: float = 0.0, **metadata):
        if self._file.closed:
            return
        try:
            self._file.write(_line(key, value, kind, seconds_ago, metadata))
        except OSError as error:  # what reports does not decide
            self._file.close()
            self._tell(f"warning: {self._file.name} cannot be written ({error.strerror}); MLPerf's log ends there")


def note_resumed(path: Path) -> None:
    """Let the log of a run that is resumed say that it was interrupted, where it does not say how it ended."""
    if path.is_file() and b'"run_stop"' not in (logged := path.read_bytes()):
        torn = b"\n" * (not logged.endswith(b"\n"))
        with path.open("ab") as file:
            file.write(torn + _line("run_stop", kind="INTERVAL_END", metadata={"status": "aborted"}))


def overwrite_problem(path: Path) -> Problem | None:
    """Why a run that starts may not write this log: it is another's, which reached its target."""
    if path.is_file() and b'"status": "success"' in path.read_bytes():
        return Problem(f"--mllog {path} is the log of a run that reached its target", "choose another, or move it away")
    return None


def _line(
    key: str,
    value: Any = None,
    kind: str = "POINT_IN_TIME",
    seconds_ago: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    milliseconds = round(1000 * (time.time() - seconds_ago))
    event = {"namespace": "", "time_ms": milliseconds, "event_type": kind, "key": key, "value": value}
    return (PREFIX + json.dumps({**event, "metadata": dict(metadata or {})}) + "\n").encode()


def _submission(settings: Settings, n_gpus: int) -> Iterator[tuple[str, Any]]:
    device = settings.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    yield "submission_benchmark", "bert"
    yield "submission_org", "unverified"
    yield "submission_division", settings.task.mllog_division or "open"
    yield "submission_status", "research"
    yield "submission_platform", f"{n_gpus}x{hardware}"


def _hyperparameters(settings: Settings, n_steps: int) -> Iterator[tuple[str, Any]]:
    flags, task, batches = settings.optimization, settings.task, settings.batches
    n_warmup_steps = flags.warmup_steps
    if n_warmup_steps is None:
        n_warmup_steps = round(flags.warmup_proportion * n_steps)
    yield "seed", flags.seed
    yield "global_batch_size", batches.overall
    yield "gradient_accumulation_steps", batches.accumulation_steps
    yield "max_sequence_length", task.max_seq_length
    yield "max_predictions_per_seq", task.max_predictions_per_seq
    yield "opt_name", flags.optimizer
    yield "opt_base_learning_rate", flags.learning_rate
    yield "opt_epsilon", flags.epsilon
    yield "opt_learning_rate_training_steps", n_steps
    yield "opt_learning_rate_warmup_steps", n_warmup_steps
    yield "num_warmup_steps", n_warmup_steps
    yield "start_warmup_step", flags.start_warmup_step or 0
    if "lamb" in flags.optimizer:
        yield "opt_lamb_epsilon", flags.epsilon
        yield "opt_lamb_beta_1", flags.beta1
        yield "opt_lamb_beta_2", flags.beta2
        yield "opt_lamb_weight_decay_rate", flags.weight_decay
