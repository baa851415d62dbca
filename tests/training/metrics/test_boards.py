"""Boards show what the log has; one that fails, hangs or is far behind costs a run nothing but what it would show."""

import json
import threading

import mlflow_runs
import pytest
from wandb_files import read_run

from training.metrics import board_thread, boards
from training.metrics.boards import BOARDS, Kind, Place
from training.metrics.logger import MetricsLogger, read_log


class Fake:
    """A board that remembers what it is told, and from a call on fails."""

    def __init__(self, _module=None, _place=None, calls=10**6, error="No space left on device"):
        self.told, self.calls, self.error = [], calls, error
        self._tell("open")

    def _tell(self, *what):
        self.told.append(what)
        self.calls -= 1
        if self.calls < 0:
            raise OSError(self.error)

    def parameters(self, values):
        self._tell("parameters", values)

    def scalars(self, step, values):
        self._tell("scalars", step, values)

    def close(self):
        self._tell("close")


def kind(open_board, module="json"):
    return Kind("Chalk", module, "chalk", module, open_board)


def log_some(tmp_path, *kinds, stage_start=0):
    """A run of three steps; the steps that its log has."""
    opened = [(each, Place("name", tmp_path)) for each in kinds]
    with MetricsLogger(tmp_path / "log.json", boards=opened, stage_start=stage_start) as logger:
        logger.parameters({"arguments": {"input_dir": "s3://key:secret@bucket/x?signature=1", "seed": 1}})
        for step in range(1, 4):
            logger.log((0, step), {"loss": 1 / step, "text": "a", "nothing": None, "worst": float("nan")})
            logger.message(f"step {step} is done")
        logger.log((), {"final_loss": 1.0})
    return [event["step"] for event in read_log(tmp_path / "log.json")]


WHOLE = ["PARAMETER", [0, 1], [0, 2], [0, 3], []]


def test_a_board_is_told_the_settings_and_the_numbers_of_all_steps_in_order(tmp_path):
    fake = Fake()
    log_some(tmp_path, kind(lambda *_: fake), stage_start=100)
    settings = {"arguments": {"input_dir": "s3://bucket/x", "seed": 1}}
    scalars = [("scalars", 100 + step, {"loss": 1 / step}) for step in range(1, 4)]
    assert fake.told == [("open",), ("parameters", settings), *scalars, ("close",)]


@pytest.mark.parametrize("calls", range(6))
def test_a_board_that_fails_is_told_of_once_and_the_log_goes_on(tmp_path, capsys, calls):
    other = Fake()
    broken = kind(lambda *_: Fake(calls=calls, error="not at https://me:secret@host/x. Try later\nTraceback"))
    assert log_some(tmp_path, broken, kind(lambda *_: other)) == WHOLE
    out = capsys.readouterr().out
    assert out.count("warning: Chalk shows no more of this run (not at https://host/x); the log goes on\n") == 1
    assert out.count("warning") == 1
    assert len(other.told) == 6


def test_a_package_that_cannot_be_imported_is_a_warning(tmp_path, capsys):
    assert log_some(tmp_path, kind(Fake, "no_such_module")) == WHOLE
    assert capsys.readouterr().out.count("warning: Chalk shows no more of this run (No module named") == 1


@pytest.fixture
def hanging():
    """A board that hangs as it is opened, until the test is over."""
    over = threading.Event()
    yield kind(lambda *_: over.wait(60))
    over.set()


def test_a_board_that_hangs_is_not_waited_for(tmp_path, capsys, monkeypatch, hanging):
    monkeypatch.setattr(board_thread, "SECONDS_TO_CLOSE", 0.01)
    assert log_some(tmp_path, hanging) == WHOLE
    assert capsys.readouterr().out.count("(it did not take everything within 0.01 s)") == 1


def test_a_board_that_is_far_behind_is_given_up(tmp_path, capsys, monkeypatch, hanging):
    monkeypatch.setattr(board_thread, "MOST_WAITING", 2)
    assert log_some(tmp_path, hanging) == WHOLE
    out = capsys.readouterr().out
    assert out.index("(it is 2 lines behind)") < out.index("step 3 is done")
    assert out.count("warning") == 1


def run_twice(tmp_path, flag):
    """Steps 1 to 3, then a resume from step 2 in the same folder, with another rate."""
    for first_step, rate in ((0, 0.5), (2, 0.25)):
        place = Place("bert", tmp_path / "out", first_step)
        with MetricsLogger(tmp_path / "log.json", boards=[(BOARDS[flag], place)]) as logger:
            logger.parameters({"arguments": {"learning_rate": rate}, "task": "pretraining"})
            for step in range(first_step + 1, first_step + 4):
                logger.log((step,), {"loss": 1 / step})


def test_mlflow_continues_its_run(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    for name, value in mlflow_runs.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    run_twice(tmp_path, "mlflow_experiment")
    assert "warning" not in capsys.readouterr().out
    (run,) = mlflow_runs.all_runs(mlflow, "bert")
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in (1, 2, 3, 3, 4, 5)]
    rates = {"arguments/learning_rate": "0.5", "arguments/learning_rate after step 2": "0.25"}
    assert run.data.params == {**rates, "task": "pretraining"}


def test_mlflow_takes_any_number_of_settings(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name, value in mlflow_runs.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with MetricsLogger(None, boards=[(BOARDS["mlflow_experiment"], Place("bert", tmp_path))]) as logger:
        logger.parameters({f"flag_{number}": number for number in range(201)})
    (run,) = mlflow_runs.all_runs(mlflow, "bert")
    assert run.data.params == {f"flag_{number}": str(number) for number in range(201)}


def test_weights_and_biases_continues_its_run(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run_twice(tmp_path, "wandb_project")
    wandb.teardown()  # as a process does when it ends; what is on its way reaches the disk
    assert "warning" not in capsys.readouterr().out
    (run_id,) = json.loads((tmp_path / "out" / "wandb_run.json").read_text(encoding="utf-8")).values()
    starts = []
    for path in (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"):
        written_id, project, history, config = read_run(path)
        assert (written_id, project) == (run_id, "bert")
        starts.append((history, config["arguments"]["learning_rate"]))
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 6)]
    assert sorted(starts, key=lambda start: -start[1]) == [(lines[:3], 0.5), (lines[2:], 0.25)]


def test_another_project_is_another_run(tmp_path):
    numbers = iter("abc")
    ids = [boards._kept_id(tmp_path / "new" / "run.json", key, lambda: next(numbers)) for key in ("x", "y", "x")]
    assert ids == ["a", "b", "a"]
