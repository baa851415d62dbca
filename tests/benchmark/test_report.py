"""Reports: what their tables say against figures worked out by hand, and what they say of what is not there."""

import csv
import json
import os
import re
import shlex
import struct

import hypothesis
import hypothesis.strategies as st
import pytest
from made_points import KERNELS, TIMELINE, point, sweep, write, write_log
from matplotlib.figure import Figure
from paths import ROOT

from benchmark.report import main
from benchmark.reports import drawing, sections
from benchmark.reports.data import Result, measured, read_results
from benchmark.reports.profile_figures import roofline
from benchmark.reports.sweep_figures import sweep_figures
from benchmark.reports.tables import profiles_table, runs_table, throughput_table
from common.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def quick_pictures():
    """Pictures of fewer dots, which take less time; test_report_browser.py looks at whole ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DOTS", 60)
        yield


def report(*arguments):
    main([str(argument) for argument in arguments])


def only_table(folder):
    [group] = measured(read_results([folder]))
    return throughput_table(group)


def rows(folder):
    return only_table(folder).rows


def figures_of(folder):
    [group] = measured(read_results([folder]))
    return sweep_figures(group)


def test_a_row_is_the_median_of_its_repeats(tmp_path):
    [row] = rows(sweep(tmp_path, [300.0, 100.0, 200.0]))
    shown = {name: row[name] for name in ("batch", "sequences/s", "lowest", "highest", "n", "GiB", "state")}
    assert shown == {
        "batch": "64",
        "sequences/s": "200.0",
        "lowest": "100.0",
        "highest": "300.0",
        "n": "3",
        "GiB": "3.0",
        "state": "ok",
    }


def test_a_wrong_run_and_those_that_ended_are_shown_as_that(tmp_path):
    points = [
        point(9e9, batch_size=8, measured={"loss_problem": "The loss is no number."}),
        point(batch_size=16, status="out_of_memory"),
        point(batch_size=32, status="failed"),
    ]
    table = only_table(write(tmp_path, points))
    assert [row["state"] for row in table.rows] == ["wrong", "out of memory", "failed"]
    assert any("The loss is no number." in note for note in table.notes)
    assert any("RuntimeError: planted" in note for note in table.notes)


def test_what_tells_rows_apart_is_in_them(tmp_path):
    changes = ({}, {"stop": 45}, {"optimizer": "adamw"}, {"accumulation_steps": 4}, {"n_gpus": 2, "compile": True})
    told = [row["configuration"] for row in rows(write(tmp_path, [point(1.0, **change) for change in changes]))]
    assert sorted(told) == [
        "bf16, 4 micro-batches, steps 6 to 25",
        "bf16, adamw, steps 6 to 25",
        "bf16, compiled, 2 processes, steps 6 to 25",
        "bf16, steps 6 to 25",
        "bf16, steps 6 to 45",
    ]


def test_a_measured_peak_and_lower_clocks_are_told(tmp_path):
    points = [point(1.0, batch_size=size, repeat=repeat) for size in (8, 16) for repeat in range(3)]
    for made, fraction in zip(points, (0.5, 0.7, 0.6), strict=False):
        made["measured_peak"] = {"fraction": fraction}
    points[4]["measured"]["gpu"] = {"throttle_reasons": ["software power cap"]}
    table = only_table(write(tmp_path, points))
    assert [row["of matmuls"] for row in table.rows] == ["60.0%", "-"]
    assert "The driver lowered clocks at batch 16: software power cap." in table.notes


def test_repeats_that_failed_are_not_hidden(tmp_path):
    points = [point(5.0), point(status="failed", repeat=1), point(status="out_of_memory", repeat=2)]
    [row] = rows(write(tmp_path, points))
    assert (row["n"], row["state"]) == ("1", "ok, 1 out of memory, 1 failed")


def test_all_files_are_there_and_the_last_line_leads_to_them(tmp_path, capsys):
    folder = write(
        tmp_path / "sweep",
        [point(100.0 * size, batch_size=size, repeat=repeat) for size in (8, 16) for repeat in (0, 1)],
    )
    (folder / "kernels.json").write_text(json.dumps(KERNELS))
    (folder / "timeline.json").write_text(json.dumps(TIMELINE))
    write_log(tmp_path / "run", [9.0, "NaN", 7.0])
    report(folder, tmp_path / "run", "--output_dir", tmp_path / "out", "--title", "A <title>")
    out = tmp_path / "out"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {out / 'report.html'}"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert "A <title>" not in page
    kinds = {path.name.split("_")[0] for path in out.glob("*.png")}
    assert kinds == {"throughput", "step", "memory", "phase1", "kernels", "roofline"}
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert (width, height) == (264, 240)
    markdown = (out / "report.md").read_text(encoding="utf-8")
    for name in ("throughput_pretrain_128.png", "roofline_sweep.png", "phase1_average_loss.png"):
        assert f"]({name})" in markdown
    assert "from 9 to 7 over 3 steps, with 1 step without a number" in markdown
    assert "500.0 TFLOP/s, 50.0% of the tensor cores' peak" in markdown
    assert re.search(r"\| sweep +\| +ncu \| +H200 \| +50\.0% \|", markdown)
    with open(out / "report.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["measured.sequences_per_second"] for row in table] == ["800.0", "800.0", "1600.0", "1600.0"]
    assert table[0]["measured.part_seconds.forward"] == "0.03"


def test_the_same_input_makes_the_same_files(tmp_path):
    folder = sweep(tmp_path / "sweep", [1.0, 2.0])
    for name in ("first", "second"):
        report(folder, "--output_dir", tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_names_of_folders_are_no_markup(tmp_path):
    """A folder's name is what a user likes, bytes that are no UTF-8 and half a formula included."""
    folder = write(
        tmp_path / os.fsdecode(b"_$\\frac{$ <b>|\xe9\n"), [point(100.0, batch_size=size) for size in (8, 16)]
    )
    write_log(folder / "run", [9.0, 8.0])
    report(folder, sweep(tmp_path / "b", [1.0, 2.0]), "--output_dir", tmp_path / "out")
    written = [(tmp_path / "out" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html")]
    assert all("<b>" not in text and "&lt;b" in text for text in written)


def test_compare_prints_its_table(tmp_path, capsys):
    report("compare", sweep(tmp_path / "a", [100.0, 101.0, 102.0]), sweep(tmp_path / "b", [202.0, 203.0, 201.0]))
    printed = capsys.readouterr().out
    assert "2.000" in printed
    assert "b is faster" in printed
    assert f"report: {tmp_path}/a/report/report.html" in printed


def test_profiles_in_numbers(tmp_path):
    (tmp_path / "a.kernels.json").write_text(json.dumps(KERNELS))
    (tmp_path / "timeline.json").write_text(json.dumps(TIMELINE | {"launch_gaps": {"count": 1234}}))
    about = {"result": tmp_path.name, "source": "ncu", "GPU": "H200"}
    assert profiles_table(read_results([tmp_path])[0].profiles).rows == [
        about | {"tensor": "50.0%", "sm": "75.0%"},
        about | {"source": "torch", "GPU": "-", "ms in all": "200.0", "busy": "75.0%", "gaps": "1,234"},
    ]


def test_what_differs_between_environments_is_said(tmp_path, capsys):
    first = sweep(tmp_path / "a", [1.0])
    second = write(tmp_path / "b", [point(1.0) | {"environment": {"torch": "2.11.0", "gpus": ["H200", "H200"]}}])
    report(first, second, "--output_dir", tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "The results differ in torch" in markdown
    assert "2 x H200" in markdown


def test_rows_and_lines_are_named_by_what_they_differ_in(tmp_path):
    points = [point(1.0, compile=compiled, batch_size=size) for compiled in (False, True) for size in (16, 8)]
    folders = [write(tmp_path / name, points) for name in "ab"]
    [group] = measured(read_results(folders[:1]))
    named = [(repeats.name, repeats.batch_size) for repeats in group]
    assert named == [(f"bf16{words}, steps 6 to 25", size) for words in (", compiled", "") for size in (8, 16)]
    [group] = measured(read_results(folders))
    names = [f"bf16{words}, steps 6 to 25, {folder}" for words in (", compiled", "") for folder in "ab"]
    assert [repeats.name for repeats in group] == [name for name in names for _ in (8, 16)]


def test_many_configurations_have_a_bar_each_at_their_fastest_batch(tmp_path):
    parts = {"part_seconds": {"forward": 1.0, "reduction": 0.0}}
    points = [
        point(float(size if compiled else -size), compile=compiled, batch_size=size)
        for compiled in (False, True)
        for size in range(1, 10)
    ]
    for made in points:
        made["measured"] |= parts
    _, bars, *_ = figures_of(write(tmp_path, points))
    assert [row.split(", ")[0] for row in bars.rows] == ["batch 9", "batch 1"]
    assert bars.finding.endswith("): forward 100.0%.")


def test_a_record_is_named_without_its_date(tmp_path):
    folders = [sweep(tmp_path / name, [1.0]) for name in ("2026-11-29-h200", "2026-11-30-h200", "2026-11-30-a100")]
    assert [result.label for result in read_results(folders[1:])] == ["h200", "a100"]
    assert [result.label for result in read_results(folders[:2])] == ["2026-11-29-h200", "2026-11-30-h200"]


def test_what_was_measured_once_has_no_range(tmp_path):
    points = [point(1.0), point(2.0, batch_size=16)]
    assert not {"n", "lowest", "highest"} & rows(write(tmp_path / "once", points))[0].keys()
    assert {"n", "lowest", "highest"} <= rows(write(tmp_path / "twice", [*points, point(3.0, repeat=1)]))[0].keys()


def test_results_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [sweep(tmp_path / name, [1.0]) for name in ("a/x/y", "b/x/y", "z")]
    assert [result.label for result in read_results(folders)] == ["a/x/y", "b/x/y", "z"]


def test_a_sweep_s_own_processes_are_no_runs(tmp_path):
    folder = sweep(tmp_path, [1.0])
    write_log(folder / "runs" / "one", [9.0])
    assert read_results([folder])[0].runs == []


def test_steps_that_were_made_again_count_once(tmp_path):
    write_log(tmp_path, [9.0, 8.0, 7.0])
    again = [
        {"type": "LOG", "step": "PARAMETER", "data": {"first_step": 1, "arguments": {}}},
        {"type": "LOG", "step": [2], "data": {"average_loss": 5.0}},
    ]
    with open(tmp_path / "dllogger.json", "a", encoding="utf-8") as file:
        file.writelines(f"DLLL {json.dumps(event)}\n" for event in again)
    [run] = read_results([tmp_path])[0].runs
    assert run.phases[1].curve("average_loss") == [(1, 9.0), (2, 5.0)]


def log(folder, *events):
    """A log of (step, data) in a folder."""
    lines = [f"DLLL {json.dumps({'type': 'LOG', 'step': step, 'data': data})}\n" for step, data in events]
    (folder / "dllogger.json").write_text("".join(lines), encoding="utf-8")
    return folder


def start(first_step=0, **arguments):
    return "PARAMETER", {"first_step": first_step, "arguments": arguments}


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"task": "squad", "arguments": {}}, "SQuAD"),
        ({"task": "pretraining", "arguments": {"train_file": "a"}}, "phase 1"),
        ({"task": "glue", "arguments": {}}, "glue"),
    ],
)
def test_a_log_names_its_task(tmp_path, parameters, name):
    [run] = read_results([log(tmp_path, ("PARAMETER", parameters), ([0, 1], {"average_loss": 1.0}))])[0].runs
    assert run.name_of(1) == name


