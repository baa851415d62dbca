"""scripts/run_pretraining.slurm with stand-ins for Slurm, Pyxis and Apptainer that really start its processes."""

import os
import re
import shutil
import signal
import subprocess
import time

import fake_slurm
import phase1_runs
import pytest
from paths import ROOT
from pretraining_runs import curve
from ranks import PATIENCE
from script_runs import BIN, environment

from common.checkpoint_files import find_checkpoints

SCRIPT = ROOT / "scripts" / "run_pretraining.slurm"
SETTINGS = ("CONTAINER_IMAGE", "CONTAINER_RUNTIME", "CONTAINER_MOUNTS", "CONTAINER_ARGS", "PROJECT_DIR", "container")
STEPS_PER_START = 100


def variables(folder, **more):
    """Of a job whose commands are those in `folder`/bin, and nothing of the tests' own."""
    path = os.pathsep.join([str(folder / "bin"), str(BIN), os.environ["PATH"]])
    inherited = environment(PATH=path, **more).items()
    unwanted = re.compile(r"(SLURM|NCCL|GLOO)_")
    return {name: value for name, value in inherited if name in more or not (name in SETTINGS or unwanted.match(name))}


def submit(folder, *arguments, nodes=1, **more):
    """Through the stand-in sbatch, to the job's end."""
    command = ["sbatch", f"--nodes={nodes}", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables(folder, **more), capture_output=True, text=True, check=False)


@pytest.fixture
def cluster(tmp_path):
    fake_slurm.install(tmp_path)
    return tmp_path


@pytest.fixture
def stubbed(cluster):
    """A cluster on which bash, as a task starts it, does nothing."""
    stub = cluster / "bin" / "bash"
    real = shutil.which("bash")
    stub.write_text(
        f'#!{real}\n[[ $1 != */run_pretraining.sh ]] || exit "${{STUB_STATUS:-0}}"\nexec {real} "$@"\n',
        encoding="utf-8",
    )
    stub.chmod(0o755)
    return cluster


