#!/usr/bin/env python3
"""Strikes a training run at random moments, resumes it, and compares its losses with those of an undisturbed run.

  python3 tests/soak.py --minutes 10

Each round trains with one process or with two under torchrun, by the command that a user types. A strike is a signal
to one of the processes. Whoever is only stopped (SIGSTOP) is continued within seconds, or is killed once the others
have ended. pytest does not collect this file: it takes as long as it is given.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))
from distributed_runs import PYTHON, TORCHRUN
from pretraining_runs import command, curve, make_inputs

STEPS = 40
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
SECONDS = 120  # in which any start must end once it was struck


def start(arguments: list[str], size: int, log: Path) -> subprocess.Popen:
    """A run as a user starts it, in a session of its own; what it prints is added to the log."""
    words = (TORCHRUN if size == 2 else PYTHON[:1]) + PYTHON[1:] + arguments
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)


def strike(run: subprocess.Popen, seconds: float, draw: random.Random) -> str | None:
    """Strike one of the run's processes after so long, and wait until all have ended; None: it had ended before."""
    try:
        run.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        ours = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    victim, number = draw.choice(ours), draw.choice(SIGNALS)
    victim.send_signal(number)
    if number == signal.SIGSTOP and draw.random() < 0.5:
        time.sleep(draw.uniform(0, 5))
        victim.resume()
    if number == signal.SIGSTOP:
        psutil.wait_procs([process for process in ours if process != victim], timeout=60)
        for process in ours:
            if process.is_running():
                process.kill()
    left = psutil.wait_procs(ours, timeout=SECONDS)[1]
    assert not left, f"{number.name}: {left} still run after {SECONDS} s"
    run.wait()
    return number.name


def soak(folder: Path, deadline: float, draw: random.Random) -> collections.Counter[str]:
    """Rounds until the deadline; how often which signal struck."""
    struck: collections.Counter[str] = collections.Counter()
    flags = {"max_steps": STEPS, "num_steps_per_checkpoint": 4, "resume_from_checkpoint": True}
    flags |= {"eval_dir": folder / "test", "num_steps_per_evaluation": 8}
    expected, seconds = {}, {}
    for size in (1, 2):
        begin = time.monotonic()
        arguments = command(folder, **flags, output_dir=folder / f"straight_{size}")
        assert start(arguments, size, folder / "log").wait() == 0, (folder / "log").read_text()
        expected[size], seconds[size] = curve(folder / f"straight_{size}"), time.monotonic() - begin
    while time.monotonic() < deadline:
        size, output = draw.choice((1, 2)), folder / f"round_{struck['rounds']}"
        arguments, log = command(folder, **flags, output_dir=output), output.with_suffix(".log")
        for _ in range(4):
            if name := strike(start(arguments, size, log), draw.uniform(0.3, 1) * seconds[size], draw):
                struck[name] += 1
        assert start(arguments, size, log).wait() == 0, log.read_text()
        assert curve(output) == expected[size], f"other losses or scores: {output}"
        assert not list(output.glob(".ckpt_*")), output
        struck["rounds"] += 1
        print(dict(struck), flush=True)
    return struck


def main() -> None:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the strikes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(make_inputs(Path(folder)), time.monotonic() + 60 * args.minutes, random.Random(args.seed))


if __name__ == "__main__":
    main()
