"""What is found out about the machine, from files and commands that are made up, and from the real ones."""

import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch

from common.version import VERSION
from training.environment import description
from training.environment.description import PROJECT_ROOT, REQUIREMENTS, describe_environment, machine_facts


def test_describes_this_machine_in_json():
    described = describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["version"] == VERSION
    assert described["torch"] == torch.__version__
    assert described["python"] == platform.python_version()
    assert described["cpu_cores"] >= 1
    assert len(described["gpus"]) == torch.cuda.device_count()
    assert socket.gethostname() not in (described["operating_system"], described["cpu"])
    assert described.items() >= machine_facts().items()


def test_secrets_of_the_command_line_are_left_out(monkeypatch):
    monkeypatch.setattr(description.sys, "argv", ["run.py", "--source=https://u:PASSWORD@h/a?SIGNATURE&x", "C D"])
    monkeypatch.setenv("WANDB_API_KEY", "TOKEN")
    monkeypatch.setenv("HTTPS_PROXY", "http://u:PROXY@h")
    described = describe_environment()
    assert described["command_line"] == "run.py --source=https://h/a 'C D'"
    assert not any(secret in json.dumps(described) for secret in ("TOKEN", "PROXY"))


def test_the_facts_of_this_machine_cost_little():
    machine_facts()
    begin = time.process_time()
    facts = machine_facts()
    assert time.process_time() - begin < 0.05
    if os.path.ismount("/dev/shm"):
        assert facts["shared_memory_bytes"] == shutil.disk_usage("/dev/shm").total
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    assert facts["locked_memory_bytes"] == ("unlimited" if soft == resource.RLIM_INFINITY else soft)


def test_nothing_fails_where_commands_and_files_are_absent(monkeypatch, tmp_path):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(description.subprocess, "run", missing)
    monkeypatch.setattr(description, "SHARED_MEMORY", tmp_path / "absent")
    described = describe_environment()
    assert described["git_commit"] is described["git_dirty"] is described["shared_memory_bytes"] is None
    assert description.may_read_gpu_counters(tmp_path / "absent") is None
    assert description.gpus_of_driver() is None
    assert description.other_versions(tmp_path / "absent") == ["requirements.txt is missing"]


def test_commands_that_hang_or_fail_give_none(monkeypatch):
    assert description._output_of("false") is None
    assert description._output_of("echo", "yes") == "yes"

    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(description.subprocess, "run", hang)
    assert description._output_of("nvidia-smi") is None


@pytest.mark.parametrize(("own_repository", "changes"), [(True, ""), (True, " M modeling.py"), (False, "")])
def test_commit_is_that_of_the_project_and_of_no_repository_around_it(monkeypatch, own_repository, changes):
    def git(*command):
        if "--show-toplevel" in command:
            return str(PROJECT_ROOT if own_repository else PROJECT_ROOT.parent)
        return "0123abc" if "rev-parse" in command else changes

    monkeypatch.setattr(description, "_output_of", git)
    expected = ("0123abc", bool(changes)) if own_repository else (None, None)
    described = describe_environment()
    assert (described["git_commit"], described["git_dirty"]) == expected


