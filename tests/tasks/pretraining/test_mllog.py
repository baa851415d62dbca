"""MLPerf's log: MLCommons' checkers take it, and it tells how the run ended."""

import dataclasses
import os
import signal
import time

import pytest
import torch
from mlperf_checkers import is_compliant, lines, passes_convergence
from pretraining_runs import as_arguments, command, make_three_word_inputs

from common.errors import UserError
from run_pretraining import main
from tasks.pretraining.mllog import MlperfLog
from tasks.pretraining.mlperf_rules import SHAPE, closed_division_problems, evaluation_interval
from tasks.pretraining.task import PretrainingTask
from tasks.setup import parse_arguments
from training.config.batch_sizes import BatchSizes
from training.run import TrainingRun
from training.task import Start

REACHED_AT_ONCE = 1e-9
CLOSED = as_arguments(
    {
        "do_train": True,
        "output_dir": "out",
        "eval_dir": "eval",
        "init_checkpoint": "model.ckpt-28252",
        "max_steps": 6700,
        "schedule": "mlperf",
        "warmup_steps": 0,
        "start_warmup_step": 0,
        "learning_rate": 4.25e-4,
        "max_seq_length": 512,
        "max_predictions_per_seq": 76,
        "num_samples_per_evaluation": 150_000,
        "target_mlm_accuracy": 0.72,
        "mllog": "result_0.txt",
        "mllog_division": "closed",
        "mllog_caches_cleared": True,
    }
)


@pytest.fixture
def folder(tmp_path):
    return make_three_word_inputs(tmp_path)


def flags(folder, **changes):
    fixed = {"eval_dir": folder / "test", "num_steps_per_evaluation": 2, "mllog": folder / "out" / "result_0.txt"}
    return command(folder, **{**fixed, "target_mlm_accuracy": REACHED_AT_ONCE, **changes})


def keys(path):
    return [event["key"] for event in lines(path)]


def status(path):
    (stop,) = (event for event in lines(path) if event["key"] == "run_stop")
    return stop["metadata"]["status"]


def settings_of(*arguments):
    settings = parse_arguments(PretrainingTask, arguments)
    return dataclasses.replace(settings, device=torch.device("cpu"), batches=BatchSizes(1, 112, 4))


def write_log(path, accuracies, **changes):
    """A log of a run at batch 448 that found these accuracies by samples."""
    settings = settings_of(*CLOSED, *(word for name, value in changes.items() for word in (f"--{name}", str(value))))
    start = Start(6700, 0, 6700, 10, False, None)
    with MlperfLog(path, settings, start, 1, 10_000, time.perf_counter()) as log:
        log.training_starts()
        for samples, accuracy in accuracies.items():
            log.evaluation_starts(samples)
            log.evaluation_ends(samples, {"eval_mlm_accuracy": accuracy})
        log.training_ends(samples, target_reached=accuracy >= 0.72)


