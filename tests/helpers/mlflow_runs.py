"""MLflow's store of files, which needs no server."""

from pathlib import Path
from typing import Any


def environment(folder: Path) -> dict[str, str]:
    """Variables with which MLflow writes below the folder and calls nobody."""
    uri = (folder / "mlflow").absolute().as_uri()
    return {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


def all_runs(mlflow: Any, experiment: str) -> list[Any]:
    """The runs of an experiment, by MLflow's own client."""
    client = mlflow.MlflowClient()
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
