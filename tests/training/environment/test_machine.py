"""What is found out about the machine, from files and commands that are made up, and from the real ones."""

import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import sys
import time

import pytest

from training.environment import machine
from training.environment.description import PROJECT_ROOT

REQUIREMENTS = PROJECT_ROOT / "requirements.txt"


def test_the_facts_of_this_machine_are_json_and_cost_little():
    machine.machine_facts(REQUIREMENTS)
    begin = time.process_time()
    facts = machine.machine_facts(REQUIREMENTS)
    assert time.process_time() - begin < 0.05
    assert json.loads(json.dumps(facts)) == facts
    if os.path.ismount("/dev/shm"):
        assert facts["shared_memory_bytes"] == shutil.disk_usage("/dev/shm").total
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    assert facts["locked_memory_bytes"] == ("unlimited" if soft == resource.RLIM_INFINITY else soft)


@pytest.mark.parametrize(
    ("variables", "mark", "expected"),
    [
        ({}, None, None),
        ({}, ".dockerenv", "docker"),
        ({}, "run/.containerenv", "podman"),
        ({"APPTAINER_CONTAINER": "/x.sif"}, ".dockerenv", "apptainer"),
        ({"SINGULARITY_CONTAINER": "/x.sif"}, None, "apptainer"),
        ({"container": "enroot"}, None, "enroot"),
        ({"KUBERNETES_SERVICE_HOST": "1.2.3.4"}, ".dockerenv", "kubernetes"),
    ],
)
def test_a_container_is_known_by_its_marks(tmp_path, variables, mark, expected):
    if mark:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert machine.container(variables, tmp_path) == expected


SYS_ADMIN, PERFMON, CHOWN = "0000000000200000", "0000004000000000", "0000000000000001"


@pytest.mark.parametrize(
    ("only_admins", "capabilities", "driver", "expected"),
    [
        (0, CHOWN, "550.54.14", True),
        (1, CHOWN, "550.54.14", False),
        (1, SYS_ADMIN, "550.54.14", True),
        (1, PERFMON, "550.54.14", False),  # counts from driver 565 on
        (1, PERFMON, "580.65.06", True),
    ],
)
def test_who_may_read_gpu_counters(tmp_path, only_admins, capabilities, driver, expected):
    settings, status, version = (tmp_path / name for name in ("params", "status", "version"))
    settings.write_text(f"ResmanDebugLevel: 4294967295\nRmProfilingAdminOnly: {only_admins}\n", encoding="utf-8")
    status.write_text(f"CapPrm:\tffffffffffffffff\nCapEff:\t{capabilities}\n", encoding="utf-8")
    version.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Feb 22\n", encoding="utf-8")
    assert machine.may_read_gpu_counters(settings, status, version) is expected
    assert machine.may_read_gpu_counters(tmp_path / "absent", status, version) is None


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Thu Jul 17 03:26:44 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)",
    ],
)
def test_the_driver_is_read_from_its_kernel_module(tmp_path, line):
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0\n", encoding="utf-8")
    assert machine.driver_version(tmp_path / "version") == "580.65.06"


def command(folder, name, body, monkeypatch):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_nvidia_smi_is_asked_where_there_is_no_module(tmp_path, monkeypatch):
    command(tmp_path / "bin", "nvidia-smi", "printf 'NVIDIA H200, 575.57.08\\nNVIDIA H200, 575.57.08\\n'", monkeypatch)
    assert machine.gpus_of_driver() == [("NVIDIA H200", "575.57.08")] * 2
    assert machine.driver_version(tmp_path / "absent") == "575.57.08"
    command(tmp_path / "bin", "nvidia-smi", "echo 'no devices were found'; exit 6", monkeypatch)
    assert machine.gpus_of_driver() is None
    assert machine.driver_version(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("NVIDIA (R) Nsight Compute Command Line Profiler\\nVersion 2025.3.1.0 (build 1) (public)", "2025.3.1.0"),
        ("NVIDIA Nsight Systems version 2025.5.1.121-255136380782v0", "2025.5.1.121-255136380782v0"),
        ("?", "of a version that it does not tell"),
    ],
)
def test_versions_of_profilers(tmp_path, monkeypatch, printed, expected):
    command(tmp_path / "bin", "ncu", f"printf '{printed}\\n'", monkeypatch)
    assert machine.profiler_version("ncu") == expected
    assert machine.profiler_version("nsys") is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), None),
        (("apex/__init__.py",), None),  # PyPI's, which is something else
        (("apex/__init__.py", "apex/normalization/__init__.py"), "0.1, without its CUDA extensions"),
        (("apex/__init__.py", "apex/normalization/__init__.py", "amp_C.py"), "0.1"),
    ],
)
def test_apex_is_told_from_its_namesake_and_not_imported(tmp_path, monkeypatch, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    if files:
        (tmp_path / "apex-0.1.dist-info").mkdir()
        (tmp_path / "apex-0.1.dist-info" / "METADATA").write_text("Name: apex\nVersion: 0.1\n", encoding="utf-8")
    elsewhere = [place for place in sys.path if not os.path.exists(os.path.join(place, "apex"))]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    assert machine.apex() == expected


def test_pinned_versions_are_compared_with_what_is_installed(tmp_path):
    pytest_version = importlib.metadata.version("pytest")
    text = f"# what is needed\npytest=={pytest_version}  # the same\nnumpy==0.1\nno-such-package[extra]==1.2.post3\n"
    (tmp_path / "requirements.txt").write_text(text, encoding="utf-8")
    found = machine.pins_of(tmp_path / "requirements.txt")
    numpy_version = importlib.metadata.version("numpy")
    assert [(r.name, r.pinned, r.installed, r.fits) for r in found] == [
        ("pytest", pytest_version, pytest_version, True),
        ("numpy", "0.1", numpy_version, False),
        ("no-such-package", "1.2.post3", None, False),
    ]
    assert str(found[1]) == f"numpy {numpy_version} (0.1)"
    assert str(found[2]) == "no-such-package is missing (1.2.post3)"


def test_all_of_the_projects_requirements_are_read():
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(machine.pins_of(REQUIREMENTS)) == len(pinned)
    assert machine.pins_of(PROJECT_ROOT / "absent.txt") == []


def test_what_follows_a_plus_is_no_other_version(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: "2.13.0+cu128")
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    assert machine.pins_of(tmp_path / "requirements.txt")[0].fits


def test_versions_compare_as_numbers():
    assert machine.version_of("580.65.06") == (580, 65, 6)
    assert machine.version_of("CUDA 12.8") < machine.version_of("12.10")
    assert machine.version_of(None) == ()
    assert machine.version_of(platform.python_version())[0] == 3


def test_the_image_is_known_by_its_python():
    dockerfile = (PROJECT_ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    (prefix,) = re.findall(r"VIRTUAL_ENV=(\S+)", dockerfile)
    assert machine.is_in_image(prefix)
    assert not machine.is_in_image(sys.base_prefix)