def test_each_phase_of_a_log_has_its_own_rate(tmp_path):
    phases = [start(), ([0, 9], {"average_loss": 7.0}), ([], {"sequences_per_second": 260.0})]
    phases += [start(phase2=True), ([0, 4], {"average_loss": 6.0}), ([], {"sequences_per_second": 36.0})]
    table = runs_table(read_results([log(tmp_path, *phases)])[0].runs)
    assert [(row["phase"], row["steps"], row["loss at end"], row["sequences/s"]) for row in table.rows] == [
        ("phase 1", "9", "7.000", "260.0"),
        ("phase 2", "4", "6.000", "36.0"),
    ]


def test_a_start_that_only_answers_takes_nothing_from_a_run_and_a_fresh_one_takes_all(tmp_path):
    trained = [start(), ([0, 5], {"average_loss": 2.0}), ([], {"sequences_per_second": 90.0})]
    answered = [start(do_train=False), ([], {"exact_match": 80.0})]
    [run] = read_results([log(tmp_path, *trained, *answered)])[0].runs
    assert (run.phases[1].curve("average_loss"), run.phases[1].throughput) == (
        [(5, 2.0)],
        {"sequences_per_second": 90.0},
    )
    [run] = read_results([log(tmp_path, *trained, start(), ([0, 1], {"average_loss": 4.0}))])[0].runs
    [phase] = run.phases.values()
    assert (phase.curve("average_loss"), phase.throughput) == ([(1, 4.0)], {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no"),
        (lambda folder: folder.mkdir(), "has no points.jsonl, dllogger.json"),
        (lambda folder: write(folder, [point(1.0) | {"schema": 7}]), "is no point of schema 1"),
        (
            lambda folder: (folder.mkdir(), (folder / "kernels.json").write_text("{}")),
            "no summary of a profile in schema 1",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "kernels.json").write_text("[]")),
            "is no summary of a profile in schema 1: it holds",
        ),
        (lambda folder: (folder.mkdir(), (folder / "timeline.json").write_text("{")), "schema 1: it is not JSON"),
    ],
)
def test_bad_results_end_in_a_sentence(tmp_path, make, message):
    make(tmp_path / "result")
    with pytest.raises(UserError, match=message):
        report(tmp_path / "result", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_with_nothing_in_common_cannot_be_compared(tmp_path):
    first, second = sweep(tmp_path / "a", [1.0]), write(tmp_path / "b", [point(1.0, batch_size=8), point(1.0)])
    with pytest.raises(UserError, match="no configuration in common"):
        report("compare", first, write(second, [point(1.0, batch_size=8), point(1.0, batch_size=16)]))


SUBSETS = st.fixed_dictionaries(
    {},
    optional={
        "sequences_per_second": st.floats(0.1, 1e6),
        "sequences_per_second_per_gpu": st.floats(0.1, 1e6),
        "tokens_per_second": st.floats(0.1, 1e6),
        "model_tflops_per_second": st.floats(0, 1e3),
        "part_seconds": st.dictionaries(st.sampled_from(["data", "forward", "other"]), st.floats(0, 1)),
        "peak_memory_allocated_bytes": st.integers(0, 10**12),
        "final_loss": st.one_of(st.floats(0, 20), st.just("NaN")),
        "loss_problem": st.one_of(st.none(), st.just("wrong | and\nbroken")),
    },
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(SUBSETS, min_size=1, max_size=3))
def test_any_subset_of_figures_makes_tables(subsets):
    points = [point(1.0, repeat=repeat) | {"measured": measured} for repeat, measured in enumerate(subsets)]
    [group] = measured([Result("made", points)])
    table = throughput_table(group)
    lines = table.markdown().splitlines()
    assert len({line.count(" | ") for line in lines if line.startswith("| ")}) == 1


@hypothesis.settings(max_examples=6)
@hypothesis.given(SUBSETS)
def test_any_subset_of_figures_makes_a_page(tmp_path_factory, measured):
    folder = write(tmp_path_factory.mktemp("made"), [point(1.0) | {"measured": measured}])
    report(folder)
    assert (folder / "report" / "report.html").stat().st_size


@pytest.mark.parametrize(
    ("environment", "title", "unit"),
    [
        ({"gpus": ["NVIDIA H200"] * 2, "cpu": "EPYC"}, "tokens (full), NVIDIA H200", "GPU"),
        ({"gpus": [], "cpu": "EPYC"}, "tokens (full), EPYC", "process"),
        ({}, "tokens (full)", "GPU"),
    ],
)
def test_pictures_name_the_machine_and_what_rates_are_per(tmp_path, environment, title, unit):
    points = [point(8.0 * size, batch_size=size) | {"environment": environment} for size in (8, 16)]
    plan = next(figures_of(write(tmp_path, points)))
    assert plan.title == f"Throughput: BERT-large pretrain 128 {title}"
    assert plan.finding.startswith(f"Highest: 128.0 sequences/s per {unit}, at 16 per step.")
    assert (plan.y_label, plan.x_label) == (f"sequences/s per {unit}", f"sequences per {unit} and step")


def test_a_roofline_leaves_out_what_takes_no_time(tmp_path):
    kernels = [
        {"name": "gemm", "seconds": 1.0, "launches": 1, "flops": 7e14, "dram_bytes": 1e12},
        {"name": "add", "seconds": 0.5, "launches": 1, "flops": 5e11, "dram_bytes": 2e12},
        {"name": "fill", "seconds": 1e-4, "launches": 1, "flops": 1.0, "dram_bytes": 1e6},
    ]
    ceilings = {"tensor_flops_per_second": 1e15, "dram_bytes_per_second": 5e12}
    (plan,) = roofline({"label": "x", "kernels": kernels, "ceilings": ceilings})
    assert plan.finding == ("gemm is the fastest of 2 kernels: 700.0 TFLOP/s, 70.0% of the tensor cores' peak.")
    discs, slope, flat = plan.series
    assert (discs.x, discs.y) == ([700.0, 0.25], [700.0, 1.0])
    assert (
        (slope.x[1], slope.y[1]) == (flat.x[0], flat.y[0]) == (200.0, 1000.0)
    )  # the ridge, in FLOP per byte and TFLOP/s
    assert slope.y[0] / slope.x[0] == pytest.approx(5.0)


def test_a_line_leads_through_medians_and_past_what_ended_otherwise(tmp_path):
    points = [point(rate, batch_size=8, repeat=repeat) for repeat, rate in enumerate((80.0, 100.0, 90.0))]
    points += [
        point(50.0, batch_size=4),
        point(9e9, batch_size=16, measured={"loss_problem": "wrong"}),
        point(batch_size=32, status="out_of_memory"),
    ]
    figure = next(figures_of(write(tmp_path, points)))
    line, *published = figure.series
    assert (line.x, line.y, line.spread) == ([4, 8], [50.0, 90.0], ([0.0, 10.0], [0.0, 10.0]))
    assert line.crosses == [(16, "wrong"), (32, "out of memory")]
    assert figure.finding.startswith("Highest: 90.0 sequences/s per GPU, at 8 per step. Lowest: 50.0, at 4. Memory")
    assert [guide.y for guide in published] == [[580.0], [694.0]]
    drawing.draw(figure, axes := Figure().add_subplot())
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] < 1000  # the wrong rate does not press the others flat
    assert [text.get_text() for text in axes.texts] == ["wrong", "out of memory"]


def test_the_shipped_report_is_that_of_its_points(tmp_path, monkeypatch):
    root = ROOT
    folder = root / "docs" / "reports"
    text = (folder / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = re.findall(r"^python3 benchmark/report.py (docs.*)$", text, re.MULTILINE)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sections, "render", lambda figure: figure._replace(images={"light": b"", "dark": b""}))
    report(*shlex.split(line), "--output_dir", tmp_path)  # the last counts
    shipped = (folder / "h200" / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == shipped
    assert {path.name for path in (folder / "h200").glob("*.png")} == set(re.findall(r"\]\((.*?\.png)\)", shipped))
