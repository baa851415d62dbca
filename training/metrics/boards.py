"""What draws a run beside its log: TensorBoard, Weights & Biases, MLflow. A row of `BOARDS` is a flag that names one.

Each is used through `board_thread.py`, and may fail and take its time. Its package is imported only where its flag is
given.
"""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from common.addresses import shown
from file_utils import atomic_write

SECONDS_TO_OPEN = 15  # that wandb may look for its server; a process that ends meanwhile waits for it
SECONDS_TO_CLOSE = 20  # for what is waiting at the end of a run; a job that is stopped has little time


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is drawn."""

    name: str
    """What the flag says: a folder, a project or an experiment."""
    folder: Path
    """The run's, which keeps its id: the next start there is the same run."""
    first_step: int = 0
    """The last step, over all stages, before those that this start will take."""


class Board(Protocol):
    """One that is open. Any method may raise anything, or take its time."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Show settings and environment, in JSON's types. A later start may have others."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers of an optimizer step, counted over all stages. A step may come again."""

    def close(self) -> None:
        """Return when everything is on disk or sent."""


class TensorBoard:
    """Event files in the folder `place.name`."""

    def __init__(self, module: Any, place: Place):
        # What an earlier start logged after the checkpoint that this one resumes is drawn by this one.
        self._writer = module.SummaryWriter(place.name, purge_step=place.first_step + 1)
        self._first_step = place.first_step

    def parameters(self, values: Mapping[str, Any]) -> None:
        code = json.dumps(values, indent=2).replace("\n", "\n    ")
        self._writer.add_text("settings", f"    {code}", self._first_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `place.name`; WANDB_MODE=offline keeps it in the run's folder.

    Steps are a metric of their own: by its own count the server would refuse those that a resumed run takes again.
    """

    def __init__(self, wandb: Any, place: Place):
        run_id = _kept_id(place.folder / "wandb_run.json", place.name, lambda: secrets.token_hex(4))
        # The terminal stays the run's, and the command line, which may hold an address with a password, stays here.
        settings = wandb.Settings(
            console="off",
            silent=True,
            x_disable_meta=True,
            init_timeout=SECONDS_TO_OPEN,
            finish_timeout=SECONDS_TO_CLOSE - 5,
            finish_timeout_raises=True,
        )
        where = {"project": place.name, "dir": str(place.folder), "id": run_id, "resume": "allow"}
        self._run = wandb.init(**where, settings=settings)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(values, allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `place.name`, at MLFLOW_TRACKING_URI.

    A param of MLflow never changes. One that a later start has otherwise, as phase 2 has its sequence length, is shown
    once more, under its name and the step that it counts from.
    """

    MOST_PARAMS = 100  # that one request may have

    def __init__(self, mlflow: Any, place: Place):
        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        self._first_step = place.first_step
        key = f"{shown(mlflow.get_tracking_uri())} {place.name}"
        self._run_id = _kept_id(place.folder / "mlflow_run.json", key, lambda: self._begin(place.name))
        self._client.update_run(self._run_id, status="RUNNING")

    def _begin(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        return self._client.create_run(experiment_id).info.run_id

    def parameters(self, values: Mapping[str, Any]) -> None:
        shown_before = self._client.get_run(self._run_id).data.params
        params = []
        for name, value in _flat(values):
            if shown_before.get(name, value) != value:
                name = f"{name} after step {self._first_step}"
            if name not in shown_before:
                params.append(self._entities.Param(name, value))
        for start in range(0, len(params), self.MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + self.MOST_PARAMS])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A board that a flag can ask for."""

    title: str
    package: str
    """That must be importable."""
    installed_by: str
    """pip's name for it."""
    module: str
    """That `open` is handed."""
    open: Callable[[Any, Place], Board]
    variable: str | None = None
    """Of the environment, without which it does not know where to write."""


BOARDS = MappingProxyType(
    {
        "tensorboard_dir": Kind("TensorBoard", "tensorboard", "tensorboard", "torch.utils.tensorboard", TensorBoard),
        "wandb_project": Kind("Weights & Biases", "wandb", "wandb", "wandb", WeightsAndBiases),
        "mlflow_experiment": Kind("MLflow", "mlflow", "mlflow-skinny", "mlflow", MLflow, "MLFLOW_TRACKING_URI"),
    }
)


def asked_for(flags: Any) -> Iterator[tuple[str, Kind, str]]:
    """(flag, kind, what the flag says) of each board that flags with the names in `BOARDS` ask for."""
    for flag, kind in BOARDS.items():
        if name := getattr(flags, flag):
            yield flag, kind, name


def _kept_id(path: Path, key: str, begin: Callable[[], str]) -> str:
    """The id that the file keeps for this key; else a new one, by `begin`, which is kept."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = {}
    if key not in kept:
        kept[key] = begin()
        os.makedirs(path.parent, exist_ok=True)
        with atomic_write(path) as file:
            json.dump(kept, file, indent=2)
    return kept[key]


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of each value that is no mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", str(value)
