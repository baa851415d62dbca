"""One measurement: its command line, what its end is taken for, and that nothing of it runs on."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from made_points import configuration
from paths import ROOT

from benchmark.sweeps import measurement
from benchmark.sweeps.measurement import OUT_OF_MEMORY, command
from common.errors import UserError

CONFIGURATION = configuration(max_seq_length=512, compile=True, n_gpus=4, accumulation_steps=2, flags="--seed 3")


def test_the_command_is_that_of_the_entry():
    words = command(CONFIGURATION, ["--synthetic", "full"], Path("out"))
    assert words[0] == sys.executable
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert words[6] == str(ROOT / "run_pretraining.py")
    flags = " ".join(words[7:])
    assert "--max_seq_length 512 --max_predictions_per_seq 80 --train_batch_size 64" in flags
    assert "--gradient_accumulation_steps 2 --optimizer lamb --precision bf16 --max_steps 25 --log_freq 25" in flags
    assert flags.endswith("--output_dir out --skip_checkpoint --disable_progress_bar --long_cpu_run --compile --seed 3")


@pytest.mark.parametrize(("length", "masked"), [(6, "1"), (128, "20")])
def test_masked_positions_are_in_proportion_to_the_published_ones(length, masked):
    words = command(CONFIGURATION | {"max_seq_length": length}, [], Path("out"))
    assert words[words.index("--max_predictions_per_seq") + 1] == masked


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...",
        "error: the GPU is out of memory with micro-batches of 64 sequences; take a smaller --micro_batch_size",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ...",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 512. GiB for an array with shape (1, 2)",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "traceback : Signal 9 (SIGKILL) received by PID 4711",
    ],
)
def test_texts_of_a_full_memory(said):
    assert OUT_OF_MEMORY.search(said)


@pytest.mark.parametrize(
    "said",
    ["error: --train_batch_size 7 is not a multiple of 2.", "RuntimeError: CUDA error: an illegal memory access"],
)
def test_other_ends_are_not_taken_for_it(said):
    assert not OUT_OF_MEMORY.search(said)


# Ignores SIGTERM, and so does its child, which has a session of its own, as torchrun's have.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:]:
    child = subprocess.Popen([sys.executable, __file__], start_new_session=True)
    open(sys.argv[1], "w").write(f"{child.pid}\\n")
time.sleep(300)
"""


def stubborn(folder):
    """A command that hangs, and the place where it writes the number of its child."""
    (folder / "stubborn.py").write_text(STUBBORN)
    return [sys.executable, str(folder / "stubborn.py"), str(folder / "child")], folder / "child"


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "SECONDS_TO_STOP", 0.2)
    words, place = stubborn(tmp_path)
    point = measurement.measure(CONFIGURATION, 0, words, tmp_path / "run", timeout=3.0)
    assert point["status"] == "failed"
    assert not is_running(int(place.read_text()))


def test_what_another_thread_stops_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "SECONDS_TO_STOP", 0.2)
    words, place = stubborn(tmp_path)
    stopped = threading.Event()

    def stop_once_it_runs():
        while not place.exists() or not place.read_text().endswith("\n"):
            time.sleep(0.05)
        stopped.set()

    threading.Thread(target=stop_once_it_runs, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        measurement.measure(CONFIGURATION, 0, words, tmp_path / "run", 100.0, stopped=stopped)
    assert not is_running(int(place.read_text()))


def test_a_measurement_gets_the_variables_that_are_its_own(tmp_path):
    words = [sys.executable, "-c", "import os, sys; sys.exit('GPUs ' + os.environ['CUDA_VISIBLE_DEVICES'])"]
    point = measurement.measure(CONFIGURATION, 0, words, tmp_path / "run", 30.0, {"CUDA_VISIBLE_DEVICES": "6,7"})
    assert point["error"] == "GPUs 6,7"


def test_addresses_are_recorded_without_secrets(tmp_path):
    said = "import sys; sys.exit('no https://u:PASSWORD@h/x?SIGNATURE here')"
    words = [sys.executable, "-c", said, "--input", "s3://b/x?SIGNATURE"]
    point = measurement.measure(CONFIGURATION, 0, words, tmp_path / "run", timeout=30.0)
    assert point["error"] == "no https://h/x here"
    assert point["command"].endswith(" --input s3://b/x")
    assert not any(secret in json.dumps(point) for secret in ("PASSWORD", "SIGNATURE"))


def test_whoever_interrupts_twice_does_not_wait_and_leaves_nothing(tmp_path, monkeypatch):
    words, place = stubborn(tmp_path)
    waited = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not place.exists() or not place.read_text().endswith("\n"):
                time.sleep(0.05)
            waited.append(self.pid)
            raise KeyboardInterrupt

    monkeypatch.setattr(measurement.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        measurement.measure(CONFIGURATION, 0, words, tmp_path / "run", timeout=100.0)
    assert len(waited) == 2  # for its end, and for that after SIGTERM
    assert not any(map(is_running, (waited[0], int(place.read_text()))))


def test_a_measurements_folder_is_made_anew_and_nobody_elses(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        measurement.measure(CONFIGURATION, 0, ["true"], folder, timeout=9.0)
        (folder / "dllogger.json").touch()
    assert [path.name for path in folder.iterdir()] == ["output.log", "dllogger.json"]
    (folder / "output.log").rename(folder / "mine.txt")
    with pytest.raises(UserError, match=f"{folder} is there and no measurement made it; move it away"):
        measurement.measure(CONFIGURATION, 0, ["true"], folder, timeout=9.0)
    assert (folder / "mine.txt").exists()
