"""No command outlives the scripts that started it, however they end and whatever lies between; others do."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from paths import ROOT
from ranks import PATIENCE

# What run_main starts: says its number, and on SIGTERM that it was asked to end; STUBBORN ones do not end by that.
WAITING = """
import os, signal, sys, time
from common import lifetime
from common.errors import run_main

def main():
    signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True) or "stubborn" in sys.argv or sys.exit(75))
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.05)

lifetime.SECONDS_TO_END = 0.3
run_main(main)
"""
COMMAND = f"'{sys.executable}' -c '{WAITING}'"
SCRIPT = f"source {ROOT}/scripts/configuration.sh"
STARTED = {
    "by a script": f"{SCRIPT}; {COMMAND}; true",
    "by a script that becomes another command": f"{SCRIPT}; exec bash -c '{SCRIPT}; \"$@\"; true' x {COMMAND}",
    "in a session of its own": f"{SCRIPT}; setsid {COMMAND} & wait",
    "by a script of a script": f"{SCRIPT}; bash -c '{SCRIPT}; \"$@\"; true' x setsid {COMMAND}; true",
    "deaf to SIGTERM": f"{SCRIPT}; {COMMAND} stubborn; true",
}


def start(script):
    """A shell that runs this, and the number that its command says."""
    environment = {name: value for name, value in os.environ.items() if name != "BERT_LAUNCHERS"}
    environment |= {"PYTHONPATH": str(ROOT)}
    shell = subprocess.Popen(["bash", "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    return shell, psutil.Process(int(shell.stdout.readline()))


@pytest.mark.parametrize("how", STARTED)
def test_a_command_ends_with_the_script_that_was_killed(how):
    shell, command = start(STARTED[how])
    assert command.is_running()
    shell.kill()
    shell.wait()
    assert psutil.wait_procs([command], timeout=PATIENCE)[1] == []
    assert shell.stdout.read() == "asked\n"


def test_a_script_that_is_gone_already_is_noticed():
    ended = subprocess.Popen(["true"])
    ended.wait()
    command = [sys.executable, "-c", WAITING]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BERT_LAUNCHERS": str(ended.pid)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode in (75, -signal.SIGTERM)
    assert ran.stderr == "warning: the command that started this one has ended, so it ends too\n"


def test_what_no_script_of_ours_started_goes_on_without_its_shell():
    shell, command = start(f"nohup {COMMAND} & wait")
    try:
        shell.kill()
        shell.wait()
        time.sleep(0.2)
        assert command.is_running()
        assert command.status() != psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            command.kill()
