"""One measurement of a sweep: a fresh process of the real entry, and what its log or its end says.

The entry is the one that users train with, so what is measured is what they get. Nothing of an earlier point is left in
a fresh process: no cached memory, no compiled code, no warm clocks but the GPU's own.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from benchmark.logs import Run, read_run
from benchmark.sweeps.points import SCHEMA, Point
from common.addresses import without_secrets
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = MappingProxyType({"pretrain": "run_pretraining.py", "squad": "run_squad.py"})
LAST_LINES = 15
SECONDS_TO_STOP = 30
SECONDS_BETWEEN_LOOKS = 0.2  # at what would stop a measurement
# CUDA's, PyTorch's for the CPU, NumPy's, the system's; and the end that Linux makes of processes when memory runs out.
OUT_OF_MEMORY = re.compile(
    r"(?i)out of memory|(can't|cannot|unable to) allocate|MemoryError|std::bad_alloc|ALLOC_FAILED|SIGKILL"
)


def command(configuration: dict[str, Any], data: list[str], output_dir: Path) -> list[str]:
    """The command line of a measurement: `data` are flags that say what to train on, `output_dir` is of its log."""
    words = [sys.executable]
    if configuration["n_gpus"] > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(configuration["n_gpus"])]
    length, stop = configuration["max_seq_length"], configuration["stop"]
    flags = {
        "--config_file" if configuration["model"].endswith(".json") else "--bert_model": configuration["model"],
        "--max_seq_length": length,
        # As published: 20 masked positions of 128 tokens, 80 of 512, and in proportion.
        "--max_predictions_per_seq": max(1, length * 20 // 128) if configuration["workload"] == "pretrain" else None,
        "--train_batch_size": configuration["batch_size"],
        "--gradient_accumulation_steps": configuration["accumulation_steps"],
        "--optimizer": configuration["optimizer"],
        "--precision": configuration["precision"],
        "--max_steps": stop,
        "--log_freq": stop,
        "--benchmark_start": configuration["start"],
        "--benchmark_stop": stop,
        "--output_dir": output_dir,
    }
    words += [str(ROOT / ENTRIES[configuration["workload"]]), "--do_train", *data]
    words += [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    words += ["--skip_checkpoint", "--disable_progress_bar", "--long_cpu_run"]  # which the timeout bounds
    words += ["--compile"] if configuration["compile"] else []
    return words + shlex.split(configuration["flags"])


def measure(
    configuration: dict[str, Any],
    repeat: int,
    words: list[str],
    folder: Path,
    timeout: float,
    variables: Mapping[str, str] = MappingProxyType({}),
    stopped: threading.Event | None = None,
) -> Point:
    """Run a measurement, in a folder of its own that is made anew, and return the point.

    Args:
        variables: environment variables that the process gets besides those of this one.
        stopped: ends the measurement when it is set; signals reach the main thread only.

    Raises:
        UserError: what lies there is no measurement's folder.
        KeyboardInterrupt: it was stopped. Nothing of it runs on.
    """
    log = folder / "output.log"  # a measurement's first file, and so the mark of its folder
    if log.is_file():
        shutil.rmtree(folder)
    elif folder.exists():
        raise UserError(f"{folder} is there and no measurement made it", "move it away, or choose another --output_dir")
    folder.mkdir(parents=True)
    with log.open("wb") as output:
        began = time.monotonic()
        status = _run(words, output, timeout, os.environ | variables, stopped or threading.Event())
        wall_seconds = time.monotonic() - began
    run = Run()
    with contextlib.suppress(UserError):  # it ended before it logged anything
        run = read_run(folder / "dllogger.json")
    summary = run.summary
    run.environment.pop("command_line", None)
    point: Point = {"schema": SCHEMA, "status": "ok", "error": None, "configuration": configuration, "repeat": repeat}
    point |= {"command": shlex.join(map(without_secrets, words)), "environment": run.environment}
    point |= {"wall_seconds": wall_seconds}
    if status == 0 and summary.get("measured_steps"):
        separate = {name: summary.pop(name, None) for name in ("utilisation", "measured_peak")}
        for of_whole_run in ("e2e_time", "goodput"):
            summary.pop(of_whole_run, None)
        for rate in ("sequences_per_second", "tokens_per_second"):
            summary[f"{rate}_per_gpu"] = summary[rate] / configuration["n_gpus"]
        resolved = run.phases[1].settings.get("arguments", {}) if 1 in run.phases else {}
        return point | {"measured": summary, "cuda_graphs": resolved.get("cuda_graphs")} | separate
    said = log.read_text(encoding="utf-8", errors="replace")
    ends = {
        -signal.SIGKILL: "killed (SIGKILL), which is what the system does to the largest process when memory runs out",
        None: f"stopped: it had run for {timeout:g} seconds",
        0: summary.get("not_measured", "it ended well and measured nothing"),
    }
    said += "\n" + ends.get(status, "")
    point["status"] = "out_of_memory" if OUT_OF_MEMORY.search(said) and status is not None else "failed"
    point["error"] = without_secrets("\n".join(said.strip().splitlines()[-LAST_LINES:]))
    return point


def _run(
    words: list[str], output: Any, timeout: float, variables: Mapping[str, str], stopped: threading.Event
) -> int | None:
    """The status a command ends with; None where it ran for too long. Whatever happens, none of it runs on."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    deadline = time.monotonic() + timeout
    process = subprocess.Popen(words, start_new_session=True, env=variables, **streams)
    started: list[psutil.Process] = []
    try:
        while not stopped.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() > deadline:
                return None
        raise KeyboardInterrupt
    finally:
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            started = psutil.Process(process.pid).children(recursive=True)
        try:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for child in started:  # torchrun's have sessions of their own, and keep their GPU's memory when they hang
                with contextlib.suppress(psutil.Error):
                    child.kill()
            process.wait()
            psutil.wait_procs(started, timeout=5)  # the next measurement wants their memory
