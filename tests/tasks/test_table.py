"""tasks/table.py: what every task has to say of itself, and the command that runs any of them."""

import dataclasses

import pytest

from common.errors import UserError
from tasks.__main__ import main
from tasks.setup import parse_arguments
from tasks.table import TASKS


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


def test_a_task_is_run_by_its_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["squad", "--help"])
    assert stopped.value.code == 0
    assert "--doc_stride" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["no_such_task"]])
def test_a_task_that_is_not_there(arguments):
    with pytest.raises(UserError, match="give one of pretraining, squad, glue"):
        main(arguments)
