"""The table of results, from logs written by hand: resumed runs, missing values, files that are no log."""

import json

import pytest

from benchmark.logs import read_phases
from benchmark.summarize import main
from common.errors import UserError


def start(phase=1, first_step=0, do_train=True):
    arguments = {"do_train": do_train, "phase2": phase == 2}
    return {"type": "LOG", "step": "PARAMETER", "data": {"arguments": arguments, "first_step": first_step}}


def step(number, loss, epoch=0):
    return {"type": "LOG", "step": [epoch, number], "data": {"average_loss": loss, "learning_rate": 1e-3}}


def summary(**values):
    return {"type": "LOG", "step": [], "data": values}


MEASURED = {"measured_steps": 10, "sequences_per_second": 1234.56, "tokens_per_second": 98765.4}


@pytest.fixture
def table(tmp_path, capsys):
    """Writes events as a log, summarizes it and returns the rows as lists of cells."""

    def make(*events, others=()):
        path = tmp_path / "dllogger.json"
        path.write_text("".join(f"DLLL {json.dumps(event)}\n" for event in events), encoding="utf-8")
        main([str(path), *map(str, others)])
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

    return make


def test_both_phases_of_a_run(table):
    metadata = {"type": "METADATA", "metric": "average_loss", "metadata": {"format": ":.4f"}}
    rows = table(
        start(),
        metadata,
        step(1, 11.25),
        step(7038, 2.5),
        summary(**MEASURED, eval_mlm_accuracy=0.6543),
        start(phase=2),
        step(1, 1.75),
        step(1563, 1.26),
        summary(sequences_per_second=378, tokens_per_second=1.5e5, eval_mlm_accuracy=0.7),
    )
    assert rows == [
        ["1", "7,038", "11.250", "2.500", "65.4%", "1,234.6", "98,765"],
        ["2", "1,563", "1.750", "1.260", "70.0%", "378.0", "150,000"],
    ]


def test_steps_after_the_checkpoint_count_as_made_the_second_time(table):
    # Killed after step 40, gone on from the checkpoint of step 20, and so far at step 30.
    rows = table(start(), step(1, 9), step(20, 8), step(30, 7), step(40, 6), start(first_step=20), step(30, 7.5))
    assert rows == [["1", "30", "9.000", "7.500", "-", "-", "-"]]


def test_a_run_that_starts_over_leaves_nothing_of_the_earlier_one(table):
    earlier = [start(), step(1, 9), step(40, 6), summary(**MEASURED, eval_mlm_accuracy=0.5)]
    assert table(*earlier, start(), step(1, 10)) == [["1", "1", "10.000", "10.000", "-", "-", "-"]]


def test_a_start_with_nothing_left_to_train_keeps_what_was_measured(table):
    nothing = summary(measured_steps=0, not_measured="the run had no step", eval_mlm_accuracy=0.25)
    rows = table(start(), step(1, 9), step(40, 6), summary(**MEASURED), start(first_step=40), nothing)
    assert rows == [["1", "40", "9.000", "6.000", "25.0%", "1,234.6", "98,765"]]


def test_an_accuracy_of_weights_that_were_trained_further_is_left_out(table):
    scored = summary(**MEASURED, eval_mlm_accuracy=0.5)
    rows = table(start(), step(1, 9), step(20, 8), scored, start(first_step=20), step(40, 6))
    assert rows == [["1", "40", "9.000", "6.000", "-", "1,234.6", "98,765"]]


def test_a_run_that_only_evaluates_changes_no_row(table):
    trained = [start(), step(1, 9), step(40, 6), summary(**MEASURED, eval_mlm_accuracy=0.5)]
    assert table(*trained, start(do_train=False), summary(eval_mlm_accuracy=0.1)) == table(*trained)


def test_nan_and_missing_values_are_shown_as_such(table):
    rows = table(start(), step(1, 9), step(2, "NaN"), summary(sequences_per_second="Infinity"))
    assert rows == [["1", "2", "9.000", "nan", "-", "inf", "-"]]
    no_loss = {"type": "LOG", "step": 5, "data": {"average_loss": None}}  # as DLLogger writes a step without epochs
    assert table(start(), no_loss) == [["1", "5", "-", "-", "-", "-", "-"]]


def test_skipped_steps_are_none_and_scores_hold_until_training_goes_on(table):
    skipped = {"type": "LOG", "step": [0, 3], "data": {"loss_scale": 512.0, "skipped_steps": 1}}
    evaluated = {"type": "LOG", "step": [0, 2], "data": {"eval_mlm_accuracy": 0.25}}
    assert table(start(), step(1, 9), step(2, 8), evaluated, skipped) == [
        ["1", "2", "9.000", "8.000", "25.0%", "-", "-"]
    ]
    assert table(start(), step(2, 8), evaluated, step(3, 7)) == [["1", "3", "8.000", "7.000", "-", "-", "-"]]


def test_several_logs_are_told_apart_and_all_that_is_wrong_is_said(table, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(f"DLLL {json.dumps(step(3, 2.0))}\nDLLL {{torn", encoding="utf-8")
    rows = table(start(), step(1, 9), others=[other])
    assert rows == [
        [str(tmp_path / "dllogger.json"), "1", "1", "9.000", "9.000", "-", "-", "-"],
        [str(other), "1", "3", "2.000", "2.000", "-", "-", "-"],
    ]
    (tmp_path / "empty.json").write_text("no log\n", encoding="utf-8")
    (tmp_path / "stopped.json").write_text(f"DLLL {json.dumps(start())}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        main([str(tmp_path / name) for name in ("absent.json", "empty.json", "stopped.json", "dllogger.json")])
    assert [sentence.split("json ")[1].split(";")[0] for sentence in error.value.sentences] == [
        "cannot be read (No such file or directory)",
        "has no DLLogger line",
        "has no optimizer step",
    ]


def test_only_evaluation_is_no_phase(tmp_path):
    path = tmp_path / "log.json"
    events = [start(do_train=False), summary(eval_mlm_accuracy=0.5)]
    path.write_text("".join(f"DLLL {json.dumps(event)}\n" for event in events), encoding="utf-8")
    with pytest.raises(UserError, match="only evaluated"):
        read_phases(path)
