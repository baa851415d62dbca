"""Machines that are made up, and what is said of them."""

import pytest
from paths import ROOT

from training.environment.machine_checks import OK, PROBLEM, WARNING, gpu_findings, machine_findings

MACHINE = {
    "python": "3.12.3",
    "other_versions_than_pinned": [],
    "shared_memory_bytes": 2**30,
    "locked_memory_bytes": "unlimited",
    "profilers": ["ncu", "nsys"],
    "gpu_counters_readable": True,
}


def facts(n_gpus=1, capability="9.0", cuda="12.8", nccl="2.27.3"):
    return {
        "torch": "2.13.0",
        "gpus": ["NVIDIA H200"] * n_gpus,
        "compute_capabilities": [capability] * n_gpus,
        "cuda": cuda,
        "nccl": nccl,
    }


def states_of(findings):
    """The findings as {check: state}, and all their remedies."""
    findings = list(findings)
    for finding in findings:
        assert bool(finding.remedy) == (finding.state != OK), finding
    return {finding.check: finding.state for finding in findings}, " ".join(f.remedy for f in findings)


def of(found, driver="580.65.06", shown=1, error=None):
    gpus = None if shown is None else [("NVIDIA H200", driver)] * shown
    return states_of(gpu_findings(gpus, found, lambda index: error))


def of_machine(n_gpus=8, error=None, **changes):
    return states_of(machine_findings({**MACHINE, **changes}, n_gpus, error))


def test_a_machine_on_which_all_agree():
    states, _ = of(facts(n_gpus=8), shown=8)
    assert set(states.values()) == {OK}
    assert {"GPU", "driver", "PyTorch", "a matrix product", "NCCL"} == states.keys()
    assert set(of_machine()[0].values()) == {OK}


@pytest.mark.parametrize("shown", [None, 0])
def test_no_gpu_is_a_warning(shown):
    assert of(facts(n_gpus=0, cuda=None, nccl=None), shown=shown)[0] == {"GPU": WARNING, "PyTorch": OK}
    assert of(facts(n_gpus=0), shown=shown)[0] == {"GPU": WARNING, "PyTorch": OK}


@pytest.mark.parametrize(
    ("driver", "cuda", "state"),
    [
        ("525.60.13", "12.8", OK),
        ("525.60.11", "12.8", PROBLEM),
        ("575.57.08", "13.0", PROBLEM),
        ("580.65.06", "13.0", OK),
        ("590.1", "12.8", OK),
        ("9.9", "14.0", None),  # nobody knows what that will need
    ],
)
def test_the_driver_must_be_new_enough_for_pytorchs_cuda(driver, cuda, state):
    states, remedies = of(facts(cuda=cuda), driver)
    assert states.get("driver") == state
    assert ("Install a driver from" in remedies) == (state == PROBLEM)


@pytest.mark.parametrize("cuda", [None, "12.8"])
def test_gpus_that_pytorch_does_not_see_are_a_problem(cuda):
    states, remedy = of(facts(n_gpus=0, cuda=cuda, nccl=None))
    assert (states["GPU"], states["PyTorch"]) == (OK, PROBLEM)
    assert all(word in remedy for word in ("built for CUDA", "CUDA_VISIBLE_DEVICES", "--gpus all"))


def test_a_kernel_that_fails_is_a_problem():
    states, remedy = of(facts(), error="CUDA error: no kernel image is available for execution on the device")
    assert states["a matrix product"] == PROBLEM
    assert "install a PyTorch that was built for it" in remedy


@pytest.mark.parametrize(("n_gpus", "state"), [(1, None), (2, PROBLEM)])
def test_several_gpus_need_nccl(n_gpus, state):
    assert of(facts(n_gpus=n_gpus, nccl=None))[0].get("NCCL") == state


@pytest.mark.parametrize(
    ("version", "state"), [("3.10.19", PROBLEM), ("3.11.0", OK), ("3.14.9", OK), ("3.15.0a1", WARNING)]
)
def test_python(version, state):
    assert of_machine(python=version)[0]["Python"] == state


def test_packages_that_are_missing_or_others_are_a_warning_and_a_failing_import_a_problem():
    missing = ["no-such-package is missing (1.2)"]
    states, remedies = of_machine(other_versions_than_pinned=missing, error="ModuleNotFoundError: No module named 'x'")
    assert (states["packages"], states["import of the training"]) == (WARNING, PROBLEM)
    assert remedies.count(f" -m pip install --requirement {ROOT}/requirements.txt") == 2


@pytest.mark.parametrize(
    ("shared", "locked", "n_gpus", "states"),
    [
        (2**26, 65536, 1, [OK, OK]),
        (2**26, 65536, 8, [WARNING, WARNING]),
        (None, "unlimited", 8, [WARNING, OK]),
    ],
)
def test_memory_matters_between_gpus(shared, locked, n_gpus, states):
    found, remedies = of_machine(n_gpus, shared_memory_bytes=shared, locked_memory_bytes=locked)
    assert [found["shared memory"], found["locked memory"]] == states
    assert ("--shm-size" in remedies, "memlock=-1" in remedies) == (states[0] != OK, states[1] != OK)


def test_profilers():
    states, remedies = of_machine(profilers=["ncu"], gpu_counters_readable=False)
    assert (states["Nsight Compute"], states["Nsight Systems"], states["GPU counters"]) == (OK, WARNING, WARNING)
    assert f"WITH_NSIGHT=1 bash {ROOT}/build_image.sh" in remedies
    assert "start_container.sh --profile" in remedies
    assert "GPU counters" not in of_machine(gpu_counters_readable=None)[0]