def curve_to(samples):
    """Accuracies of a run that reaches 0.72 at the last of its evaluations, every 150,000 samples at batch 448."""
    points = [448 * -(-150_000 * k // 448) for k in range(1, round(samples / 150_000) + 1)]
    return {point: 0.34085 + (0.7201 - 0.34085) * (k + 1) / len(points) for k, point in enumerate(points)}


def test_the_log_of_a_run_is_compliant_in_the_open_division(folder, capsys):
    before = time.time()
    slow = {"optimizer": "adamw", "learning_rate": 2e-3, "max_steps": 12, "num_steps_per_evaluation": 3}
    main(flags(folder, **slow, target_mlm_accuracy=0.25, evaluate_first=True, skip_checkpoint=True))
    path = folder / "out" / "result_0.txt"
    assert is_compliant(path)
    events = lines(path)
    marks = [key for key in keys(path) if not key.startswith(("submission", "opt", "max_"))]
    begin = ["cache_clear", "init_start", "seed", "global_batch_size", "gradient_accumulation_steps"]
    begin += ["num_warmup_steps", "start_warmup_step", "init_stop", "run_start", "block_start"]
    scored = ["eval_start", "eval_stop", "eval_accuracy"]
    n_evaluations = marks.count("eval_accuracy")
    assert n_evaluations > 1
    assert marks == [*begin, *scored * n_evaluations, "block_stop", "train_samples", "eval_samples", "run_stop"]
    values = {event["key"]: event["value"] for event in events}
    assert values["eval_samples"] == 7
    assert values["opt_learning_rate_warmup_steps"] == 3  # a quarter of 12 steps
    samples = [event["metadata"]["epoch_num"] for event in events if event["key"] == "eval_accuracy"]
    assert samples == list(range(0, 24 * n_evaluations, 24))
    times = [event["time_ms"] for event in events]
    assert times == sorted(times)
    assert 1000 * before - 1 <= times[0] <= times[-1] <= 1000 * time.time() + 1
    assert status(path) == "success"
    assert "was not verified by MLCommons" in capsys.readouterr().out


def test_a_whole_run_is_compliant_in_the_closed_division(tmp_path):
    write_log(tmp_path / "result_0.txt", curve_to(2_400_000))
    assert is_compliant(tmp_path / "result_0.txt")


def test_the_checker_refuses_a_run_that_missed_the_target(tmp_path):
    write_log(tmp_path / "result_0.txt", {150_080: 0.37, 300_160: 0.7199})
    assert status(tmp_path / "result_0.txt") == "aborted"
    assert not is_compliant(tmp_path / "result_0.txt")


@pytest.mark.parametrize(("usual", "passes"), [(2_400_000, True), (3_000_000, True), (2_100_000, False)])
def test_ten_runs_are_compared_with_the_reference_points(tmp_path, usual, passes):
    """Of batch 448: 2,414,421 samples on average, and no mean of ten below 2,274,732."""
    for number in range(10):
        write_log(tmp_path / f"result_{number}.txt", curve_to(usual + 150_000 * (number % 3 - 1)), seed=number)
    assert passes_convergence(tmp_path) == (passes, "RCP found")


def test_a_run_that_misses_its_target_or_is_stopped_is_aborted(folder, monkeypatch):
    path = folder / "out" / "result_0.txt"
    with pytest.raises(SystemExit):
        main(flags(folder, target_mlm_accuracy=0.99, skip_checkpoint=True))
    assert status(path) == "aborted"
    losses = TrainingRun.losses

    def signaled(run, batch):
        if run.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(run, batch)

    monkeypatch.setattr(TrainingRun, "losses", signaled)
    with pytest.raises(SystemExit):
        main(flags(folder, target_mlm_accuracy=0.99))
    assert status(path) == "aborted"
    assert {event["key"]: event["value"] for event in lines(path)}["train_samples"] == 40
    stopped = path.read_bytes()
    monkeypatch.setattr(TrainingRun, "losses", losses)
    main(flags(folder, target_mlm_accuracy=REACHED_AT_ONCE, resume_from_checkpoint=True))
    assert path.read_bytes() == stopped


def test_a_run_that_fails_is_aborted(folder, monkeypatch):
    monkeypatch.setattr(PretrainingTask, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(flags(folder))
    assert status(folder / "out" / "result_0.txt") == "aborted"


def test_the_log_of_a_killed_run_is_aborted_when_it_is_resumed(folder, capsys):
    path = folder / "out" / "result_0.txt"
    main(flags(folder, num_steps_per_evaluation=None, steps_this_run=2))
    logged = path.read_bytes()
    path.write_bytes(logged[: logged.index(b'"block_stop"')])  # torn within a line
    main(flags(folder, resume_from_checkpoint=True, steps_this_run=2))
    assert path.read_bytes().startswith(logged[: logged.index(b'"block_stop"')] + b"\n")
    assert path.read_text("utf-8").splitlines()[-1].endswith('"metadata": {"status": "aborted"}}')
    assert "stays the log of the start before" in capsys.readouterr().out


def test_a_log_that_reached_its_target_is_not_overwritten(folder):
    main(flags(folder, skip_checkpoint=True))
    written = (folder / "out" / "result_0.txt").read_bytes()
    with pytest.raises(UserError, match=r"result_0\.txt is the log of a run that reached its target; choose another"):
        main(flags(folder, skip_checkpoint=True))
    assert (folder / "out" / "result_0.txt").read_bytes() == written


@pytest.mark.parametrize(
    ("batch_size", "thousands"),
    [(256, 150), (448, 150), (2048, 150), (3072, 175), (4096, 175), (4608, 200), (8192, 225)],
)
def test_the_evaluation_interval_is_the_rules(batch_size, thousands):
    assert evaluation_interval(batch_size) == 1000 * thousands


def test_the_closed_division_fixes_all_but_the_optimizer(tmp_path):
    assert list(closed_division_problems(settings_of(*CLOSED), 10_000)) == []
    other = "--do_train --output_dir out --eval_dir eval --max_steps 9 --optimizer adamw --masking dynamic"
    found = list(closed_division_problems(settings_of(*other.split(), "--target_mlm_accuracy", "0.7"), 9_999))
    text = "\n".join(map(str, found))
    for what, wanted in (
        ("--schedule is poly", "mlperf"),
        ("--max_predictions_per_seq is 80", 76),
        ("--masking is dynamic", "static"),
        ("the number of held-out sequences is 9999", 10_000),
        ("--num_samples_per_evaluation is not given", 150_000),
        ("--target_mlm_accuracy is 0.7", 0.72),
        ("--optimizer is adamw", "LAMB"),
    ):
        assert f"{what}, and MLPerf's closed division has {wanted}; " in text
    assert "starts from its checkpoint, and --init_checkpoint is not given; give --init_checkpoint" in text
    assert len(found) == 8


def test_the_closed_division_fixes_the_model(folder, capsys):
    with pytest.raises(UserError) as refused:
        main(flags(folder, mllog_division="closed"))
    for name, wanted in SHAPE.items():
        if name not in ("type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob"):
            assert f"the model's {name} is " in str(refused.value)
            assert f"and MLPerf's closed division has {wanted}; change it" in str(refused.value)
    assert not (folder / "out").exists()
