"""scripts/quickstart.sh: what it replaces, what it prints, and the one log file."""

import json
import re
import shlex

import pytest
from paths import ROOT
from script_runs import run, shown_settings

from benchmark import quickstart
from common.errors import UserError
from training.metrics.logger import read_log


def test_it_replaces_no_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work", encoding="utf-8")
    variables = {"OUTPUT_DIR": tmp_path, "VOCAB_FILE": tmp_path / "absent.txt", "VOCAB_SIZE": "many"}
    ended = run("scripts/quickstart.sh", cwd=tmp_path, **variables)
    assert ended.returncode == 2
    assert [line.split()[1] for line in ended.stderr.splitlines()] == ["VOCAB_FILE", "OUTPUT_DIR", "VOCAB_SIZE"]
    assert (tmp_path / "data" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_an_unknown_flag_keeps_what_an_earlier_one_made(tmp_path):
    (tmp_path / "pretraining").mkdir()
    (tmp_path / ".quickstart").touch()
    (tmp_path / "pretraining" / "ckpt_3.pt").write_text("weights", encoding="utf-8")
    ended = run("scripts/quickstart.sh", "--bogus", cwd=tmp_path, OUTPUT_DIR=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.endswith("error: unrecognized arguments: --bogus; --help lists all flags.\n")
    assert (tmp_path / "pretraining" / "ckpt_3.pt").read_text(encoding="utf-8") == "weights"


def test_a_step_that_fails_shows_the_end_of_the_log(tmp_path, capsys):
    log = tmp_path / "quickstart.log"

    def fail():
        with quickstart.printing_to(log):
            print(*range(100), sep="\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    told, title, *lines = capsys.readouterr().out.splitlines()
    assert (told, title) == (" failed", f"The last lines of {log}:")
    assert lines == [f"  {number}" for number in range(85, 100)]


def test_without_the_script_there_are_no_settings(monkeypatch):
    monkeypatch.delenv("PHASE1_STEPS", raising=False)
    with pytest.raises(UserError, match=r"start that: bash .*scripts/quickstart\.sh"):
        quickstart.main([])


def test_what_a_step_prints_is_in_the_log_alone(tmp_path, capsys):
    log = tmp_path / "quickstart.log"
    for text in ("first", "second"):
        with quickstart.printing_to(log):
            print(text)
    assert capsys.readouterr() == ("", "")
    assert log.read_text(encoding="utf-8") == "first\nsecond\n"


def test_the_next_commands_are_scripts_of_the_project():
    commands = [shlex.split(command) for command in quickstart.next_commands()]
    assert len(commands) == 3
    for words in commands:
        variables, script = words[: words.index("bash")], words[words.index("bash") + 1]
        assert (ROOT / script).is_file()
        assert all(f"${{{word.partition('=')[0]}:-" in settings_of_all(script) for word in variables)


def settings_of_all(script):
    """The text of a script and of those that it sources for throughput."""
    sourced = (ROOT / "scripts" / "measure_throughput.sh").read_text(encoding="utf-8")
    return (ROOT / script).read_text(encoding="utf-8") + sourced


def test_the_readme_shows_the_steps_that_are_taken(tmp_path):
    settings = shown_settings("scripts/quickstart.sh", tmp_path)
    steps = [what for what, _ in quickstart.Quickstart({**settings, "OUTPUT_DIR": "out"}, []).steps()]
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```\n")
    (block,) = (text for text in shown if text.startswith("1/6 "))
    assert re.findall(r"^\d/\d (.*) \.\.\. \d+ s$", block, re.MULTILINE) == steps
    for phase in ("1", "2"):
        assert re.search(rf"^  phase {phase} .* in {settings[f'PHASE{phase}_STEPS']} steps$", block, re.MULTILINE)


def steps_by_phase(log):
    """The steps that were trained, in the order of the log."""
    steps, phase = {1: [], 2: []}, None
    for event in read_log(log):
        if event.get("step") == "PARAMETER":
            phase = 2 if event["data"]["arguments"].get("phase2") else 1
        elif isinstance(event.get("step"), list) and "average_loss" in event["data"]:
            steps[phase].append(event["step"][-1])
    return steps


@pytest.mark.slow
def test_the_whole(tmp_path):
    short = {
        "PHASE1_STEPS": 3,
        "PHASE2_STEPS": 4,
        "PHASE1_GLOBAL_BATCH": 8,
        "PHASE1_MICRO_BATCH": 4,
        "PHASE2_GLOBAL_BATCH": 2,
        "PHASE2_MICRO_BATCH": 2,
        "SQUAD_STEPS": 2,
        "LOG_FREQ": 1,
    }
    output = tmp_path / "quick start"
    made = {"OUTPUT_DIR": output.name, "N_PROCESSES": 1, "VOCAB_SIZE": 1000}
    ended = run("scripts/quickstart.sh", "--steps_this_run", 3, cwd=tmp_path, **made, **short)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) <= 60
    assert lines[0] == "Details: quick start/quickstart.log"
    assert any(re.fullmatch(r"Done in \d+ seconds\.", line) for line in lines)
    rows = dict(re.findall(r"^  (.+?)  +(\S.*)$", ended.stdout.split("BERT on the sample corpus")[1], re.MULTILINE))
    assert rows["report"] == "quick start/report/report.html"
    assert rows["share of peak"].startswith("no peak known") or "TFLOP/s" in rows["share of peak"]
    for phase in ("phase 1", "phase 2"):
        speed = r"[\d,.]+ sequences/s, [\d,]+ tokens/s"
        assert re.fullmatch(rf"{speed}; loss \d\.\d+ to \d\.\d+ in 3 steps", rows[phase])
    assert re.fullmatch(r"\d+\.\d% of the masked tokens are found", rows["held-out"])
    assert re.fullmatch(r"EM \d+\.\d, F1 \d+\.\d on 165 questions", rows["SQuAD, trained on"])
    assert re.fullmatch(r"EM \d+\.\d, F1 \d+\.\d on 53 questions", rows["SQuAD, new"])
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Training loss, phase 1", "Training loss, SQuAD"))
    assert len(json.loads((output / "squad" / "predictions.json").read_text(encoding="utf-8"))) == 53
    vocabulary = (output / "vocab.txt").read_text(encoding="utf-8").splitlines()
    shape = json.loads((output / "bert_config.json").read_text(encoding="utf-8"))
    assert shape["vocab_size"] == len(vocabulary) == 1000
    assert steps_by_phase(output / "pretraining" / "dllogger.json") == {1: [1, 2, 3], 2: [1, 2, 3]}
    assert "verified: " in (output / "quickstart.log").read_text(encoding="utf-8")
