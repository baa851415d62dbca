"""benchmark/mlperf_curve.py: what it reads of logs, and how runs stand beside published ones."""

import json

import pytest
from paths import ROOT
from PIL import Image

from benchmark.mlperf_curve import main, read_bands
from common.errors import UserError

SET_OF_448 = {
    "global_batch_size": 448,
    "opt_base_learning_rate": 4.25e-4,
    "opt_learning_rate_training_steps": 6700,
    "opt_learning_rate_warmup_steps": 0,
    "opt_lamb_beta_1": 0.9,
    "opt_lamb_beta_2": 0.999,
    "opt_lamb_weight_decay_rate": 0.01,
}


def write_log(path, accuracies, seconds=100.0, status="success", **changes):
    """A log with what the command reads, behind the prefix of a rank as launchers write it."""

    def line(key, value=None, time=0, **metadata):
        event = {"namespace": "", "time_ms": 1000 + round(1000 * time), "event_type": "POINT_IN_TIME", "key": key}
        return f"0: :::MLLOG {json.dumps({**event, 'value': value, 'metadata': metadata})}\n"

    lines = [line(key, value) for key, value in {**SET_OF_448, "seed": 7, **changes}.items()]
    lines += [line("run_start"), "something else\n"]
    lines += [line("eval_accuracy", accuracy, epoch_num=samples) for samples, accuracy in accuracies.items()]
    if status:
        lines.append(line("run_stop", time=seconds, status=status))
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def cells(out):
    """The rows of all tables, as lists of cells."""
    lines = [line for line in out.splitlines() if line.startswith("| ") and not line.startswith("| --")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_evaluations_stand_beside_published_ones(tmp_path, capsys):
    # At 448, 150,000 samples: .3759 +- .0028; 600,000: .5734 +- .0517. Evaluations come up to a batch later.
    log = write_log(tmp_path / "result_0.txt", {0: 0.3409, 150_080: 0.3787, 600_320: 0.6900, 2_250_304: 0.7201})
    main([log])
    run, *evaluations = [row for row in cells(capsys.readouterr().out) if row[0] not in ("log", "samples")]
    assert run[1:8] == ["448", "7", "-", "success", "2,250,304", "0.72010", "100.0"]
    # 2,250,000 is no point of the band; (2,250,304 - 2,470,000) / 182,000 = -1.2.
    assert run[8:] == ["1 of 2", "-1.2"]
    assert evaluations == [
        ["0", "0.34090", "-", "-", "-"],
        ["150,080", "0.37870", "0.3759 ± 0.0028", "+1.0", "inside"],
        ["600,320", "0.69000", "0.5734 ± 0.0517", "+2.3", "outside"],
        ["2,250,304", "0.72010", "-", "-", "-"],
    ]


def test_other_hyperparameters_have_no_band(tmp_path, capsys):
    log = write_log(tmp_path / "result_0.txt", {150_080: 0.3787}, opt_base_learning_rate=3.7e-4, status=None)
    main([log])
    out = capsys.readouterr().out
    assert "no runs with these hyperparameters are published" in out
    assert cells(out)[1][1:] == ["448", "7", "-", "unfinished", "150,080", "0.37870", "-"]


def test_ten_runs_have_a_mean_without_the_best_and_the_worst(tmp_path, capsys):
    logs = [
        write_log(tmp_path / f"result_{n}.txt", {150_080: 0.72}, seconds)
        for n, seconds in enumerate((1, 50, 60, 70, 80, 90, 100, 110, 120, 999))
    ]
    main(logs[:9])
    assert "mean of" not in capsys.readouterr().out
    main(logs)
    assert "mean of 10 runs without the best and the worst: 85.0 s" in capsys.readouterr().out


def test_all_logs_that_cannot_be_read_are_named(tmp_path):
    empty, torn = tmp_path / "empty.txt", tmp_path / "torn.txt"
    empty.touch()
    torn.write_text(':::MLLOG {"key": "seed"}\n', encoding="utf-8")
    with pytest.raises(UserError) as refused:
        main([str(empty), str(torn), str(tmp_path / "absent.txt"), "--plot", "curve.svg"])
    for said in (
        "--plot is curve.svg; give the name of a .png file.",
        f"{empty} has no evaluation of MLPerf's form; give a log that --mllog wrote.",
        f"{torn} has a line that is not of MLPerf's form; give a log that --mllog wrote.",
        f"the log {tmp_path}/absent.txt cannot be read (No such file or directory); give a result_0.txt.",
    ):
        assert said in str(refused.value)


def test_the_plot_is_a_picture(tmp_path):
    log = write_log(tmp_path / "result_0.txt", {150_080: 0.3787, 300_160: 0.40})
    main([log, "--plot", str(tmp_path / "curve.png")])
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"


def test_bands_are_of_sets_that_the_script_has_and_rise():
    lines = (ROOT / "scripts/mlperf_bert.txt").read_text("utf-8").splitlines()
    table = dict(line.split(maxsplit=1) for line in lines if not line.startswith("#"))
    names = {"opt_base_learning_rate": "LEARNING_RATE", "opt_learning_rate_training_steps": "STEPS"}
    names |= {"opt_lamb_beta_1": "BETA1", "opt_lamb_beta_2": "BETA2", "opt_lamb_weight_decay_rate": "WEIGHT_DECAY"}
    for band in read_bands():
        batch = band.hyperparameters["global_batch_size"]
        given = dict(setting.split("=") for setting in table[str(batch)].split())
        if batch != 1536:  # whose published band is of the set of 768
            assert {key: float(given[name]) for key, name in names.items()} == {
                key: band.hyperparameters[key] for key in names
            }
        means = [mean for _, mean, _ in band.accuracies]
        assert means == sorted(means)
