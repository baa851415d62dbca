"""Pre-training to a score: when it is evaluated, where it stops, and what it says and ends with."""

import pytest
from distributed_runs import finish
from mlperf_checkers import is_compliant
from pretraining_runs import command, contents, copied, curve, losses, make_three_word_inputs, summary

from common.checkpoint_files import find_checkpoints
from run_pretraining import main
from training.evaluation import TARGET_MISSED_EXIT_CODE, Evaluations, Target
from training.metrics.logger import read_log

TARGET = 0.25
STEPS = 12


def flags(folder, **changes):
    fixed = {"eval_dir": folder / "test", "num_steps_per_evaluation": 2, "optimizer": "adamw", "learning_rate": 2e-3}
    return command(folder, **{**fixed, "max_steps": STEPS, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run without a target."""
    folder = make_three_word_inputs(tmp_path_factory.mktemp("finished"))
    main(flags(folder, output_dir=folder / "free", skip_checkpoint=True))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return copied(finished, tmp_path)


def accuracies(output):
    return {step: v["eval_mlm_accuracy"] for (_, step), v in curve(output).items() if "eval_mlm_accuracy" in v}


def first_to_reach(output, target):
    return next(step for step, accuracy in accuracies(output).items() if accuracy >= target)


def test_training_stops_after_the_first_evaluation_that_reaches_the_target(folder, capsys):
    expected = first_to_reach(folder / "free", TARGET)
    assert 2 < expected < STEPS
    main(flags(folder, target_mlm_accuracy=TARGET))
    said = capsys.readouterr().out
    assert list(accuracies(folder / "out")) == list(range(2, expected + 1, 2))
    assert losses(folder / "out") == losses(folder / "free")[:expected]
    assert find_checkpoints(folder / "out")[-1][0] == expected
    ended = summary(folder / "out")
    assert ended["target_reached"] is True
    assert ended["samples_seen"] == 8 * expected
    assert 0 < ended["training_seconds"] < ended["e2e_time"]
    assert f"the target, a masked-LM accuracy of {TARGET}, was reached after {8 * expected:,} sequences and " in said


def test_a_run_that_reached_its_target_trains_no_more_when_it_is_resumed(folder, capsys):
    main(flags(folder, target_mlm_accuracy=TARGET))
    checkpoints = find_checkpoints(folder / "out")
    before, seconds = contents(checkpoints[-1][1].parent), summary(folder / "out")["training_seconds"]
    main(flags(folder, target_mlm_accuracy=TARGET, resume_from_checkpoint=True))
    after = contents(folder / "out")
    assert {path: after[path] for _, path in checkpoints} == {path: before[path] for _, path in checkpoints}
    assert find_checkpoints(folder / "out") == checkpoints
    assert summary(folder / "out")["target_reached"] is True
    assert summary(folder / "out")["samples_seen"] == 8 * checkpoints[-1][0]
    assert summary(folder / "out")["training_seconds"] > seconds / 2  # it went on from the checkpoint's
    assert capsys.readouterr().out.count("was reached after") == 2


def test_a_run_that_ends_below_its_target_has_a_status_of_its_own(folder, capsys):
    best = max(accuracies(folder / "free").values())
    with pytest.raises(SystemExit) as ended:
        main(flags(folder, target_mlm_accuracy=0.99))
    assert ended.value.code == TARGET_MISSED_EXIT_CODE
    said = capsys.readouterr().out
    assert f"a masked-LM accuracy of 0.99, was not reached in {8 * STEPS} sequences and " in said
    assert said.rstrip().endswith(f"it is {accuracies(folder / 'free')[STEPS - 2]:.5g}")
    assert best < 0.99
    assert summary(folder / "out")["target_reached"] is False
    assert [step for step, _ in find_checkpoints(folder / "out")][-1] == STEPS


def test_a_run_that_stops_for_its_time_limit_has_not_missed_its_target_yet(folder, capsys):
    main(flags(folder, target_mlm_accuracy=TARGET, steps_this_run=3))
    assert "was not reached in 24 sequences" in (said := capsys.readouterr().out)
    assert "start again with --resume_from_checkpoint to go on" in said
    assert summary(folder / "out")["target_reached"] is False
    main(flags(folder, target_mlm_accuracy=TARGET, resume_from_checkpoint=True))
    assert summary(folder / "out")["samples_seen"] == 8 * first_to_reach(folder / "free", TARGET)


def test_the_last_evaluation_can_reach_the_target(folder):
    steps = first_to_reach(folder / "free", TARGET)
    changed = {"num_steps_per_evaluation": None, "max_steps": STEPS, "steps_this_run": steps}
    main(flags(folder, target_mlm_accuracy=TARGET, **changed))
    assert list(accuracies(folder / "out")) == [steps]
    assert summary(folder / "out")["target_reached"] is True


def test_two_ranks_stop_together(folder):
    batch = {"train_batch_size": 4, "gradient_accumulation_steps": 1}
    finish(flags(folder, target_mlm_accuracy=TARGET, mllog=folder / "result_0.txt", **batch), 2)
    assert is_compliant(folder / "result_0.txt")  # of the first rank alone
    assert summary(folder / "out")["samples_seen"] == 8 * first_to_reach(folder / "free", TARGET)
    assert summary(folder / "out")["target_reached"] is True


def test_weights_are_scored_before_training_and_compared_with_what_is_known(folder, capsys):
    begin = {"max_steps": 1, "num_steps_per_evaluation": None, "skip_checkpoint": True, "evaluate_first": True}
    main(flags(folder, **begin))
    logged = [event for event in read_log(folder / "out" / "dllogger.json") if "eval_mlm_loss" in event.get("data", ())]
    before, after, _ = logged
    assert (before["step"], after["step"]) == ([0, 0], [0, 1])
    known = before["data"]["eval_mlm_accuracy"]
    assert "expected" not in capsys.readouterr().out
    main(flags(folder, **begin, expected_mlm_accuracy=known + 0.004))
    assert "expected" not in capsys.readouterr().out
    main(flags(folder, **begin, expected_mlm_accuracy=known + 0.006))
    said = capsys.readouterr().out
    assert f"warning: before training the masked-LM accuracy is {known:.5f}, and {known + 0.006:.5f} was exp" in said


def test_scores_before_training_change_no_loss(folder):
    main(flags(folder, evaluate_first=True, skip_checkpoint=True))
    trained = [values for (_, step), values in curve(folder / "out").items() if step]
    assert [values["average_loss"] for values in trained] == losses(folder / "free")


@pytest.mark.parametrize(
    ("batch_size", "every", "steps"),
    [
        (448, 150_000, [335, 670, 1005, 1340]),  # ceil(334.8), ceil(669.6), ceil(1004.5), ceil(1339.3)
        (768, 150_000, [196, 391, 586, 782]),  # ceil(195.3), ceil(390.6), ceil(585.9), ceil(781.3)
        (8, 16, [2, 4, 6]),
        (8, 5, [1, 2, 3]),  # a batch is more than what lies between: one evaluation a step
    ],
)
def test_evaluations_by_samples_come_after_the_first_step_that_reaches_a_multiple(batch_size, every, steps):
    evaluations = Evaluations(every_samples=every)
    found = [step for step in range(1, steps[-1] + 1) if evaluations.follow(step, batch_size)]
    assert found == steps


def test_evaluations_by_samples_on_a_run(folder):
    main(flags(folder, num_steps_per_evaluation=None, num_samples_per_evaluation=20, skip_checkpoint=True))
    assert list(accuracies(folder / "out")) == [3, 5, 8, 10, 12]
    seen = {step: v["samples_seen"] for (_, step), v in curve(folder / "out").items() if "samples_seen" in v}
    assert seen == {3: 24, 5: 40, 8: 64, 10: 80, 12: 96}


def test_a_score_that_is_no_number_reaches_nothing():
    assert not Target("accuracy", 0.1, "").is_reached({"accuracy": float("nan")})
    assert Target("accuracy", 0.1, "").is_reached({"accuracy": 0.1})
