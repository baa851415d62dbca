"""scripts/launch.sh: how many processes it starts and how, and what becomes of signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT
from pretraining_runs import command, make_inputs
from ranks import PATIENCE
from torch.distributed.run import get_args_parser

import file_utils
from common.checkpoint_files import find_checkpoints

BIN = Path(sys.executable).parent
NUMBERS = ("NUM_GPUS", "MASTER_PORT", "MAX_RESTARTS", "REQUEUE_STATUS")
LAUNCH = (
    f"set -euo pipefail; PROJECT_DIR={ROOT}; source {ROOT}/scripts/configuration.sh; source {ROOT}/scripts/launch.sh; "
)
LAUNCH += "resolve_launch || true; "


def environment(**variables):
    settings = (
        "NUM_GPUS",
        "NNODES",
        "MASTER_ADDR",
        "MASTER_PORT",
        "MAX_RESTARTS",
        "WORLD_SIZE",
        "RANK",
        "REQUEUE_STATUS",
        "NUMA_BINDING",
    )
    inherited = {n: v for n, v in os.environ.items() if n not in settings and not n.startswith(("SLURM_", "CUDA_"))}
    inherited |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return inherited | {name: str(value) for name, value in variables.items()}


def bash(script, **variables):
    return subprocess.run(["bash", "-c", script], env=environment(**variables), capture_output=True, text=True)


def stub(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "3"),
        ({"CUDA_VISIBLE_DEVICES": "0,5"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a2b"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "1"),
        ({"NUM_GPUS": 2}, "2"),
    ],
)
def test_one_process_for_each_gpu_that_is_seen_and_at_least_one(tmp_path, variables, expected):
    stub(tmp_path, "nvidia-smi", "printf 'GPU 0: x\\n  MIG 1\\nGPU 1: x\\nGPU 2: x\\n'")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = bash(LAUNCH + 'echo "$NUM_GPUS"', **{"PATH": path, **variables})
    assert (ended.stdout.strip(), ended.stderr) == (expected, "")


def test_without_nvidia_smi_there_is_one_process(tmp_path):
    stub(tmp_path, "nvidia-smi", "echo 'no driver' >&2; exit 9")
    ended = bash(LAUNCH + "n_processes", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (ended.stdout.strip(), ended.stderr) == ("1", "")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"NUM_GPUS": "all"}, "NUM_GPUS is 'all'; set it to a whole number from 1 to 999999999."),
        ({"NUM_GPUS": 1, "NNODES": "two"}, "NNODES is 'two'"),
        ({"NUM_GPUS": 1, "NNODES": 2}, "MASTER_ADDR is empty; name the machine"),
        ({"NUM_GPUS": 1, "MAX_RESTARTS": "-1"}, "MAX_RESTARTS is '-1'"),
        ({"NUM_GPUS": 1, "NUMA_BINDING": "core"}, "NUMA_BINDING is 'core'; set it to node, socket, exclusive, "),
        ({"NUM_GPUS": 1, "REQUEUE_STATUS": "256"}, "REQUEUE_STATUS is '256'; set it to a whole number from 1 to 255."),
    ],
)
def test_settings_that_make_no_sense(variables, sentence):
    ended = bash(LAUNCH + 'printf "%s\\n" "${problems[@]}"', **variables)
    (line,) = ended.stdout.splitlines()
    assert sentence in line


@pytest.mark.parametrize(
    "name", ["SLURM_JOB_ID", "SLURM_NNODES", "NUM_GPUS", "MASTER_PORT", "MAX_RESTARTS", "REQUEUE_STATUS"]
)
def test_code_in_a_number_is_not_run(tmp_path, name):
    """Bash runs $(...) in the value of a variable that it computes with."""
    usual = {"NUM_GPUS": "2", "MASTER_ADDR": "here"}
    ended = bash(LAUNCH + "report_problems; n_processes", **usual | {name: f"BASH_VERSINFO[$(touch {tmp_path}/ran)]"})
    assert (ended.returncode, list(tmp_path.iterdir())) == (2, [])
    assert ended.stderr.startswith(f"error: {name.replace('SLURM_NN', 'NN')} is 'BASH_VERSINFO[")


@pytest.mark.parametrize("number", ["08", "99999999999999999999"])
def test_numbers_that_bash_misreads(number):
    """A zero before them makes numbers octal, and large ones wrap around."""
    ended = bash(LAUNCH + "report_problems", NUM_GPUS="1", MAX_RESTARTS=number)
    assert ended.stderr == f"error: MAX_RESTARTS is '{number}'; set it to a whole number.\n"
    ended = bash(LAUNCH + 'report_problems; echo "$MASTER_PORT"', NUM_GPUS="1", SLURM_JOB_ID="0020008")
    assert (ended.stdout, ended.stderr) == ("20008\n", "")


def started(tmp_path, before="has_divided_memory() { false; }", **variables):
    """The arguments of python3."""
    stub(tmp_path, "python3", 'echo "$@"')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = bash(LAUNCH + before + "; launch train.py --flag 'a b'", PATH=path, **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_how_processes_are_started(tmp_path):
    torchrun = f"{ROOT}/scripts/torchrun.py"
    assert started(tmp_path, NUM_GPUS=1) == "train.py --flag a b"
    on_one = f"{torchrun} --standalone --nproc_per_node 8 --max_restarts 0 train.py --flag a b"
    assert started(tmp_path, NUM_GPUS=8) == on_one
    restarted = f"{torchrun} --standalone --nproc_per_node 1 --max_restarts 3 train.py --flag a b"
    assert started(tmp_path, NUM_GPUS=1, MAX_RESTARTS=3) == restarted
    several = (
        f"{torchrun} --nnodes 2:4 --nproc_per_node 8 --max_restarts 0 --rdzv_backend c10d --rdzv_endpoint first:4000"
    )
    elastic = started(tmp_path, NUM_GPUS=8, NNODES="2:4", MASTER_ADDR="first", MASTER_PORT=4000)
    assert elastic == f"{several} --rdzv_id bert-4000 train.py --flag a b"


@pytest.mark.parametrize(
    ("is_divided", "variables", "flag"),
    [
        (True, {}, "--numa-binding node "),
        (True, {"NUMA_BINDING": "none"}, ""),
        (False, {}, ""),
        (False, {"NUMA_BINDING": "exclusive"}, "--numa-binding exclusive "),
    ],
)
def test_processes_stay_beside_their_gpu(tmp_path, is_divided, variables, flag):
    stub(tmp_path, "numactl", "exit")
    found = started(tmp_path, f"has_divided_memory() {{ {str(is_divided).lower()}; }}", NUM_GPUS=8, **variables)
    torchrun = f"{ROOT}/scripts/torchrun.py --standalone --nproc_per_node 8 --max_restarts 0"
    assert found == f"{torchrun} {flag}train.py --flag a b"


def test_a_binding_needs_numactl():
    script = f"{LAUNCH} problems=(); type() {{ false; }}; resolve_launch || report_problems"
    ended = bash(script, NUM_GPUS=2, NUMA_BINDING="socket")
    assert ended.stderr == (
        "error: NUMA_BINDING is 'socket' and there is no numactl; install it: apt-get install numactl\n"
    )


def test_torchrun_knows_the_bindings():
    choices = {action.dest: action.choices for action in get_args_parser()._actions}["numa_binding"]
    assert sorted(choices) == ["core-complex", "exclusive", "node", "socket"]


def test_slurm_says_how_many_machines_there_are_and_where_to_meet(tmp_path):
    stub(tmp_path, "scontrol", "[ \"$*\" = 'show hostnames n[3-4]' ] && printf 'n3\\nn4\\n'")
    slurm = {"SLURM_NNODES": 2, "SLURM_JOB_NODELIST": "n[3-4]", "SLURM_JOB_ID": 41234}
    flags = started(tmp_path, NUM_GPUS=8, **slurm)
    assert "--nnodes 2 --nproc_per_node 8 " in flags
    assert "--rdzv_endpoint n3:21234 --rdzv_id bert-41234 " in flags


@pytest.mark.parametrize("status", [0, 2, 75])
def test_a_status_is_passed_on(tmp_path, status):
    stub(tmp_path, "python3", f"exit {status}")
    ended = bash(LAUNCH + "launch x", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", NUM_GPUS=1)
    assert ended.returncode == status


def test_processes_that_saved_end_a_script_with_the_status_that_its_scheduler_takes(tmp_path):
    stub(tmp_path, "python3", "exit 75")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert bash(LAUNCH + "launch x", PATH=path, NUM_GPUS=2, REQUEUE_STATUS=143).returncode == 143
    assert bash(LAUNCH + "kill -TERM $$", PATH=path, NUM_GPUS=2, REQUEUE_STATUS=143).returncode == 143


@pytest.mark.parametrize(("of_run", "of_import", "status"), [(3, 9, 3), (75, 9, 75), (0, 9, 1), (0, 0, 0), (3, 0, 3)])
def test_a_report_that_ncu_cannot_read_hides_no_status(tmp_path, of_run, of_import, status):
    report = tmp_path / "profile" / "ncu.ncu-rep"
    ncu = f'case "$1" in --query-metrics) ;; --import) exit {of_import} ;; *) touch {report}; exit {of_run} ;; esac'
    stub(tmp_path, "ncu", ncu)
    stub(tmp_path, "python3", "echo metrics")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = bash(LAUNCH + "launch x", PATH=path, NUM_GPUS=1, PROFILER="ncu", OUTPUT_DIR=tmp_path)
    assert ended.returncode == status, ended.stderr
    assert report.with_suffix(".csv").exists()


def is_running(marker):
    """Whether a process has this in its command line."""
    return marker in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_folder_is_one_scripts_until_all_that_it_started_has_ended(tmp_path):
    script = f'source {ROOT}/scripts/configuration.sh; own "$0"; report_problems; ${{1:-}} & echo held; wait'
    lock = tmp_path / "new" / ".quickstart"
    command = ["bash", "-c", script, lock, "sleep 300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as first:
        assert first.stdout.readline() == "held\n"
        try:
            first.kill()
            first.wait()  # and what it started goes on
            second = subprocess.run(["bash", "-c", script, lock], capture_output=True, text=True, check=False)
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 2
    assert re.match(rf"error: {lock.parent} is in use by .*, process {first.pid} on .*; wait until", second.stderr)
    with file_utils.locked(lock, waiting=""):  # the same lock as Python's
        third = subprocess.run(["bash", "-c", script, lock], capture_output=True, text=True, check=False)
    assert third.returncode == 2
    fourth = subprocess.run(["bash", "-c", script, lock], capture_output=True, text=True, check=False)
    assert (fourth.returncode, fourth.stdout) == (0, "held\n")


def test_a_file_system_without_locks_is_warned_of(tmp_path):
    (tmp_path / "flock").write_text("#!/bin/sh\nexit 71\n")
    (tmp_path / "flock").chmod(0o755)
    script = f'source {ROOT}/scripts/configuration.sh; own "$0"; report_problems; echo held'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, tmp_path / "new" / ".quickstart"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "held\n")
    assert "file system without locks" in ran.stderr


@pytest.mark.slow
def test_a_signal_makes_all_processes_save_and_end(tmp_path):
    folder = make_inputs(tmp_path)
    flags = {"max_steps": 100000, "global_batch_size": 8, "micro_batch_size": 2, "log_freq": 1000000}
    arguments = command(folder, train_batch_size=None, gradient_accumulation_steps=None, **flags)
    script = LAUNCH + f"launch {ROOT}/run_pretraining.py " + " ".join(map(str, arguments))
    with subprocess.Popen(
        ["bash", "-c", script],
        env=environment(NUM_GPUS=2, MAX_RESTARTS=2),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if "| step " in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGUSR1)
        output = process.stdout.read()
        assert process.wait(timeout=PATIENCE) == 75, output
    (saved,) = find_checkpoints(folder / "out")
    assert re.search(rf"stopped by SIGTERM after step {saved[0]} of 100000; start again", output)
    deadline = time.monotonic() + PATIENCE
    while is_running(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(str(folder))
