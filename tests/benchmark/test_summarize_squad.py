"""The table of SQuAD's scores, from logs written by hand: several files, several logs, files that are no log."""

import json

import pytest

from benchmark.summarize_squad import main
from common.errors import UserError


def start(predict_file, do_train=False):
    arguments = {"predict_file": predict_file, "do_train": do_train}
    return {"type": "LOG", "step": "PARAMETER", "data": {"arguments": arguments, "first_step": 0}}


def step(number):
    return {"type": "LOG", "step": [0, number], "data": {"average_loss": 1.0}}


def summary(**values):
    return {"type": "LOG", "step": [], "data": values}


def write_log(path, *events):
    path.write_text("".join(f"DLLL {json.dumps(event)}\n" for event in events), encoding="utf-8")
    return str(path)


TRAINED = (
    start("a/train.json", do_train=True),
    step(1),
    step(1200),
    summary(exact_match=90.04, f1=91.06, total=1650, sequences_per_second=82.44, inference_sequences_per_second=501.2),
)


def rows(capsys):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]


def test_each_file_has_a_row_and_the_last_time_counts(tmp_path, capsys):
    again = [start("dev.json"), summary(exact_match=1.0, f1=2.0, total=53)]
    last = [start("dev.json"), summary(exact_match=15.09, f1=16.0, total=53, inference_sequences_per_second=7)]
    main([write_log(tmp_path / "log", *TRAINED, *again, *last)])
    assert rows(capsys) == [
        ["train.json", "1,650", "90.0", "91.1", "1,200", "82.4", "501.2"],
        ["dev.json", "53", "15.1", "16.0", "1,200", "82.4", "7.0"],
    ]


def test_several_logs_and_what_is_missing(tmp_path, capsys):
    logs = [
        write_log(tmp_path / "a", *TRAINED),
        write_log(tmp_path / "b", start("dev.json"), summary(exact_match="NaN")),
    ]
    main(logs)
    assert [row[:2] for row in rows(capsys)] == [[logs[0], "train.json"], [logs[1], "dev.json"]]


def test_all_that_is_wrong_with_the_logs_is_said(tmp_path):
    (tmp_path / "text").write_text("no log")
    logs = [str(tmp_path / "nowhere"), str(tmp_path / "text"), write_log(tmp_path / "unscored", step(1))]
    with pytest.raises(UserError) as caught:
        main(logs)
    for sentence, words in zip(
        caught.value.sentences, ("cannot be read", "no DLLogger line", "no scores"), strict=True
    ):
        assert words in sentence
