"""The report card: which figure is shown of each workload and run, and when it is said not to trust it."""

import json
import math

import pytest
from made_points import point, sweep, write

from benchmark.report import main
from benchmark.reports.data import read_results, without_folders
from benchmark.reports.report_card import make_card

PEAK = {"fraction": 0.41, "peak_tflops": 989.4, "peak": "H200 SXM data sheet, dense bf16"}


def card(*folders):
    return make_card(read_results(folders))


def only_tile(folder):
    [tile] = card(folder).tiles
    return tile


def log(folder, *events):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"DLLL {json.dumps({'type': 'LOG', 'step': step, 'data': data})}\n" for step, data in events]
    (folder / "dllogger.json").write_text("".join(lines), encoding="utf-8")
    return folder


def test_the_fastest_settings_are_shown_with_peak_and_energy(tmp_path):
    points = [point(100.0, batch_size=8)]
    for repeat, rate in enumerate((300.0, 303.0, 301.5)):
        made = point(rate, batch_size=64, repeat=repeat, compile=True, measured={"sequences_per_joule": 4.0})
        points.append(made | {"utilisation": PEAK, "measured_peak": {"fraction": 0.62}})
    tile = only_tile(write(tmp_path, points))
    assert (tile.what, tile.value, tile.unit) == ("BERT-large pretrain 128 tokens (full)", "301.5", "sequences/s")
    assert tile.details == {
        "settings": "bf16, compiled, steps 6 to 25, batch 64",
        "of peak": "41.0% of 989.4 TFLOP/s (H200 SXM data sheet, dense bf16); 62.0% of its matmuls alone",
        "energy": "0.25 J per sequence",
    }
    assert str(tile.verdict) == "OK: 3 repeats within 1.0%, its loss is plausible."


def test_each_workload_has_a_tile_and_several_gpus_are_counted(tmp_path):
    eight = point(800.0, n_gpus=8, max_seq_length=512, measured={"sequences_per_second_per_gpu": 100.0})
    first, second = card(write(tmp_path, [point(1.0), eight])).tiles
    assert (first.unit, second.unit) == ("sequences/s", "sequences/s of 8 GPUs")
    assert second.details["each"] == "100.0 per GPU"


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        ([point(100.0)], "With care: one measurement, so its spread is not known, its loss is plausible."),
        ([point(100.0), point(110.0, repeat=1)], "With care: 2 repeats differ by 9.5%, its loss is plausible."),
        (
            [point(100.0), point(100.0, repeat=1), point(status="failed", repeat=2)],
            "With care: 1 failed, 2 repeats within 0.0%, its loss is plausible.",
        ),
        ([point(9e9, measured={"loss_problem": "The loss is no number."})], "Unusable: The loss is no number."),
        ([point(status="out_of_memory")], "Unusable: no rate was measured (out of memory)."),
    ],
)
def test_what_speaks_against_a_figure_is_said(tmp_path, points, verdict):
    assert str(only_tile(write(tmp_path, points)).verdict) == verdict


def test_a_wrong_rate_is_never_the_best(tmp_path):
    wrong = point(9e9, batch_size=128, measured={"loss_problem": "wrong"})
    assert only_tile(write(tmp_path, [point(100.0), wrong])).value == "100.0"


def test_lowered_clocks_and_a_peak_that_is_not_known_are_said(tmp_path):
    gpu = {"throttle_reasons": ["software power cap"]}
    points = [point(1.0, repeat=repeat, precision="fp8", measured={"gpu": gpu}) for repeat in range(2)]
    tile = only_tile(write(tmp_path, points))
    assert tile.verdict.why.endswith("clocks were lowered by software power cap.")
    assert tile.details["of peak"] == "share of peak not known: matmuls ran in fp8 and bf16"


