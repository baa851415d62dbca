"""scripts/measure_scaling.sh: its variables become flags of benchmark/scaling.py, which checks them."""

import os

import pytest
from script_runs import run

from benchmark.scaling import parse_arguments

SCRIPT = "scripts/measure_scaling.sh"


@pytest.fixture
def flags_of(tmp_path):
    """What the script starts with these words and variables, as benchmark/scaling.py reads it."""
    stub = tmp_path / "bin" / "python3"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\ncase "$1" in -c | *settings_check.py) exit ;; esac\nprintf "%s\\n" "$@" >asked\n')
    stub.chmod(0o755)

    def started(*words, **variables):
        path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
        ended = run(SCRIPT, *words, cwd=tmp_path, PATH=path, **variables)
        assert ended.returncode == 0, ended.stderr
        program, *flags = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
        assert program.endswith("/benchmark/scaling.py")
        return vars(parse_arguments(flags))

    return started


def test_without_variables_it_asks_for_what_is_default_there(flags_of):
    asked = flags_of()
    assert asked.pop("output_dir").parts[-2:] == ("results", "scaling")
    default = vars(parse_arguments(["--output_dir", "any"]))
    assert asked == {name: value for name, value in default.items() if name != "output_dir"}


def test_variables_and_words_become_flags(flags_of):
    variables = {"WORKLOADS": "phase1 squad", "NUM_GPUS": "1 2", "PRECISIONS": "fp32", "ACCUMULATION_STEPS": "2"}
    variables |= {"MICRO_BATCH": 4, "COMPILE": 1, "SIDE_BY_SIDE": 0, "TIME_LIMIT": 240, "POINT_TIMEOUT": 60}
    asked = flags_of("3", "9", "--seed", "5", **variables, RESULTS_DIR="my results", ESTIMATE=1, BERT_MODEL="base")
    assert {name: asked[name] for name in ("workloads", "num_gpus", "precisions", "accumulation_steps")} == {
        "workloads": ["phase1", "squad"],
        "num_gpus": [1, 2],
        "precisions": ["fp32"],
        "accumulation_steps": [2],
    }
    names = ("micro_batch", "compile", "side_by_side", "time_limit", "timeout", "start", "stop", "estimate")
    assert [asked[name] for name in names] == [4, 1, 0, 240.0, 60.0, 3, 9, True]
    assert (str(asked["output_dir"]), asked["bert_model"], asked["extra"]) == ("my results", "base", ["--seed", "5"])


def test_a_switch_that_is_none_is_refused(tmp_path):
    ended = run(SCRIPT, cwd=tmp_path, ESTIMATE="yes", RESULTS_DIR=tmp_path / "results")
    assert (ended.returncode, ended.stderr) == (2, "error: ESTIMATE is 'yes'; set it to 1 or 0.\n")
    assert not (tmp_path / "results").exists()
