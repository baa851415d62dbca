import json
import platform
import socket
import subprocess

import pytest
import torch

from training.environment import description as environment
from training.environment import machine
from training.environment.description import PROJECT_ROOT, describe_environment


def test_describes_this_machine_in_json():
    described = describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["torch"] == torch.__version__
    assert described["python"] == platform.python_version()
    assert described["cpu_cores"] >= 1
    assert len(described["gpus"]) == torch.cuda.device_count()
    assert socket.gethostname() not in (described["operating_system"], described["cpu"])
    assert described.items() >= machine.machine_facts(PROJECT_ROOT / "requirements.txt").items()


def test_nothing_fails_where_everything_is_absent(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(machine.subprocess, "run", missing)
    monkeypatch.setattr(machine.shutil, "disk_usage", missing)
    monkeypatch.setattr(machine.resource, "getrlimit", missing)
    monkeypatch.setattr(environment.Path, "read_text", missing)
    monkeypatch.delattr(environment.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(environment.os, "sysconf", missing)
    described = describe_environment()
    assert described["git_commit"] is None
    assert described["driver"] is None
    assert described["memory_bytes"] is None
    assert described["shared_memory_bytes"] is None
    assert described["locked_memory_bytes"] is None
    assert described["gpu_counters_readable"] is None
    assert described["cpu_cores"] >= 1


def test_commands_that_hang_or_fail_give_none(monkeypatch):
    assert machine.output_of("false") is None
    assert machine.output_of("echo", "yes") == "yes"

    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert machine.output_of("nvidia-smi") is None


@pytest.mark.parametrize(("own_repository", "changes"), [(True, ""), (True, " M modeling.py"), (False, "")])
def test_commit_is_that_of_the_project_and_of_no_repository_around_it(monkeypatch, own_repository, changes):
    def git(*command):
        if "--show-toplevel" in command:
            return str(PROJECT_ROOT if own_repository else PROJECT_ROOT.parent)
        return "0123abc" if "rev-parse" in command else changes

    monkeypatch.setattr(environment, "output_of", git)
    expected = ("0123abc", bool(changes)) if own_repository else (None, None)
    assert (environment._git()["git_commit"], environment._git()["git_dirty"]) == expected


@pytest.mark.gpu
def test_describes_the_gpu():
    described = describe_environment()
    assert described["gpus"][0] == torch.cuda.get_device_name(0)
    assert described["driver"]
    assert described["cuda"] == torch.version.cuda
    assert described["nccl"]
    assert [f"{a}.{b}" for a, b in [torch.cuda.get_device_capability(0)]] == described["compute_capabilities"][:1]
