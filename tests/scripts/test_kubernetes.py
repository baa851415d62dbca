"""scripts/run_pretraining.yaml: Kubernetes and the operator take it, and the scripts take what the operator gives."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from pytorch_job_schema import FIRST_RETRYABLE, PYTORCH_JOB, environments

from training.distributed.stop_signal import REQUEUE_EXIT_CODE
from training.evaluation import TARGET_MISSED_EXIT_CODE
from training.metrics.boards import SECONDS_TO_CLOSE

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")
LAUNCH = f"PROJECT_DIR={ROOT}; source $PROJECT_DIR/scripts/configuration.sh; source $PROJECT_DIR/scripts/launch.sh; "


@pytest.fixture
def job():
    """The manifest; replicas that share a template by an anchor get one each, as on the way to the server."""
    return copy.deepcopy(yaml.safe_load((ROOT / "scripts" / "run_pretraining.yaml").read_text(encoding="utf-8")))


def replicas_of(job):
    return job["spec"]["pytorchReplicaSpecs"].values()


def container_of(replicas):
    (container,) = replicas["template"]["spec"]["containers"]
    return container


def test_the_manifest_is_a_pytorch_job(job):
    jsonschema.validate(job, PYTORCH_JOB)
    assert job["spec"]["pytorchReplicaSpecs"]["Master"]["replicas"] == 1
    for replicas in replicas_of(job):
        spec = replicas["template"]["spec"]
        assert container_of(replicas)["name"] == "pytorch"
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container_of(replicas)["volumeMounts"]} == volumes


def a_number_in_the_environment(job):
    container_of(next(iter(replicas_of(job))))["env"][0]["value"] = 143


def a_field_in_the_wrong_place(job):
    job["spec"]["restartPolicy"] = "ExitCode"


def a_policy_that_there_is_not(job):
    next(iter(replicas_of(job)))["restartPolicy"] = "OnExitCode"


@pytest.mark.parametrize("spoil", [a_number_in_the_environment, a_field_in_the_wrong_place, a_policy_that_there_is_not])
def test_the_schema_refuses_slips(job, spoil):
    spoil(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, PYTORCH_JOB)


def test_a_stopped_pod_is_started_again_and_a_failed_one_is_not(job):
    for replicas in replicas_of(job):
        variables = {entry["name"]: entry["value"] for entry in container_of(replicas)["env"]}
        assert replicas["restartPolicy"] == "ExitCode"
        assert FIRST_RETRYABLE <= int(variables["REQUEUE_STATUS"]) <= 255
    assert all(status < FIRST_RETRYABLE for status in (1, 2, REQUEUE_EXIT_CODE, TARGET_MISSED_EXIT_CODE))


def test_a_pod_has_the_time_that_torchrun_and_boards_may_take(job):
    launch = (ROOT / "scripts" / "launch.sh").read_text(encoding="utf-8")
    seconds = int(re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-(\d+)", launch)[1])
    for replicas in replicas_of(job):
        assert replicas["template"]["spec"]["terminationGracePeriodSeconds"] > seconds + SECONDS_TO_CLOSE


def started(folder, script, variables):
    """What bash prints in a pod with eight GPUs, where python3 prints its arguments and the ranks it is told."""
    stubs = {
        "nvidia-smi": "for gpu in 0 1 2 3 4 5 6 7; do echo GPU $gpu: x; done",
        "python3": 'echo "$@" ${RANK-none} ${WORLD_SIZE-none}',
    }
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(["bash", "-c", script], env=variables | {"PATH": path}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


def test_every_pod_starts_its_processes_by_what_the_operator_gives(job, tmp_path):
    given = environments(job)
    assert len(given) == 4
    for variables in given:
        flags = started(tmp_path, LAUNCH + "resolve_launch; launch train.py", variables)
        assert flags == (
            f"{ROOT}/scripts/torchrun.py --nnodes 4 --nproc_per_node 8 --max_restarts 0 --rdzv_backend c10d "
            "--rdzv_endpoint bert-pretraining-master-0:23456 --rdzv_id bert-23456 train.py none none"
        )


def test_a_job_of_one_pod_needs_no_meeting_place(job, tmp_path):
    del job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (variables,) = environments(job)
    flags = started(tmp_path, LAUNCH + "resolve_launch; launch train.py", variables)
    assert flags == f"{ROOT}/scripts/torchrun.py --standalone --nproc_per_node 8 --max_restarts 0 train.py none none"


def test_the_variables_of_a_pod_are_settings_of_the_script(job, tmp_path):
    script = ROOT / "scripts" / "run_pretraining.sh"
    shown = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True).stdout
    for replicas in replicas_of(job):
        container = container_of(replicas)
        assert (ROOT / container["args"][-1]) == script
        for entry in container["env"]:
            assert f" {entry['name']}=" in shown or entry["name"] == "BERT_PREP_WORKING_DIR"
        (n_gpus,) = container["resources"]["limits"].values()
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert variables["CONFIG"].endswith(f"_{n_gpus}gpu")
        assert job["spec"]["nprocPerNode"] == str(n_gpus)
        assert f"\n{variables['CONFIG']} " in (ROOT / "scripts" / "hardware.txt").read_text(encoding="utf-8")
