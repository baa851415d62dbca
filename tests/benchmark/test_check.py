"""The guard against regressions: ratios by hand, and the status it ends with."""

import json
from pathlib import Path

import pytest

from benchmark.check import main
from benchmark.sweeps.points import read_points
from common.errors import UserError


def write(path, rates, status="ok", problem=None):
    """A file of points: by batch size, the rates of its repeats."""
    configuration = {"workload": "pretrain", "model": "tiny", "max_seq_length": 128, "precision": "bf16"}
    configuration |= {"compile": False, "n_gpus": 1, "lengths": "full"}
    lines = []
    for size, values in rates.items():
        for repeat, rate in enumerate(values):
            point = {"schema": 1, "status": status, "repeat": repeat, "error": None}
            point["configuration"] = configuration | {"batch_size": size}
            point["measured"] = {"sequences_per_second": rate, "loss_problem": problem}
            lines.append(json.dumps(point))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


BASELINE = {8: [100.0, 98.0, 110.0], 16: [200.0]}


@pytest.mark.parametrize(
    ("result", "tolerance", "status"),
    [
        ({8: [100.0], 16: [200.0]}, 0.0, 0),
        ({8: [95.0, 10.0, 99.0], 16: [190.0]}, 0.05, 0),  # the median counts
        ({8: [94.9], 16: [200.0]}, 0.05, 1),
        ({8: [94.9], 16: [200.0]}, 0.06, 0),
        ({8: [500.0], 16: [500.0], 32: [1.0]}, 0.0, 0),
        ({8: [100.0]}, 0.5, 1),
    ],
)
def test_what_is_slower_than_the_tolerance(tmp_path, capsys, result, tolerance, status):
    arguments = [write(tmp_path / "a", BASELINE), write(tmp_path / "b", result), "--tolerance", str(tolerance)]
    if status:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == status
    else:
        main(arguments)
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-1].startswith("Slower, wrong or incomplete: 2 conf" if status else "At least ")
    assert len(said) == 1 + status


def test_the_sentence_has_the_ratio(tmp_path, capsys):
    main([write(tmp_path / "a", BASELINE), write(tmp_path / "b", {8: [97.0], 16: [300.0]})])
    assert capsys.readouterr().out == (
        "At least 0.970 times as fast as before: 2 configurations, at a tolerance of 5.0%.\n"
    )


def test_a_fast_wrong_run_fails(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([write(tmp_path / "a", BASELINE), write(tmp_path / "b", BASELINE, problem="the loss ended at 99")])
    assert "batch 8: the loss ended at 99" in capsys.readouterr().out


def test_what_ran_out_of_memory_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([write(tmp_path / "a", BASELINE), write(tmp_path / "b", BASELINE, status="out_of_memory")])
    assert "batch 16: 1 of 1 repeat: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["failed", "out_of_memory"])
def test_a_repeat_that_ended_otherwise_is_not_hidden_by_the_others(tmp_path, capsys, status):
    baseline, result = write(tmp_path / "a", BASELINE), write(tmp_path / "b", BASELINE)
    write(tmp_path / "c", {8: [0.0]}, status=status)
    with open(result, "a") as file:
        file.write((tmp_path / "c").read_text())
    with pytest.raises(SystemExit) as code:
        main([baseline, result])
    assert code.value.code == 1
    assert f"batch 8: 1 of 4 repeats: {status.replace('_', ' ')}\n" in capsys.readouterr().out


def test_a_wrong_baseline_is_none(tmp_path):
    wrong = write(tmp_path / "a", BASELINE, problem="the loss ended at 99.")
    with pytest.raises(UserError, match="is no baseline, as its own rates mean nothing: the loss ended at 99"):
        main([wrong, write(tmp_path / "b", BASELINE)])


def test_a_last_line_without_its_end_counts_where_it_is_whole(tmp_path):
    file = tmp_path / "a"
    whole = Path(write(file, BASELINE)).read_text().rstrip("\n")
    file.write_text(whole)
    assert len(read_points(file)) == 4
    file.write_text(whole[:-3])
    assert len(read_points(file)) == 3


def test_nothing_to_compare_with(tmp_path):
    failed = write(tmp_path / "a", BASELINE, status="failed")
    with pytest.raises(UserError, match="has no measured point"):
        main([failed, write(tmp_path / "b", BASELINE)])
    with pytest.raises(UserError) as error:
        main([str(tmp_path / "none"), str(tmp_path / "nor_this"), "--tolerance", "2"])
    assert len(error.value.sentences) == 3
