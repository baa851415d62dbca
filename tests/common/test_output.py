"""Output that can no longer be written: commands go on where nobody reads it, and training always."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from common.output import forgiving_output

PRINTING = """
import sys
from common.errors import run_main

def main():
    for number in range(3):
        print("text", number, flush=number == 1)
        print("more", file=sys.stderr)
    open(sys.argv[1], "w").write("done")

run_main(main)
"""


def run(done, *redirections):
    """The status of a command under a shell's redirections, and what it printed on standard error."""
    words = ["bash", "-c", f'"$0" "$@" {" ".join(redirections)}', sys.executable, "-c", PRINTING, done]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("redirections", ["> >(true)", "2> >(true)", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_goes_on_when_nobody_reads(tmp_path, redirections):
    status, errors = run(tmp_path / "done", redirections)
    assert (status, (tmp_path / "done").read_text()) == (0, "done")
    assert "Error" not in errors


def test_a_command_does_not_hide_that_what_it_printed_is_lost(tmp_path):
    status, errors = run(tmp_path / "done", ">/dev/full")
    assert status == 2
    assert errors.splitlines()[-1] == "error: There is no space left on the disk; free some, and start again."


def test_inside_anything_may_be_lost_and_nothing_is_left_of_it(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with forgiving_output():
            for _ in range(10000):
                print("more than a buffer holds")
            print("flushed", flush=True)
            assert sys.stdout.fileno() == full.fileno()
        assert sys.stdout is full
        print("to nowhere")
