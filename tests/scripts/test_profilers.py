"""scripts/profilers.sh and profile_pretrain.sh: what the profilers are started with, and what is refused before that.

The tools are stand-ins that note their arguments. What they stand for was seen on an H200, but for nsys.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_traces import write_nsys
from paths import ROOT

from benchmark.profiles.nsight_compute import read_launches
from training.environment.description import may_read_gpu_counters

SCRIPT = ROOT / "scripts" / "profile_pretrain.sh"
KNOWN = ROOT / "tests" / "benchmark" / "ncu_known_metrics.json"
REAL = ROOT / "tests" / "benchmark" / "profiles" / "ncu_h200_raw.csv"
TINY = {"BERT_MODEL": "tiny", "BATCH_SIZE": "2", "NUM_GPUS": "1"}
# Lists metrics as ncu does; started around a program, notes its arguments and leaves a report, which it then prints.
NCU = f"""
if [[ $1 == --query-metrics ]]; then
  {sys.executable} -c 'import json; print("\\n".join(json.load(open("{KNOWN}"))["gh100"]))'
  exit
fi
if [[ $1 == --import ]]; then
  printf '%s\\n' "$@" >$TOLD.import
  cat "$2"
  exit
fi
printf '%s\\n' "$@" >$TOLD
for ((i = 1; i < $#; i++)); do if [[ ${{!i}} == --export ]]; then j=$((i + 1)); cp {REAL} "${{!j}}.ncu-rep"; fi; done
"""
NSYS = """
printf '%s\\n' "$@" >$TOLD
for ((i = 1; i < $#; i++)); do if [[ ${!i} == --output ]]; then j=$((i + 1)); cp $MADE "${!j}.sqlite"; fi; done
"""


@pytest.fixture
def machine(tmp_path):
    """A function that runs profile_pretrain.sh with the stand-ins that it is given on the PATH before all else."""
    settings = re.findall(
        r"^(\w+)=\$\{", "\n".join(path.read_text() for path in ROOT.glob("scripts/*.sh")), re.MULTILINE
    )

    def run(*arguments, tools=(), **variables):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in {
            "nvidia-smi": "echo NVIDIA H200",
            "python3": python_that_says(allowed=True),
            **dict(tools),
        }.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name not in settings}
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        inherited |= {"PATH": path, "OUTPUT_DIR": str(tmp_path / "out"), "TOLD": str(tmp_path / "told")}
        words = ["bash", str(SCRIPT), *map(str, arguments)]
        environment = inherited | TINY | variables
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def python_that_says(allowed):
    """A python3 in which the driver's settings let this process count, or do not."""
    verdict = f'case "$*" in *may_read_gpu_counters*) exit {1 if allowed else 0} ;; esac'
    return f'{verdict}\nexec {sys.executable} "$@"'


def told(tmp_path):
    return (tmp_path / "told").read_text().splitlines()


def value(arguments, flag):
    return arguments[arguments.index(flag) + 1]


def test_ncu_counts_some_kernels_of_one_step_and_none_of_nccl(machine, tmp_path):
    ended = machine("ncu", 3, "--seed", 5, tools={"ncu": NCU}, LAUNCH_COUNT="77")
    assert ended.returncode == 0, ended.stderr
    arguments = told(tmp_path)
    assert value(arguments, "--profile-from-start") == "off"
    assert value(arguments, "--target-processes") == "all"
    assert (value(arguments, "--launch-count"), value(arguments, "--clock-control")) == ("77", "none")
    assert value((tmp_path / "told.import").read_text().splitlines(), "--page") == "raw"
    filtered = value(arguments, "--kernel-name").removeprefix("regex:")
    assert re.search(filtered, "nvjet_sm90_tst_256x128")
    assert re.search(filtered, "vectorized_layer_norm_kernel")
    assert not re.search(filtered, "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)")
    metrics = value(arguments, "--metrics").split(",")
    assert "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active" in metrics
    assert "gpu__time_duration.sum" in metrics
    program = arguments[arguments.index("python3") :]
    assert program[1].endswith("run_pretraining.py")
    assert (value(program, "--profile-start"), value(program, "--profile-steps")) == ("3", "1")
    assert (value(program, "--max_steps"), value(program, "--seed")) == ("5", "5")
    assert "--profile" in program
    assert value(program, "--synthetic") == "full"
    assert value(program, "--num_hidden_layers") == "2"
    assert "ncu runs each of up to 77 kernels several times" in ended.stderr
    assert "| all " in ended.stdout
    summary = json.loads((tmp_path / "out" / "profile" / "kernels.json").read_text())
    assert summary["device"] == "NVIDIA H200"


def test_nvprof_means_nsys_which_waits_for_the_steps(machine, tmp_path):
    made = write_nsys(tmp_path / "made.sqlite")
    ended = machine("nvprof", 6, 9, tools={"nsys": NSYS}, MADE=str(made))
    assert ended.returncode == 0, ended.stderr
    arguments = told(tmp_path)
    assert arguments[0] == "profile"
    assert value(arguments, "--capture-range") == "cudaProfilerApi"
    assert value(arguments, "--capture-range-end") == "stop"
    assert "--trace=cuda,nvtx,osrt,cudnn,cublas" in arguments
    assert "--cuda-graph-trace=node" in arguments
    assert (value(arguments, "--profile-start"), value(arguments, "--profile-steps")) == ("6", "3")
    assert "--num_hidden_layers" not in arguments
    assert "nvprof does not run on GPUs of compute capability 8.0 and up" in ended.stderr
    assert json.loads((tmp_path / "out" / "profile" / "timeline.json").read_text())["source"] == "nsys"


@pytest.mark.slow
def test_torch_profiles_on_a_cpu_and_says_where_the_time_went(machine, tmp_path):
    ended = machine("torch", "02", "04", "--no_cuda", "--max_seq_length", 16, "--max_predictions_per_seq", 2)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads((tmp_path / "out" / "profile" / "timeline.json").read_text())
    assert [step["name"] for step in summary["steps"]] == ["step 3", "step 4"]
    assert {"forward", "backward", "optimizer"} <= summary["parts"].keys()
    assert summary["device"] == "CPU"
    assert any(kernel["name"] == "linear" for kernel in summary["kernels"])
    total = sum(kernel["seconds"] for kernel in summary["kernels"])
    assert 0 < sum(summary["parts"].values()) * 2 <= total * (1 + 1e-9)
    assert "| part of a step |" in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"summaries: {tmp_path}/out/profile/timeline.json"


def test_an_earlier_profile_is_not_taken_for_this_one(machine, tmp_path):
    folder = tmp_path / "out" / "profile"
    folder.mkdir(parents=True)
    for name in ("ncu.ncu-rep", "ncu.csv"):
        (folder / name).write_bytes(REAL.read_bytes())
    silent = 'if [[ $1 == --query-metrics ]]; then printf "%s\\n" gpu__time_duration sm__cycles_elapsed; fi'
    ended = machine("ncu", tools={"ncu": silent})
    assert ended.returncode == 2
    assert "ncu.csv is not there" in ended.stderr


def test_a_failed_run_is_not_summed_up(machine, tmp_path):
    failing = (
        'if [[ $1 == --query-metrics ]]; then printf "%s\\n" gpu__time_duration sm__cycles_elapsed; else exit 9; fi'
    )
    ended = machine("ncu", tools={"ncu": failing})
    assert (ended.returncode, ended.stdout) == (9, "")


def test_an_ncu_that_knows_no_metric(machine, tmp_path):
    ended = machine("ncu", tools={"ncu": "echo '==ERROR== No supported GPU'"})
    assert ended.returncode != 0
    assert "ncu does not know gpu__time_duration.sum and sm__cycles_elapsed.max here" in ended.stderr
    assert not (tmp_path / "told").exists()


def test_counters_that_may_not_be_read(machine, tmp_path):
    tools = {"ncu": NCU, "python3": python_that_says(allowed=False)}
    ended = machine("ncu", tools=tools)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "only administrators read the GPU's counters (ERR_NVGPUCTRPERM)" in ended.stderr
    for remedy in ("run as root", "--cap-add SYS_ADMIN", "NVreg_RestrictProfilingToAdminUsers=0"):
        assert remedy in ended.stderr
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "sentences"),
    [
        ((), {}, ["No profiler is named; give nsys, ncu or torch first."]),
        (("--seed", "3"), {}, ["No profiler is named"]),
        (("gprof",), {}, ["PROFILER is 'gprof'; set it to nsys, ncu or torch"]),
        (("nsys",), {}, ["there is no nsys on the PATH; install Nsight Systems, or take torch."]),
        (("nvprof",), {}, ["there is no nsys on the PATH"]),
        (("ncu",), {}, ["there is no ncu on the PATH; install Nsight Compute, or take torch."]),
        (("torch", "ten"), {}, ["'ten' is no optimizer step"]),
        (("torch", "9", "9"), {}, ["Steps from 9 to 9 are none; give a STOP above START."]),
        (
            ("ncu",),
            {"LAUNCH_COUNT": "all", "CLOCK_CONTROL": "low", "PHASE": "3", "COMPILE": "yes"},
            ["LAUNCH_COUNT is 'all'", "CLOCK_CONTROL is 'low'", "PHASE is '3'", "COMPILE is 'yes'"],
        ),
    ],
)
def test_what_is_wrong_is_said_before_any_work(machine, tmp_path, arguments, variables, sentences):
    ended = machine(*arguments, **variables)
    assert (ended.returncode, ended.stdout) == (2, "")
    for sentence in sentences:
        assert any(line.startswith("error: ") and sentence in line for line in ended.stderr.splitlines()), sentence
    assert not (tmp_path / "out").exists()


def test_help_names_the_variables(machine):
    ended = machine("--help")
    assert ended.returncode == 0
    assert "bash scripts/profile_pretrain.sh ncu" in ended.stdout
    assert "LAUNCH_COUNT=2500" in ended.stdout


@pytest.mark.gpu
def test_the_tensor_cores_count_two_operations_per_multiply_add(tmp_path):
    """A bf16 product of known size under the real ncu, through the filter that keeps NCCL out."""
    if shutil.which("ncu") is None or may_read_gpu_counters() is False:
        pytest.skip("needs Nsight Compute, and the right to read the GPU's counters")
    m, n, k = 4096, 1024, 2048
    (tmp_path / "product.py").write_text(
        f"""import torch
a, b = (torch.ones(*shape, device="cuda", dtype=torch.bfloat16) for shape in (({m}, {k}), ({k}, {n})))
a @ b
torch.cuda.synchronize()
torch.cuda.profiler.start()
a @ b
torch.cuda.synchronize()
torch.cuda.profiler.stop()
"""
    )
    command = f"""set -euo pipefail; PROJECT_DIR={ROOT} OUTPUT_DIR={tmp_path} PROFILER=ncu
source {ROOT}/scripts/profilers.sh; profiler_command; "${{profiler[@]}}" {sys.executable} {tmp_path}/product.py
write_profile"""
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("==PROF== Profiling") == 1, "it shows no progress"
    launches = read_launches(tmp_path / "profile" / "ncu.csv")
    assert sum(launch.values["flops"] for launch in launches) == pytest.approx(2 * m * n * k, rel=0.01)
