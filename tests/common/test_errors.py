"""Errors come out as sentences and an exit status."""

import errno
import pickle

import pytest

from common.errors import Problems, UserError, run_main

FULL = "error: There is no space left on the disk"


def test_problems_are_collected():
    problems = Problems()
    problems.raise_if_any()
    problems.check(True, "fine")
    problems.check([], "The list is empty.")
    problems.add("The sky is falling.")
    with problems.collect():
        raise UserError(["First.", "Second."])
    with pytest.raises(ValueError, match="other"), problems.collect():
        raise ValueError("other")
    with pytest.raises(UserError) as raised:
        problems.raise_if_any()
    assert raised.value.sentences == ["The list is empty.", "The sky is falling.", "First.", "Second."]
    assert str(raised.value) == "The list is empty.\nThe sky is falling.\nFirst.\nSecond."


def test_user_error_crosses_processes():
    assert str(pickle.loads(pickle.dumps(UserError(["One.", "Two."])))) == "One.\nTwo."


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("One."), 2, "error: One.\n"),
        (UserError(["One.", "Two."]), 2, "error: One.\nerror: Two.\n"),
        (OSError(errno.ENOSPC, "full", "a.txt"), 2, f"{FULL} for a.txt; free some, and start again.\n"),
        (OSError(errno.EDQUOT, "quota"), 2, f"{FULL}; free some, and start again.\n"),
        (
            OSError(errno.EACCES, "Permission denied", "a.txt"),
            2,
            "error: a.txt cannot be used (Permission denied); check the path and its permissions.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_status(capsys, error, status, text):
    with pytest.raises(SystemExit) as raised:
        run_main(raising(error))
    assert raised.value.code == status
    assert capsys.readouterr() == ("", text)


def test_success_and_bugs_pass_through():
    run_main(lambda: "anything")
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()))
    with pytest.raises(FileNotFoundError):
        run_main(raising(FileNotFoundError(errno.ENOENT, "no")))
