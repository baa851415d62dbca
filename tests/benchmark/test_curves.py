"""Means over stretches and their differences by hand, and the status that says whether curves agree."""

import pytest

from benchmark.curves import main
from common.errors import UserError
from training.metrics.logger import MetricsLogger


def write_log(path, losses, **arguments):
    """A log of a run with these losses by step."""
    with MetricsLogger(path, console=False) as logger:
        logger.parameters({"arguments": {"do_train": True, **arguments}, "first_step": 0})
        for step, loss in losses.items():
            logger.log((0, step), {"average_loss": loss})
    return str(path)


@pytest.fixture
def logs(tmp_path):
    def write(baseline, result):
        return write_log(tmp_path / "baseline.json", baseline), write_log(tmp_path / "result.json", result)

    return write


def test_means_are_over_the_steps_that_both_logged(logs, capsys):
    arguments = logs({1: 4.0, 2: 3.0, 3: 2.0, 5: 1.0}, {1: 4.5, 2: 3.5, 4: 9.0, 5: 0.0})
    main([*arguments, "--stretch", "2", "--bound", "1"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert rows[2:-1] == [["1 to 2", "3.5000", "4.0000", "+0.5000"], ["5 to 5", "1.0000", "0.0000", "-1.0000"]]


@pytest.mark.parametrize(
    ("result", "more", "agree"),
    [
        ({1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0}, [], True),
        ({1: 8.1, 2: 6.9, 3: 6.05, 4: 4.95}, [], True),  # single steps differ by more than their means
        ({1: 8.0, 2: 7.0, 3: 6.1, 4: 5.1}, [], False),
        ({1: 8.0, 2: 7.0, 3: 5.9, 4: 4.9}, [], False),  # better is different, too
        ({1: 8.0, 2: 7.0, 3: 6.1, 4: 5.1}, ["--bound", "0.2"], True),
        ({1: 9.0, 2: 7.0, 3: 6.0, 4: 5.0}, ["--from_step", "3"], True),
        ({1: 8.0, 2: 7.0, 3: 6.0, 4: float("nan")}, [], False),
    ],
)
def test_the_bound(logs, capsys, result, more, agree):
    arguments = [*logs({1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0}, result), "--stretch", "2", "--bound", "0.05", *more]
    if agree:
        main(arguments)
    else:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith(f"The curves {'agree' if agree else 'differ'}: ")
    assert [line.split("|")[1].strip() for line in printed[2:-1]] == ["1 to 2", "3 to 4"]


def test_what_cannot_be_compared(logs, tmp_path):
    baseline, result = logs({1: 8.0}, {2: 8.0})
    with pytest.raises(UserError, match="share no logged step from 1 on"):
        main([baseline, result])
    with pytest.raises(UserError, match="has no step of phase 2; give --phase 1"):
        main([baseline, baseline, "--phase", "2"])
    with pytest.raises(UserError) as raised:
        main([baseline, str(tmp_path / "nothing.json"), "--bound", "0", "--stretch", "0"])
    assert len(raised.value.sentences) == 3