def test_only_what_can_change_a_result_counts_as_a_change(tmp_path, monkeypatch):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    def is_dirty():
        return description._git()["git_dirty"]

    monkeypatch.setattr(description, "PROJECT_ROOT", tmp_path)
    for name in ("modeling.py", "docs/data.md", "tests/test_data.py", "README.md", "bert_configs/tiny.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")
    assert is_dirty() is False
    for name in ("books/a.txt", "docs/data.md", "tests/test_data.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("changed")
    assert is_dirty() is False
    (tmp_path / "bert_configs" / "tiny.json").write_text("changed")
    assert is_dirty() is True
    git("checkout", "-q", "bert_configs")
    (tmp_path / "new.py").touch()
    git("add", "new.py")
    assert is_dirty() is True


def test_a_container_is_known_by_its_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(description, "CONTAINER_MARKS", ((tmp_path / "mark", "docker"),))
    monkeypatch.delenv("container", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert machine_facts()["container"] is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert machine_facts()["container"] == "kubernetes"
    (tmp_path / "mark").touch()
    assert machine_facts()["container"] == "docker"
    monkeypatch.setenv("container", "enroot")
    assert machine_facts()["container"] == "enroot"


@pytest.mark.parametrize(
    ("only_admins", "capabilities", "expected"),
    [(0, 1, True), (1, 1, False), (1, 1 << 21, True), (1, 1 << 38, True)],  # CAP_CHOWN, CAP_SYS_ADMIN, CAP_PERFMON
)
def test_who_may_read_gpu_counters(tmp_path, only_admins, capabilities, expected):
    settings, status = tmp_path / "params", tmp_path / "status"
    settings.write_text(f"ResmanDebugLevel: 4294967295\nRmProfilingAdminOnly: {only_admins}\n", encoding="utf-8")
    status.write_text(f"CapPrm:\tffffffffffffffff\nCapEff:\t{capabilities:016x}\n", encoding="utf-8")
    assert description.may_read_gpu_counters(settings, status) is expected


def test_nvidia_smi_is_asked_for_gpus_and_driver(tmp_path, monkeypatch):
    def command(body):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    command("printf 'NVIDIA H200, 575.57.08\\nNVIDIA H200, 575.57.08\\n'")
    assert description.gpus_of_driver() == [("NVIDIA H200", "575.57.08")] * 2
    command("printf 'NVIDIA H200, 575.57.08\\nWARNING: infoROM is corrupted at gpu 0000:1B:00.0\\n'")
    assert description.gpus_of_driver() == [("NVIDIA H200", "575.57.08")]
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n",
        encoding="utf-8",
    )
    assert description.driver_version(tmp_path / "version") == "580.65.06"
    assert description.driver_version(tmp_path / "absent") == "575.57.08"
    command("echo 'no devices were found'; exit 6")
    assert description.driver_version(tmp_path / "absent") is None
    assert description.gpus_of_driver() is None


def test_apex_counts_with_its_extensions_only_and_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "apex-0.1.dist-info").mkdir()
    (tmp_path / "apex-0.1.dist-info" / "METADATA").write_text("Name: apex\nVersion: 0.1\n", encoding="utf-8")
    elsewhere = [place for place in sys.path if not os.path.exists(os.path.join(place, "apex"))]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    assert machine_facts()["apex"] is None
    (tmp_path / "amp_C.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    importlib.invalidate_caches()
    assert machine_facts()["apex"] == "0.1"


def test_pinned_versions_are_compared_with_what_is_installed(tmp_path):
    ours, numpy = map(importlib.metadata.version, ("pytest", "numpy"))
    text = f"# what is needed\npytest=={ours}  # the same\nnumpy==0.1\nno-such-package==1.2.post3\n"
    (tmp_path / "requirements.txt").write_text(text, encoding="utf-8")
    assert description.other_versions(tmp_path / "requirements.txt") == [
        f"numpy {numpy} (0.1)",
        "no-such-package is missing (1.2.post3)",
    ]


def test_all_of_the_projects_requirements_are_read(tmp_path):
    pinned = re.sub("==", "==0.", REQUIREMENTS.read_text(encoding="utf-8"))
    (tmp_path / "requirements.txt").write_text(pinned, encoding="utf-8")
    lines = [line for line in pinned.splitlines() if line and not line.startswith("#")]
    assert len(description.other_versions(tmp_path / "requirements.txt")) == len(lines)


def test_what_follows_a_plus_is_no_other_version(monkeypatch, tmp_path):
    monkeypatch.setattr(description.importlib.metadata, "version", lambda name: "2.13.0+cu128")
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    assert description.other_versions(tmp_path / "requirements.txt") == []


@pytest.mark.gpu
def test_describes_the_gpu():
    described = describe_environment()
    assert described["gpus"][0] == torch.cuda.get_device_name(0)
    assert described["driver"]
    assert described["cuda"] == torch.version.cuda
    assert described["nccl"]
    assert [f"{a}.{b}" for a, b in [torch.cuda.get_device_capability(0)]] == described["compute_capabilities"][:1]
