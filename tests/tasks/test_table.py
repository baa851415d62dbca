"""tasks/table.py: what every task has to say of itself, and the command that runs any of them."""

import dataclasses
import re

import pytest

from common.errors import UserError
from tasks.__main__ import main
from tasks.setup import parse_arguments
from tasks.table import TASKS
from training.config.settings import SHARED


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_what_the_protocol_reads(name):
    task = TASKS[name]
    assert task.name == name
    settings = parse_arguments(task, ["--output_dir", "out"])
    assert not settings.trains
    assert settings.max_seq_length > 0
    assert settings.record["output_dir"] == "out"
    flags = {field.name for field in dataclasses.fields(task.flags)}
    assert flags >= {"do_train", "max_seq_length"}
    assert set(settings.record) > flags | task.defaults.keys()
    assert {key: settings.record[key] for key in task.defaults} == task.defaults
    assert len(task.loss_names) >= 1
    assert not task.__abstractmethods__


@pytest.mark.parametrize("name", TASKS)
def test_help_explains_ten_flags_in_a_line_each_and_all_when_asked(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    task, shown = TASKS[name], {}
    for words in ((), ("all",)):
        with pytest.raises(SystemExit) as stopped:
            parse_arguments(task, ["--help", *words])
        assert stopped.value.code == 0
        shown[words] = capsys.readouterr().out
    explained, named = shown[()].split("Flags to begin with:\n")[1].split("\n\n", 1)
    assert [line.split()[0] for line in explained.splitlines()] == [f"--{name}" for name in task.first_flags]
    assert len(task.first_flags) == 10
    assert len(shown[()].splitlines()) < 70
    fields = [field for group in (task.flags, *SHARED) for field in dataclasses.fields(group)]
    flags = [names for field in fields if (names := field.metadata["names"] or (f"--{field.name}",))]
    assert len(flags) > 70
    for names in flags:
        assert re.search(rf"(^|\s){names[0]}(\s|$)", explained + "\n" + named, re.MULTILINE)
        assert len(re.findall(rf"^  {names[0]}(?=[ ,\n])", shown[("all",)], re.MULTILINE)) == 1
    for field in fields:
        assert "".join(field.metadata["help"].split()) in "".join(shown[("all",)].split())


def test_a_task_is_run_by_its_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["squad", "--help"])
    assert stopped.value.code == 0
    assert "--doc_stride" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["no_such_task"]])
def test_a_task_that_is_not_there(arguments):
    with pytest.raises(UserError, match="give one of pretraining, squad, glue"):
        main(arguments)
