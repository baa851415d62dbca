"""Sections: what belongs together is together, and nothing is drawn or listed that says nothing."""

import pytest
from made_points import configuration, point, write

from benchmark.reports.data import measured, read_results
from benchmark.reports.published import published_table, references_for
from benchmark.reports.sections import plan_sections
from benchmark.reports.sweep_figures import sweep_figures
from benchmark.reports.tables import environment_table

AROUND_254 = {"max_seq_length": 512, "lengths": "evenly around 254"}


def sections(folder):
    return list(plan_sections(read_results([folder]), compare=False))


def figures(*points, tmp_path):
    [group] = measured(read_results([write(tmp_path, points)]))
    return {figure.title.split(":")[0]: figure for figure in sweep_figures(group)}


def test_a_workload_is_one_section(tmp_path):
    points = [point(float(size), batch_size=size, max_seq_length=length) for length in (128, 512) for size in (8, 16)]
    first, second, environment = sections(write(tmp_path, points))
    for section, length in ((first, 128), (second, 512)):
        assert section.tables[0].title == f"BERT-large pretrain {length} tokens (full)"
        assert [figure.name.rsplit("_", 1)[-1] for figure in section.figures] == [str(length)] * 3
        markdown = section.markdown()
        assert markdown.index("| configuration") < markdown.index("![") < markdown.index("### Published by others")
    assert environment.tables[0].title == "Environment"


def test_one_batch_size_is_a_sentence_and_no_picture(tmp_path):
    section, _ = sections(write(tmp_path, [point(1.0), point(2.0, compile=True), point(status="failed", batch_size=8)]))
    assert "No two batch sizes were measured" in section.markdown()
    assert "No two batch sizes were measured" in section._replace(figures=()).html()
    assert [figure.name for figure in section.figures] == ["step_pretrain_128"]


def test_columns_without_a_value_are_left_out_but_for_programs(tmp_path):
    [table, _], *_ = (section.tables for section in sections(write(tmp_path, [point(1.0)])))
    for words in (table.markdown(), table.html()):
        assert "loss at end" in words
        assert "tokens/s" not in words
        assert "of peak" not in words
    assert "tokens/s" in table.csv()


def test_commits_are_short_and_errors_name_no_machine(tmp_path):
    failed = point(status="failed") | {"error": 'File "/home/me/bert/a.py"\nRuntimeError: planted'}
    folder = write(tmp_path, [point(1.0, batch_size=8) | {"environment": {"git_commit": "0123456789abcdef"}}])
    assert environment_table(read_results([folder])).rows == [{"fact": "git_commit", folder.name: "012345678"}]
    markdown = sections(write(folder, [failed]))[0].markdown()
    assert 'File "a.py"' in markdown
    assert "/home" not in markdown


def test_clocks_power_and_times_of_steps_are_drawn_where_they_were_measured(tmp_path):
    def made(size, clock, watts, repeat=0):
        percentiles = {"min": 0.08, "p5": 0.09, "p50": 0.1, "p95": 0.12, "p99": 0.13, "max": 0.2}
        gpu = {"sm_clock_mhz": {"mean": clock}, "power_watts": {"mean": watts}}
        told = {"gpu": gpu, "step_seconds_percentiles": percentiles}
        return point(float(size), batch_size=size, repeat=repeat, measured=told)

    drawn = figures(made(8, 1900, 300), made(8, 1800, 320, 1), made(16, 1700, 690), tmp_path=tmp_path)
    [clock], [power] = drawn["Clock"].series, drawn["Power"].series
    assert (clock.x, clock.y, clock.spread) == ([8, 16], [1850, 1700], ([50, 0], [50, 0]))
    assert power.y == [310, 690]
    every, most = drawn["Times of steps"].series
    assert (every.x, every.y) == (pytest.approx([80, 80]), pytest.approx([200, 200]))
    assert (most.x, most.y) == (pytest.approx([90, 90]), pytest.approx([120, 120]))
    finding = "95 % of the steps take at most 120.0 ms, 99 % at most 130.0, the longest 200.0."
    assert drawn["Times of steps"].finding.endswith(finding)
    assert drawn["Times of steps"].rows == ["batch 8, median 100.0 ms", "batch 16, median 100.0 ms"]
    bare = figures(point(1.0, batch_size=8), point(2.0, batch_size=16), tmp_path=tmp_path / "bare")
    assert bare.keys() == {"Throughput", "Where a step goes", "Memory"}


def test_rows_of_a_picture_say_what_tells_them_apart(tmp_path):
    drawn = figures(point(1.0, flags="--a"), point(2.0, flags="--a", compile=True), tmp_path=tmp_path)
    assert drawn["Where a step goes"].rows == ["batch 64, 100.0 ms", "batch 64, 100.0 ms, compiled"]
    assert drawn["Where a step goes"].finding.startswith("Batch 64 (bf16, compiled, --a, steps 6 to 25): data ")


def test_published_figures_stand_only_beside_the_same_work():
    def published(**changes):
        return [reference["rate"] for reference in references_for(configuration(**changes))]

    assert published() == [580, 694]
    assert published(max_seq_length=512) == [210, 264]
    assert published(**AROUND_254) == [1060, 1024, 1459]
    assert published(max_seq_length=512, lengths="evenly around 64") == []
    assert published(workload="squad", max_seq_length=384) == [110.5, 123]
    assert published(model="base") == []
    assert published(max_seq_length=256) == []


def test_published_figures_say_of_whom_they_are_and_what_was_counted():
    table = published_table(configuration(**AROUND_254))
    assert [row["GPU"] for row in table.rows] == ["4 x H100", "8 x H200", "8 x B200"]
    assert all("whole run" in row["counted"] and "mlcommons" in row["source"] for row in table.rows)
    assert '<a href="https://github.com/mlcommons/training_results_v5.0">' in table.html()
    assert "no ratio is computed" in table.markdown()
