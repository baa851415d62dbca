"""A sweep that runs, with a failure and a full memory in it: what it keeps, and its page in a browser."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from paths import ROOT
from real_sweep import cpu_environment, start

from benchmark.report import main
from benchmark.sweeps.points import read_points

# 7 is no multiple of 2 and fails; of a micro-batch of 2**31 the lengths alone are 17 GB, past the limit of 16.
PLANTED = ("--batch_sizes", "7", str(2**32), "8", "--accumulation_steps", "2", "--repeats", "1")
LIMIT = 16_000_000  # KiB of addresses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Started in a folder that its paths are relative to."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(ROOT / "bert_configs" / "tiny.json", folder / "own.json")
    process = start("out", "--bert_model", "own.json", *PLANTED, limit=LIMIT, cwd=folder)
    printed, _ = process.communicate(timeout=300)
    return SimpleNamespace(folder=folder, output=folder / "out", status=process.returncode, printed=printed)


def test_a_failure_and_a_full_memory_are_points_too(sweep):
    assert sweep.status == 1, sweep.printed
    points = {point["configuration"]["batch_size"]: point for point in read_points(sweep.output)}
    assert {size: point["status"] for size, point in points.items()} == {
        7: "failed",
        2**32: "out_of_memory",
        8: "ok",
    }
    assert "not a multiple" in points[7]["error"]
    assert "not a multiple" in sweep.printed
    measured = points[8]["measured"]
    assert measured["measured_steps"] == 2
    assert measured["sequences"] == 2 * 8
    assert measured["tokens"] == 2 * 8 * 32
    assert measured["sequences_per_second"] == pytest.approx(16 / measured["seconds"])
    assert measured["sequences_per_second_per_gpu"] == measured["sequences_per_second"]
    assert set(measured["part_seconds"]) == {"data", "forward", "backward", "optimizer", "other"}
    assert sum(measured["part_seconds"].values()) == pytest.approx(measured["step_seconds"], rel=1e-6)
    percentiles = list(measured["step_seconds_percentiles"].values())
    assert percentiles == sorted(percentiles)
    assert measured["final_loss"] == pytest.approx(11.0, abs=0.5)  # random tokens of some 30,000, and a coin
    assert measured["loss_problem"] is None
    assert points[8]["environment"]["torch"]


def test_the_command_of_a_point_can_be_run_again_as_it_stands(sweep):
    (command,) = (p["command"] for p in read_points(sweep.output) if p["configuration"]["batch_size"] == 8)
    variables = cpu_environment()
    again = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=sweep.folder, env=variables
    )
    assert again.returncode == 0, again.stderr
    assert re.search(r"^  throughput +[\d,.]+ seq/s, ", again.stdout, re.MULTILINE)


def test_paths_are_of_the_folder_that_it_is_started_in(sweep):
    assert (sweep.output / "runs" / "pretrain_32_fp32_1x8_0" / "dllogger.json").is_file()


def test_the_page(sweep, browser):
    main([str(sweep.output)])
    opened = browser.new_page()
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((sweep.output / "report" / "report.html").as_uri())
    rows = opened.evaluate("[...document.querySelector('table').tBodies[0].rows].map(r => r.innerText.split('\\t'))")
    states = {row[1]: row[-1].strip() for row in rows}
    assert states == {"7": "failed", "8": "ok", "4,294,967,296": "out of memory"}
    assert "not a multiple" in opened.inner_text("main")
    assert opened.evaluate("document.images.length") >= 2
    assert said == []
    opened.close()