def test_facts_name_machine_date_and_short_commit(tmp_path):
    environment = {"gpus": ["NVIDIA H200"] * 8, "torch": "2.13.0", "version": "0.9.0"}
    environment |= {"git_commit": "0123456789abcdef", "git_dirty": True}
    days = ("2026-11-28T23:00:00+00:00", "2026-11-29T01:00:00+00:00")
    points = [point(1.0, repeat=i) | {"environment": environment | {"time": day}} for i, day in enumerate(days)]
    points[1]["environment"] |= {"git_commit": "fedcba9876543210", "git_dirty": False}
    assert card(write(tmp_path, points)).facts == [
        "8 x NVIDIA H200",
        "PyTorch 2.13.0",
        "measured on 2026-11-28 to 2026-11-29",
        "version 0.9.0",
        "commit 012345678 with uncommitted changes and fedcba987",
    ]


def test_the_quality_of_runs_is_shown(tmp_path):
    learned = log(
        tmp_path / "learned",
        ("PARAMETER", {"task": "pretraining", "arguments": {}}),
        ([0, 10], {"average_loss": 9.0}),
        ([0, 10], {"eval_mlm_accuracy": 0.1}),
        ([0, 20], {"average_loss": 7.0}),
        ([0, 20], {"eval_mlm_accuracy": 0.234}),
        ([], {"sequences_per_second": 260.0}),
    )
    answers = log(
        tmp_path / "answers",
        ("PARAMETER", {"task": "squad", "arguments": {"predict_file": "/home/me/dev-v1.1.json"}}),
        ([0, 5], {"average_loss": 3.0}),
        ([0, 6], {"average_loss": "NaN"}),
        ([], {"exact_match": 84.0, "f1": 90.97}),
    )
    pretraining, squad = card(learned, answers).tiles
    assert (pretraining.value, pretraining.unit) == ("23.4%", "of held-out masked tokens right")
    assert pretraining.details == {"steps": "after 20 steps of phase 1", "rate": "260.0 sequences/s"}
    assert str(pretraining.verdict) == "OK: its loss fell from 9.000 to 7.000."
    assert (squad.what, squad.value) == ("SQuAD: dev-v1.1.json, answers", "91.0")
    assert str(squad.verdict) == "With care: 1 logged loss is no number."


def test_a_task_of_glue_shows_its_score(tmp_path):
    losses = [([0, step], {"average_loss": loss}) for step, loss in ((1, 0.7), (2, 0.4))]
    tile = only_tile(log(tmp_path, ("PARAMETER", {"task": "glue", "arguments": {}}), *losses, ([], {"score": 0.8824})))
    assert (tile.value, tile.unit, tile.verdict.word) == ("88.2%", "score", "OK")


def test_a_run_whose_loss_rose_or_was_refused_is_not_trusted(tmp_path):
    start = ("PARAMETER", {"task": "pretraining", "arguments": {}})
    rose = log(tmp_path / "rose", start, ([0, 1], {"average_loss": 7.0}), ([0, 2], {"average_loss": 9.0}))
    refused = log(tmp_path / "refused", start, ([0, 1], {"average_loss": 7.0}), ([], {"loss_problem": "it guesses"}))
    assert [str(tile.verdict) for tile in card(rose, refused).tiles] == [
        "With care: its loss rose from 7.000 to 9.000.",
        "Unusable: it guesses",
    ]
    assert card(rose).tiles[0].value == "9.000"


def test_the_card_comes_first_in_every_form(tmp_path, capsys):
    folder = sweep(tmp_path / "sweep", [300.0, 301.0])
    main([str(folder)])
    assert "\n  OK: 2 repeats within 0.3%" in capsys.readouterr().out
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert markdown.index("## Report card") < markdown.index("## BERT-large")
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert page.index("Report card</h2>") < page.index("<strong>300.5</strong>") < page.index("<table>")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "/opt/venv/bin/python3 /home/me/bert/run_squad.py --output_dir=/data/x",
            "python3 run_squad.py --output_dir=x",
        ),
        ('File "/home/me/bert/training/step.py", line 3', 'File "step.py", line 3'),
        ("results/runs/one at 3 tokens/s, https://example.org/a/b", None),
    ],
)
def test_folders_of_a_machine_are_left_out(words, shown):
    assert without_folders(words) == (shown or words)


def test_an_endless_loss_is_no_number(tmp_path):
    run = log(tmp_path, ([0, 1], {"average_loss": 7.0}), ([0, 2], {"average_loss": str(math.inf)}))
    assert "no number" in only_tile(run).verdict.why
