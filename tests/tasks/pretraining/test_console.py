"""What a run of pre-training prints, from its first step to its end."""

import re

from pretraining_runs import command, make_inputs

import run_pretraining

SPEED = r"[\d,.]+ seq/s \| [\d,.]+ (M )?tok/s"
SCORES = r"masked LM \d+\.\d\d % right, loss \d\.\d{4} \| next sentence \d+\.\d\d % right, loss \d\.\d{4}"
LOSS = r"loss \d\.\d\d"


def printed(capsys, folder, **changes):
    """The lines from the first that tells of a step on, and what went to standard error."""
    flags = {"max_steps": 5, "log_freq": 2, "eval_dir": folder / "test", "disable_progress_bar": None, **changes}
    run_pretraining.main(command(folder, **flags))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    return lines[next(index for index, line in enumerate(lines) if "| step" in line) :], err


def check(lines, patterns):
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_lines_and_the_final_table(tmp_path, capsys):
    folder = make_inputs(tmp_path)
    lines, err = printed(capsys, folder, num_steps_per_evaluation=2, steps_this_run=4, skip_checkpoint=True)
    assert err == ""  # a progress bar is for terminals
    check(
        lines,
        [
            rf"phase 1 \| step 1/5 \| {LOSS}",
            rf"phase 1 \| step 2/5 \| {LOSS} \| {SPEED} \| ETA [\d.]+ s",
            rf"held-out \| step 2 \| {SCORES}",
            rf"phase 1 \| step 4/5 \| {LOSS} \| {SPEED}",
            r"no utilization: .*",
            r"phase 1 \| ended after step 4 of 5",
            r"  training loss  \d\.\d{4} \(mlm \d\.\d{4}, nsp \d\.\d{4}\)",
            r"  masked LM      \d+\.\d\d % right, loss \d\.\d{4}",
            r"  next sentence  \d+\.\d\d % right, loss \d\.\d{4}",
            r"  throughput     [\d,.]+ seq/s, [\d,.]+ (M )?tok/s",
            r"  step           [\d.,]+ ms, over 4 steps",
            r"  compute        [\d.]+ GFLOP/s",
            r"  time           [\d.]+ s, \d+% of it in steps",
            r"log: .*",
        ],
    )


def test_a_run_that_is_resumed_counts_on_in_its_phase(tmp_path, capsys):
    folder = make_inputs(tmp_path)
    printed(capsys, folder, steps_this_run=2)
    lines, _ = printed(capsys, folder, resume_from_checkpoint=True)
    assert re.fullmatch(rf"phase 1 \| step 3/5 \| {LOSS}", lines[0])
    phase2 = {"phase2": True, "phase1_end_step": 5, "max_steps": 1}
    lines, _ = printed(capsys, folder, resume_from_checkpoint=True, **phase2)
    assert re.fullmatch(rf"phase 2 \| step 1/1 \| {LOSS}", lines[0])


def test_scores_alone_are_a_table(tmp_path, capsys):
    folder = make_inputs(tmp_path)
    printed(capsys, folder)
    run_pretraining.main(
        command(folder, do_train=None, max_steps=None, eval_dir=folder / "test", resume_from_checkpoint=True)
    )
    *_, title, masked, next_sentence, time, _ = capsys.readouterr().out.splitlines()
    assert title == "phase 1 | scores"
    assert masked.startswith("  masked LM      ")
    assert next_sentence.startswith("  next sentence  ")
    assert time.startswith("  time           ")
