"""The published loss curve: which runs it is drawn and listed for, and what is said of whose it is."""

import json

import pytest

from benchmark.reports.data import read_results
from benchmark.reports.run_figures import run_figures
from benchmark.reports.sections import plan_sections
from benchmark.reports.tables import published_losses_table

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24}
LABEL = "NVIDIA's, off its picture, ±0.15"


def write_run(folder, model=LARGE, batch=65536, steps=(25, 60, 100), task="pretraining", **arguments):
    """A log of phase 1 at length 128, unless told otherwise, with a loss of 10 - step / 100."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"max_seq_length": 128, **arguments}
    events = [("PARAMETER", {"task": task, "model": model, "batches": {"global": batch}, "arguments": told})]
    events += [([0, step], {"average_loss": 10 - step / 100, "learning_rate": 1e-3}) for step in steps]
    lines = [f"DLLL {json.dumps({'type': 'LOG', 'step': step, 'data': data})}\n" for step, data in events]
    (folder / "dllogger.json").write_text("".join(lines), encoding="utf-8")
    return folder


def runs_in(folder):
    return read_results([folder])[0].runs


def loss_figures(folder):
    return [figure for figure in run_figures(runs_in(folder)) if "average_loss" in figure.name]


def test_a_run_of_the_recipe_is_drawn_and_listed_beside_the_published_curve(tmp_path):
    folder = write_run(tmp_path / "run")
    [figure] = loss_figures(folder)
    ours, theirs = figure.series
    assert (ours.label, theirs.label, theirs.kind) == ("run", LABEL, "guide")
    assert list(zip(theirs.x, theirs.y, strict=True)) == [(25, 10.10), (50, 9.65), (100, 8.95)]
    assert f"Grey: {LABEL}, a run of others: https://github.com/NVIDIA/DeepLearningExamples" in figure.finding
    table = published_losses_table(runs_in(folder))
    # The run logged step 60, where the picture was not read, and did not log step 50.
    assert table.rows == [
        {"step": "25", LABEL: "10.10", "run": "9.75"},
        {"step": "100", LABEL: "8.95", "run": "9.00"},
    ]
    assert "a run of others" in table.notes[0]
    assert table in next(plan_sections(read_results([folder]), compare=False)).tables


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 32768},
        {"max_seq_length": 512},
        {"phase2": True},
        {"model": {"hidden_size": 768, "num_hidden_layers": 12}},
        {"task": "squad"},
    ],
)
def test_other_runs_are_not_compared_with_it(tmp_path, changes):
    folder = write_run(tmp_path / "run", **changes)
    assert [len(figure.series) for figure in loss_figures(folder)] == [1]
    assert published_losses_table(runs_in(folder)).rows == []


def test_it_is_drawn_once_for_several_runs(tmp_path):
    write_run(tmp_path / "all" / "one")
    write_run(tmp_path / "all" / "two", steps=(50, 60))
    [figure] = loss_figures(tmp_path / "all")
    assert [series.label for series in figure.series] == ["all/one", "all/two", LABEL]
    rows = published_losses_table(runs_in(tmp_path / "all")).rows
    assert [(row["step"], row["all/one"], row["all/two"]) for row in rows] == [
        ("25", "9.75", "-"),
        ("50", "-", "9.50"),
        ("100", "9.00", "-"),
    ]


def test_the_curve_falls_and_has_a_loss_for_each_step(tmp_path):
    [figure] = loss_figures(write_run(tmp_path, steps=(25, 7038)))
    published = figure.series[-1]
    assert (published.x[-1], published.y[-1]) == (7038, 1.4)
    assert len(published.x) == len(published.y) == 19
    assert list(published.x) == sorted(set(published.x))
    assert list(published.y) == sorted(published.y, reverse=True)


def two_phases(folder, **second):
    """A log of 100 steps of phase 1 and 40 of phase 2, each scored once."""
    write_run(folder)
    events = [
        ([0, 60], {"eval_mlm_loss": 7.0, "eval_nsp_loss": 0.5, "eval_mlm_accuracy": 0.1}),
        ("PARAMETER", {"task": "pretraining", "model": LARGE, "arguments": {"phase2": True, **second}}),
        *(([0, step], {"average_loss": 8.0, "learning_rate": 1e-3}) for step in (20, 40)),
        ([0, 40], {"eval_mlm_loss": 6.0, "eval_nsp_loss": 0.25, "eval_mlm_accuracy": 0.2}),
    ]
    lines = [f"DLLL {json.dumps({'type': 'LOG', 'step': step, 'data': data})}\n" for step, data in events]
    with open(folder / "dllogger.json", "a", encoding="utf-8") as file:
        file.writelines(lines)
    return folder


@pytest.mark.parametrize(("told", "before"), [({}, 100), ({"phase1_end_step": 7038}, 7038)])
def test_both_phases_are_one_curve_with_what_was_held_out(tmp_path, told, before):
    [figure] = loss_figures(two_phases(tmp_path / "run", **told))
    curve, scored, boundary, _ = figure.series
    assert figure.title == "Training loss, phase 1 and phase 2"
    assert curve.x == (25, 60, 100, before + 20, before + 40)
    assert (scored.kind, scored.x, scored.y) == ("marks", (60, before + 40), (7.5, 6.25))
    assert (boundary.label, boundary.x) == ("phase 2 begins", [before, before])


def test_phases_of_two_logs_share_the_axis(tmp_path):
    first = write_run(tmp_path / "all" / "first")
    second = write_run(first.parent / "second", phase2=True, phase1_end_step=100, max_seq_length=512)
    [figure] = loss_figures(second.parent)
    assert [series.x for series in figure.series[:2]] == [(25, 60, 100), (125, 160, 200)]


def test_a_single_step_is_no_curve(tmp_path):
    folder = write_run(tmp_path / "run", steps=(25,))
    assert loss_figures(folder) == []
    section = next(plan_sections(read_results([folder]), compare=False))
    assert "No run logged two steps" in section.markdown()


def test_scores_after_the_checkpoint_that_was_resumed_do_not_count(tmp_path):
    folder = two_phases(tmp_path)
    again = {"first_step": 20, "arguments": {"phase2": True}}
    with open(folder / "dllogger.json", "a", encoding="utf-8") as file:
        file.write(f"DLLL {json.dumps({'type': 'LOG', 'step': 'PARAMETER', 'data': again})}\n")
    [run] = runs_in(folder)
    assert [run.phases[number].held_out_losses for number in (1, 2)] == [[(60, 7.5)], []]
