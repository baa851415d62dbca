"""scripts/measure_fast_paths.sh: what it says of its variables, and that a part which fails stops no other."""

import os

import pytest
from script_runs import run

SCRIPT = "scripts/measure_fast_paths.sh"


def test_all_that_is_wrong_is_said_at_once_and_nothing_written(tmp_path):
    wrong = {"PARTS": "steps dance", "WORKLOADS": "phase3", "VARIANTS": "eager slow", "BERT_MODEL": "huge"}
    ended = run(SCRIPT, cwd=tmp_path, **wrong, DATA_DIR=tmp_path / "nowhere", RESULTS_DIR=tmp_path / "results")
    assert ended.returncode == 2
    sentences = ended.stderr.splitlines()
    named = ("PARTS has 'dance'", "WORKLOADS has 'phase3'", "VARIANTS has 'slow'", "BERT_MODEL has 'huge'", "nowhere'")
    assert len(sentences) == len(named)
    for sentence, part in zip(sentences, named, strict=True):
        assert part in sentence
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("status", [0, 1])
def test_curves_remove_nothing_and_are_compared_only_where_both_were_trained(tmp_path, status):
    mine = tmp_path / "results" / "curves" / "bf16" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    stub = tmp_path / "bin" / "python3"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit\necho "$1"\nexit {status}\n')
    stub.chmod(0o755)
    variables = {"PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}", "PARTS": "curves", "DATA_DIR": tmp_path}
    ended = run(SCRIPT, cwd=tmp_path, RESULTS_DIR=tmp_path / "results", **variables)
    assert ended.returncode == status
    assert mine.exists()
    assert ended.stdout.count("run_pretraining.py\n") == 3
    assert ended.stdout.count("benchmark/curves.py\n") == (0 if status else 2)


def test_code_in_batch_sizes_is_not_run(tmp_path):
    sizes = f"32 BASH_VERSINFO[$(touch\t{tmp_path}/ran)]"  # bash doubles them
    ended = run(SCRIPT, cwd=tmp_path, WORKLOADS="unpadded", PARTS="steps", PHASE2_BATCH_SIZES=sizes)
    assert ended.stderr == f"error: PHASE2_BATCH_SIZES is '{sizes}'; set it to whole numbers from 1 to 999999999.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_part_is_measured_kept_and_shown_while_another_fails_and_is_named(tmp_path):
    results = tmp_path / "my results"
    variables = {"BERT_MODEL": "tiny", "WORKLOADS": "squad phase1", "SQUAD_BATCH_SIZES": "0"}
    variables |= {"PHASE1_BATCH_SIZES": "1 2", "PARTS": "steps curves", "VARIANTS": "eager", "RESULTS_DIR": results}
    ended = run(SCRIPT, cwd=tmp_path, **variables)
    assert ended.returncode == 1
    assert "error: --batch_size is 0; it must be 1 or more." in ended.stdout
    assert ended.stderr.splitlines()[-1] == f"Failed: steps_squad. The output of each is in {results}."
    kept = (results / "steps_phase1.txt").read_text(encoding="utf-8")
    assert kept in ended.stdout
    assert [line.split("|")[2].strip() for line in kept.splitlines() if line.startswith("| eager")] == ["1", "2"]
    assert "curves: left out, as DATA_DIR names no shards" in ended.stdout
    assert sorted(os.listdir(results)) == ["steps_phase1.txt", "steps_squad.txt"]
