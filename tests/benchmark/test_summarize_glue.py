"""The table of GLUE's scores, from logs written by hand: several seeds, several tasks, files that are no log."""

import json
import statistics

import pytest

from benchmark.summarize_glue import main
from common.errors import UserError


def write_log(path, task, *summaries, more=()):
    events = [{"type": "LOG", "step": "PARAMETER", "data": {"arguments": {"task_name": task}}}]
    events += [{"type": "LOG", "step": [], "data": values} for values in summaries]
    path.write_text("".join(f"DLLL {json.dumps(event)}\n" for event in (*events, *more)), encoding="utf-8")
    return str(path)


def rows(capsys):
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:] if line.startswith("|")], lines


def test_seeds_have_a_mean_and_a_spread(tmp_path, capsys):
    scores = (0.84, 0.86, 0.6838)
    logs = [
        write_log(
            tmp_path / f"mrpc {seed}",
            "mrpc",
            {"accuracy": score, "f1": score + 0.04, "score": score + 0.02, "sequences_per_second": 100.0 + seed},
        )
        for seed, score in enumerate(scores)
    ]
    # Later starts of a run count, and what they do not tell stays; the diagnostic set is another task's start.
    start = {"type": "LOG", "step": "PARAMETER", "data": {"arguments": {"task_name": "ax"}}}
    end = {"type": "LOG", "step": [], "data": {"inference_sequences_per_second": 900}}
    earlier = {"accuracy": 0.1, "mismatched_accuracy": 0.1, "score": 0.1, "sequences_per_second": 70}
    later = {"accuracy": 0.8, "mismatched_accuracy": 0.9, "score": 0.85}
    logs.append(write_log(tmp_path / "mnli", "mnli", earlier, later, more=(start, end)))
    main(logs)
    (mrpc, mnli), lines = rows(capsys)
    mean, spread = 100 * statistics.mean(scores) + 2, f"± {100 * statistics.stdev(scores):.2f}"
    accuracy, f1 = f"{mean - 2:.2f} {spread}", f"{mean + 2:.2f} {spread}"
    assert mrpc[:3] == ["MRPC", "3", f"accuracy {accuracy}, f1 {f1}"]
    assert mrpc[3:] == [f"{mean:.2f} {spread}", "86.00", "70.38", "101.0", "-"]
    said = "accuracy 80.00, mismatched accuracy 90.00"
    assert mnli == ["MNLI", "1", said, "85.00", "85.00", "85.00", "70.0", "900.0"]
    assert lines[-1] == f"mean of 2 tasks: {(mean + 85) / 2:.2f}"


def test_all_that_is_wrong_with_the_logs_is_said(tmp_path):
    (tmp_path / "text").write_text("no log")
    logs = [str(tmp_path / "nowhere"), str(tmp_path / "text"), write_log(tmp_path / "unscored", "rte", {"loss": 1})]
    logs.append(write_log(tmp_path / "squad", "squad", {"score": 1}))
    with pytest.raises(UserError) as caught:
        main(logs)
    sentences = caught.value.sentences
    assert len(sentences) == 4
    assert "cannot be read" in sentences[0]
    assert all("has no scores of GLUE" in sentence for sentence in sentences[1:])