def test_no_line_of_the_script_is_before_its_directives():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    directives = [index for index, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert len(directives) >= 8
    assert max(directives) < first_command


def test_help_shows_every_setting(tmp_path):
    shown = subprocess.run(["bash", SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    text = SCRIPT.read_text(encoding="utf-8")
    at_the_top = text[: text.index("--help")]
    settings = re.findall(r"^([A-Z][A-Z0-9_]*)=\$\{\1:-", at_the_top, re.MULTILINE)
    assert len(settings) == 7
    assert [name for name in settings if not re.search(rf"^  {name}=", shown.stdout, re.MULTILINE)] == []
    assert "#SBATCH" not in shown.stdout


# How tasks are started.


def step(cluster):
    """The arguments of the one srun that started tasks, and its environment."""
    (call,) = [call for call in fake_slurm.calls(cluster, "srun") if call["arguments"] != ["--help"]]
    return call["arguments"], call["environment"]


def test_without_a_container_the_script_runs_as_it_is(stubbed):
    ended = submit(stubbed, "--max_grad_norm", "2", nodes=3, OUTPUT_DIR="out", NCCL_DEBUG="INFO")
    assert ended.returncode == 0, ended.stderr
    arguments, passed = step(stubbed)
    run = ["bash", f"{ROOT}/scripts/run_pretraining.sh", "--max_grad_norm", "2"]
    assert arguments == ["--kill-on-bad-exit=0", *run]
    assert (passed["NNODES"], passed["MASTER_ADDR"]) == ("3", "127.0.0.1")
    assert (passed["NCCL_DEBUG"], passed["OUTPUT_DIR"], passed["SRUN_CPUS_PER_TASK"]) == ("INFO", "out", "2")
    assert not {"NCCL_SOCKET_IFNAME", "BERT_PREP_WORKING_DIR"} & passed.keys()


def inside_of(words):
    """The variables that `env` sets, and the command after them."""
    place = words.index("env") + 1
    options = [word for word in words[place:] if word.startswith("--unset=")]
    words = words[place + len(options) :]
    count = next(index for index, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_in_a_container_folders_are_mounted_and_variables_lead_to_them(stubbed, runtime):
    (stubbed / "data").mkdir()
    image = "nvcr.io#me/bert:1" if runtime == "pyxis" else "docker://me/bert:1"
    given = {"CONTAINER_IMAGE": image, "CONTAINER_MOUNTS": "/usr:/mnt", "VIRTUAL_ENV": "/of/the/host"}
    given |= {"BERT_PREP_WORKING_DIR": stubbed / "data", "OUTPUT_DIR": stubbed / "out", "NCCL_NET": "IB"}
    given |= {"CONTAINER_RUNTIME": runtime if runtime != "pyxis" else ""}  # which is what an image asks for
    given["CONTAINER_ARGS"] = "--container-writable" if runtime == "pyxis" else "--no-home --cleanenv"
    ended = submit(stubbed, "--seed", "a b", nodes=2, **given)
    assert ended.returncode == 0, ended.stderr
    arguments, _ = step(stubbed)
    mounts = f"{ROOT}:/workspace/bert,{stubbed}/data:/workspace/dataset,{stubbed}/out:{stubbed}/out,/usr:/mnt"
    before = arguments[1 : arguments.index("env")]
    if runtime == "pyxis":
        expected = [f"--container-image={image}", f"--container-mounts={mounts}"]
        expected += ["--container-workdir=/workspace/bert", "--container-writable"]
    else:
        expected = [
            "apptainer",
            "exec",
            "--nv",
            "--bind",
            mounts,
            "--pwd",
            "/workspace/bert",
            "--no-home",
            "--cleanenv",
        ]
        expected += [image]
    assert before == expected
    inside, command = inside_of(arguments)
    assert command == ["bash", "/workspace/bert/scripts/run_pretraining.sh", "--seed", "a b"]
    assert inside["BERT_PREP_WORKING_DIR"] == "/workspace/dataset"
    assert inside["OUTPUT_DIR"] == f"{stubbed}/out"
    assert (inside["NNODES"], inside["MASTER_ADDR"], inside["NCCL_NET"]) == ("2", "127.0.0.1", "IB")
    assert "--unset=VIRTUAL_ENV" in arguments
    assert (stubbed / "out").is_dir()


@pytest.mark.parametrize("status", [0, 75, 1])
def test_the_job_goes_back_into_the_queue_only_when_it_was_stopped(stubbed, status):
    command = ["bash", SCRIPT]
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n1", "SLURM_NNODES": "1", "STUB_STATUS": str(status)}
    ended = subprocess.run(command, cwd=ROOT, env=variables(stubbed, **slurm), check=False)
    assert ended.returncode == status
    requeued = [call["arguments"] for call in fake_slurm.calls(stubbed, "scontrol") if call["arguments"][0] != "show"]
    assert requeued == ([["requeue", "17"]] if status == 75 else [])


# What cannot be used.


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"CONTAINER_RUNTIME": "docker", "CONTAINER_IMAGE": "x"}, "CONTAINER_RUNTIME is 'docker'; set it to pyxis"),
        ({"CONTAINER_RUNTIME": "apptainer"}, "CONTAINER_RUNTIME is apptainer and CONTAINER_IMAGE is empty"),
        ({"CONTAINER_RUNTIME": "none", "CONTAINER_IMAGE": "x"}, "CONTAINER_IMAGE is x and CONTAINER_RUNTIME is none"),
        ({"CONTAINER_IMAGE": "x", "OUTPUT_DIR": "/tmp/a\nb"}, "/tmp/a\\nb"),
        ({"CONTAINER_IMAGE": "-x"}, "CONTAINER_IMAGE is -x, which would be read as an option"),
        ({"CONTAINER_RUNTIME": "none", "CONTAINER_IMAGE": "docker://u:p@h/x?s"}, "is docker://h/x and"),
        ({"CONTAINER_IMAGE": "/no/bert.sqsh"}, "There is no image /no/bert.sqsh"),
        ({"BERT_PREP_WORKING_DIR": "/no/data"}, "There is no folder /no/data"),
        ({"PROJECT_DIR": "/no/project"}, "There is no /no/project/scripts/run_pretraining.sh; submit the job from"),
        (
            {"CONTAINER_IMAGE": "x", "OUTPUT_DIR": "/tmp/a,b"},
            "with a colon, a comma or a line break in their paths cannot be mounted",
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_a_task_is_started(cluster, given, sentence):
    ended = submit(cluster, **given)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert [call for call in fake_slurm.calls(cluster, "srun") if call["arguments"] != ["--help"]] == []


def test_a_cluster_without_the_runtime_is_told_apart(tmp_path):
    fake_slurm.install(tmp_path, without=("apptainer",), pyxis=False)
    ended = submit(tmp_path, CONTAINER_IMAGE="x")
    assert "Pyxis is not installed here; take CONTAINER_RUNTIME=apptainer" in ended.stderr
    ended = submit(tmp_path, CONTAINER_IMAGE="x", CONTAINER_RUNTIME="apptainer")
    assert "There is no apptainer on the PATH" in ended.stderr


def test_outside_of_slurm_it_says_so(tmp_path):
    ended = subprocess.run(
        ["bash", SCRIPT], cwd=ROOT, env=variables(tmp_path), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: This is no Slurm job; start it with sbatch")


# Whole runs.


def wait_until(condition, process, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_that_is_preempted_resumes_from_its_checkpoint(cluster):
    """The batch shell is signaled, as `scancel --batch` does it."""
    endless = phase1_runs.settings(cluster, steps=100000, STEPS_PER_CHECKPOINT=100000)
    log = cluster / "out" / "dllogger.json"
    # Of each start: far more than the first makes before it is stopped; the second ends so.
    command = ["sbatch", "--nodes=1", str(SCRIPT), "--steps_this_run", str(STEPS_PER_START)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables(cluster, **endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_until(lambda: log.exists() and len(curve(cluster / "out")) >= 2, process)
        os.kill(int((cluster / "job.pid").read_text(encoding="utf-8")), signal.SIGTERM)
        output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert output.count("Stopped before its end; back into the queue.") == 1
    (stopped_after,) = map(int, re.findall(r"stopped by \w+ after step (\d+) of 100000", output))
    assert f"going on after step {stopped_after}," in output
    assert sorted(step for _, step in curve(cluster / "out")) == list(range(1, stopped_after + STEPS_PER_START + 1))
    assert find_checkpoints(cluster / "out")[-1][0] == stopped_after + STEPS_PER_START
    assert [call["arguments"] for call in fake_slurm.calls(cluster, "scontrol")][1] == ["requeue", fake_slurm.JOB_ID]
