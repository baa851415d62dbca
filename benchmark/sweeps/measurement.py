"""One measurement of a sweep: a fresh process of the real entry, and what its log or its end says.

The entry is the one that users train with, so what is measured is what they get. Nothing of an earlier point is left in
a fresh process: no cached memory, no compiled code, no warm clocks but the GPU's own.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from benchmark.sweeps.points import SCHEMA, Point
from training.metrics.logger import read_log

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = MappingProxyType({"pretrain": "run_pretraining.py", "squad": "run_squad.py"})
LAST_LINES = 15
SECONDS_TO_STOP = 30
SECONDS_TO_VANISH = 5
# CUDA's, PyTorch's for the CPU, NumPy's, the system's; and the end that Linux makes of processes when memory runs out.
OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to) allocate|MemoryError|std::bad_alloc|ALLOC_FAILED|SIGKILL",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What is measured; the fields of a point's `configuration`."""

    workload: str
    model: str
    max_seq_length: int
    precision: str
    compile: bool
    n_gpus: int
    batch_size: int
    accumulation_steps: int
    optimizer: str
    lengths: str
    start: int
    stop: int
    flags: str

    @property
    def name(self) -> str:
        """Short, for a folder."""
        compiled = "_compiled" if self.compile else ""
        return f"{self.workload}_{self.max_seq_length}_{self.precision}{compiled}_{self.n_gpus}x{self.batch_size}"


def command(configuration: Configuration, data: list[str], extra: list[str], output_dir: Path) -> list[str]:
    """The command line of a measurement.

    Args:
        data: flags that say what to train on.
        extra: flags that the user added.
        output_dir: of its log.
    """
    entry = ENTRIES[configuration.workload]
    words = [sys.executable]
    if configuration.n_gpus > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(configuration.n_gpus)]
    words += [str(ROOT / entry), "--do_train", *data]
    words += ["--config_file" if configuration.model.endswith(".json") else "--bert_model", configuration.model]
    words += ["--max_seq_length", str(configuration.max_seq_length)]
    if configuration.workload == "pretrain":
        words += ["--max_predictions_per_seq", str(max_predictions(configuration.max_seq_length))]
    words += ["--train_batch_size", str(configuration.batch_size)]
    words += ["--gradient_accumulation_steps", str(configuration.accumulation_steps)]
    words += ["--optimizer", configuration.optimizer, "--precision", configuration.precision]
    words += ["--compile"] if configuration.compile else []
    words += ["--max_steps", str(configuration.stop), "--log_freq", str(configuration.stop)]
    words += ["--benchmark_start", str(configuration.start), "--benchmark_stop", str(configuration.stop)]
    return [*words, "--skip_checkpoint", "--disable_progress_bar", "--output_dir", str(output_dir), *extra]


def max_predictions(max_seq_length: int) -> int:
    """Masked positions of a sequence, as published: 20 of 128, 80 of 512, and in proportion."""
    return max(1, max_seq_length * 20 // 128)


def measure(configuration: Configuration, repeat: int, words: list[str], folder: Path, timeout: float) -> Point:
    """Run a measurement, in a folder of its own that is made anew, and return what it comes to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "output.log").open("wb") as output:
        status = _run(words, output, timeout)
    said = (folder / "output.log").read_text(encoding="utf-8", errors="replace")
    point: Point = {
        "schema": SCHEMA,
        "status": "ok",
        "error": None,
        "configuration": dataclasses.asdict(configuration),
        "repeat": repeat,
        "command": shlex.join(words),
    }
    environment, summary = _read(folder / "dllogger.json")
    point["environment"] = environment
    if status == 0 and summary.get("measured_steps"):
        return point | _measured(summary, configuration.n_gpus)
    if status == -signal.SIGKILL:
        said += "\nkilled (SIGKILL), which is what the system does to the largest process when memory runs out"
    if status is None:
        said += f"\nstopped: it had run for {timeout:g} seconds"
    if status == 0:
        said += "\n" + summary.get("not_measured", "it ended well and measured nothing")
    point["status"] = "out_of_memory" if OUT_OF_MEMORY.search(said) and status is not None else "failed"
    point["error"] = "\n".join(said.strip().splitlines()[-LAST_LINES:])
    return point


def _run(words: list[str], output: Any, timeout: float) -> int | None:
    """The status a command ends with; None where it ran for too long. Whatever happens, none of it runs on."""
    process = subprocess.Popen(
        words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started; at once where somebody interrupts the waiting too."""
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):  # it has ended by itself
        started = psutil.Process(process.pid).children(recursive=True)
    try:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)
    finally:
        _signal(process, signal.SIGKILL)
        for child in started:  # torchrun's have sessions of their own, and keep their GPU's memory when they hang
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.wait()
        psutil.wait_procs(started, SECONDS_TO_VANISH)  # the next measurement wants their memory


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _read(log: Path) -> tuple[dict, dict]:
    """The environment and the last line of a run's log, as far as it came."""
    environment: dict = {}
    summary: dict = {}
    for event in read_log(log) if log.exists() else []:
        if event.get("step") == "PARAMETER":
            environment = event["data"].get("environment", {})
        elif event.get("step") == []:
            summary = event["data"]
    return {name: value for name, value in environment.items() if name != "command_line"}, summary


def _measured(summary: dict, n_gpus: int) -> dict:
    """A summary's figures, as a point has them."""
    separate = ("utilisation", "measured_peak")
    measured = {name: value for name, value in summary.items() if name not in (*separate, "e2e_time")}
    for rate in ("sequences_per_second", "tokens_per_second"):
        measured[f"{rate}_per_gpu"] = measured[rate] / n_gpus
    return {"measured": measured} | {name: summary.get(name) for name in separate}
