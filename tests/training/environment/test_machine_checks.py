"""Machines that are made up, and what is said of them."""

import pytest

from training.environment.machine import Pin
from training.environment.machine_checks import (
    OK,
    PROBLEM,
    REBUILD,
    WARNING,
    apex_finding,
    gpu_findings,
    memory_findings,
    profiler_findings,
    python_findings,
)


def facts(n_gpus=1, capability="9.0", cuda="12.8", nccl="2.27.3"):
    return {
        "gpus": ["NVIDIA H200"] * n_gpus,
        "compute_capabilities": [capability] * n_gpus,
        "driver": None,
        "cuda": cuda,
        "nccl": nccl,
    }


def of(found, driver="580.65.06", shown=1, error=None):
    """The findings about GPUs as {check: state}, and all their remedies."""
    gpus = None if shown is None else [("NVIDIA H200", driver)] * shown
    findings = list(gpu_findings(gpus, "2.13.0", found, lambda index: error))
    for finding in findings:
        assert bool(finding.remedy) == (finding.state != OK), finding
        assert finding.remedy == "" or finding.remedy.endswith((".", "bash build_image.sh"))
    return {finding.check: finding.state for finding in findings}, " ".join(f.remedy for f in findings)


def test_a_machine_on_which_all_agree():
    states, _ = of(facts(n_gpus=8), shown=8)
    assert set(states.values()) == {OK}
    assert {"GPU", "driver", "PyTorch", "a matrix product", "NCCL"} == states.keys()


@pytest.mark.parametrize("shown", [None, 0])
def test_no_gpu_is_a_warning(shown):
    assert of(facts(n_gpus=0, cuda=None, nccl=None), shown=shown)[0] == {"GPU": WARNING, "PyTorch": OK}


@pytest.mark.parametrize(
    ("driver", "cuda", "state"),
    [
        ("525.60.13", "12.8", OK),
        ("525.60.11", "12.8", PROBLEM),
        ("575.57.08", "13.0", PROBLEM),
        ("580.65.06", "13.0", OK),
        ("590.1", "12.8", OK),
        ("9.9", "14.0", OK),  # nobody knows what that will need
    ],
)
def test_the_driver_must_be_new_enough_for_pytorchs_cuda(driver, cuda, state):
    states, remedies = of(facts(cuda=cuda), driver)
    assert states["driver"] == state
    assert ("Install a driver from" in remedies) == (state != OK)


def test_gpus_that_pytorch_does_not_see_are_a_problem():
    states, remedy = of(facts(n_gpus=0, cuda=None, nccl=None))
    assert states == {"GPU": OK, "PyTorch": PROBLEM}
    assert "built for CUDA" in remedy
    states, remedy = of(facts(n_gpus=0))
    assert states["GPUs in PyTorch"] == PROBLEM
    assert "CUDA_VISIBLE_DEVICES" in remedy
    assert "--gpus all" in remedy


def test_gpus_that_are_hidden_on_purpose_are_a_warning():
    found = list(gpu_findings([("NVIDIA H200", "575.57.08")], "2.13.0", facts(n_gpus=0), None, are_hidden=True))
    assert [(finding.check, finding.state) for finding in found] == [("GPU", WARNING), ("PyTorch", OK)]
    assert found[0].found == "1 x NVIDIA H200, hidden by CUDA_VISIBLE_DEVICES"


def test_a_kernel_that_fails_is_a_problem():
    states, remedy = of(facts(), error="CUDA error: no kernel image is available for execution on the device")
    assert states["a matrix product"] == PROBLEM
    assert "install a PyTorch that was built for it" in remedy


@pytest.mark.parametrize(("n_gpus", "state"), [(1, None), (2, PROBLEM)])
def test_several_gpus_need_nccl(n_gpus, state):
    assert of(facts(n_gpus=n_gpus, nccl=None))[0].get("NCCL") == state


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 19), PROBLEM), ((3, 11, 0), OK), ((3, 14, 9), OK), ((3, 15, 0), WARNING)]
)
def test_python(version, state):
    assert next(python_findings(version, [], None)).state == state


def test_packages_that_are_missing_or_others_are_named():
    missing = Pin("no-such-package", "1.2", None)
    _, packages, imported = python_findings((3, 11, 1), [missing], "ModuleNotFoundError: No module named 'h5py'")
    assert (packages.state, imported.state) == (WARNING, PROBLEM)
    assert "no-such-package is missing (1.2)" in packages.found
    assert "h5py" in imported.found


@pytest.mark.parametrize(
    ("shared", "locked", "n_gpus", "states"),
    [
        (2**26, 65536, 1, [OK, OK]),
        (2**26, 65536, 8, [WARNING, WARNING]),
        (2**30, "unlimited", 8, [OK, OK]),
        (None, None, 8, [WARNING, WARNING]),
    ],
)
def test_memory_matters_between_gpus(shared, locked, n_gpus, states):
    findings = list(memory_findings(shared, locked, n_gpus, in_container=True))
    assert [finding.state for finding in findings] == states
    remedies = " ".join(finding.remedy for finding in findings)
    assert ("--shm-size" in remedies, "memlock=-1" in remedies) == (states[0] != OK, states[1] != OK)


def test_profilers():
    found = list(profiler_findings({"ncu": "2025.3", "nsys": None}, counters=False, in_container=True))
    assert [(finding.check, finding.state) for finding in found] == [
        ("Nsight Compute", OK),
        ("Nsight Systems", WARNING),
        ("GPU counters", WARNING),
    ]
    assert "start_container.sh --profile" in found[2].remedy
    (counters,) = profiler_findings({}, counters=False, in_container=False)
    assert "NVreg_RestrictProfilingToAdminUsers=0" in counters.remedy
    assert list(profiler_findings({}, counters=None, in_container=False)) == []
    assert apex_finding(None).state == OK


def test_in_the_image_only_a_new_build_installs_anything():
    missing = Pin("absent-package", "1.0", None)
    findings = list(python_findings((3, 12, 3), [missing], "no module", REBUILD))
    findings += profiler_findings({"ncu": None}, counters=None, in_container=True, in_image=True)
    amiss = [finding.remedy for finding in findings if finding.state != OK]
    assert len(amiss) == 3
    assert all("bash build_image.sh" in remedy and "install --requirement" not in remedy for remedy in amiss)
