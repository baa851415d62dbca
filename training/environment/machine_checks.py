"""Whether training can run on this machine, and what keeps it from doing so: facts in, findings with a remedy out.

Apart from the facts (machine.py, environment.py), so that any machine can be judged from its facts alone. A problem
means that training cannot run, or not on the GPUs that are there; a warning, that something else is lost.

Sources: NVIDIA, "CUDA Compatibility" (docs.nvidia.com/deploy/cuda-compatibility): an application of a CUDA major
version runs on drivers from a lowest one on. CUDA C++ Programming Guide, "Binary Compatibility": code for compute
capability X.y runs on X.z with z not below y, and PTX on all later ones.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from training.environment.machine import Requirement, version_of

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LOWEST_DRIVERS = MappingProxyType({11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)})  # Linux, by CUDA's major
PYTHONS = ((3, 11), (3, 14))
# NVIDIA's advice for containers. Docker gives 64 MiB, of which NCCL's first GPUs leave nothing.
SHARED_MEMORY_ADVICE = 2**30
INSTALL = "python3 -m pip install --requirement requirements.txt"
REBUILD = "on the host, bash build_image.sh"  # where the Python is the image's


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    found: str
    state: str = OK
    remedy: str = ""
    """One sentence; for all that is not OK."""


def python_findings(
    version: tuple[int, ...], requirements: Sequence[Requirement], error: str | None, install: str = INSTALL
) -> list[Finding]:
    """Python and its packages.

    Args:
        error: what importing the training raised, if it did.
        install: INSTALL or REBUILD.
    """
    lowest, highest = PYTHONS
    spelled = ".".join(map(str, version))
    remedy = (
        f"Take Python {'.'.join(map(str, lowest))} to {'.'.join(map(str, highest))}, for which versions are pinned."
    )
    state = PROBLEM if version[:2] < lowest else WARNING if version[:2] > highest else OK
    findings = [Finding("Python", spelled, state, remedy if state != OK else "")]
    others = [str(requirement) for requirement in requirements if not requirement.fits]
    found = f"all {len(requirements)} as pinned" if not others else ", ".join(others) + " as pinned in brackets"
    remedy = f"What was measured was measured with the pinned versions: {install}."
    findings.append(Finding("packages", found, WARNING, remedy) if others else Finding("packages", found))
    if error is not None:
        findings.append(Finding("import of the training", error, PROBLEM, f"Install what is missing: {install}."))
    return findings


def gpu_findings(
    shown: Sequence[tuple[str, str]] | None,
    torch_version: str,
    facts: dict[str, Any],
    architectures: Sequence[str],
    run_kernel: Callable[[int], str | None],
    are_hidden: bool = False,
) -> Iterator[Finding]:
    """GPU, driver, CUDA and PyTorch, and whether they agree.

    Args:
        shown: (name, driver version) by nvidia-smi; None: it is not there or fails.
        facts: of `environment.gpu_facts`.
        architectures: those that PyTorch was built for, such as sm_90 and compute_90.
        run_kernel: computes on the GPU of this index; returns what went wrong.
        are_hidden: CUDA_VISIBLE_DEVICES names none, so that nobody wants them.
    """
    gpus, cuda = facts["gpus"], facts["cuda"]
    built_for = f"torch {torch_version}, for CUDA {cuda}" if cuda else f"torch {torch_version}, for CPUs only"
    if not shown and not gpus:
        found = "nvidia-smi shows none" if shown is not None else "there is no nvidia-smi that works"
        remedy = (
            "Training runs on the CPU, which is for trying things; on a machine with a GPU, install NVIDIA's driver "
            "and, for containers, its container toolkit."
        )
        yield Finding("GPU", found, WARNING, remedy)
        yield Finding("PyTorch", built_for)
        return
    if are_hidden:
        found = f"{_counted([name for name, _ in shown or ()])}, hidden by CUDA_VISIBLE_DEVICES"
        yield Finding("GPU", found, WARNING, "Training runs on the CPU; unset CUDA_VISIBLE_DEVICES to use the GPU.")
        yield Finding("PyTorch", built_for)
        return
    driver = shown[0][1] if shown else facts["driver"]
    yield Finding("GPU", _counted(gpus or [name for name, _ in shown or ()]))
    if cuda is None:
        remedy = "PyTorch cannot use the GPU; install one that was built for CUDA, as PyPI's for Linux are."
        yield Finding("PyTorch", built_for, PROBLEM, remedy)
        return
    yield Finding("PyTorch", built_for)
    yield _driver_finding(driver, cuda)
    if not gpus:
        remedy = (
            "Look whether CUDA_VISIBLE_DEVICES names a GPU that is there, and whether nvidia-smi works for this user; "
            "in a container, whether it was started with --gpus all."
        )
        yield Finding("GPUs in PyTorch", "torch.cuda sees none", PROBLEM, remedy)
        return
    for index, (name, capability) in enumerate(zip(gpus, facts["compute_capabilities"], strict=True)):
        if not runs_on(capability, architectures):
            found = f"GPU {index} ({name}) has {capability}; PyTorch was built for {' '.join(architectures)}"
            remedy = "Install a PyTorch that was built for this GPU: for new ones a newer, for old ones an older one."
            yield Finding("compute capability", found, PROBLEM, remedy)
        elif error := run_kernel(index):
            remedy = "See nvidia-smi for what else runs there and for errors; a reboot of the machine often helps."
            yield Finding("a matrix product", f"GPU {index} ({name}): {error}", PROBLEM, remedy)
        else:
            yield Finding("a matrix product", f"GPU {index}, compute capability {capability}: right")
    if facts["nccl"]:
        yield Finding("NCCL", facts["nccl"])
    elif len(gpus) > 1:
        remedy = "Several GPUs train together through NCCL only; install a PyTorch that has it, or set NUM_GPUS=1."
        yield Finding("NCCL", "PyTorch has none", PROBLEM, remedy)


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _driver_finding(driver: str | None, cuda: str) -> Finding:
    lowest = LOWEST_DRIVERS.get(version_of(cuda)[0])
    if driver is None or lowest is None:
        return Finding("driver", f"{driver or 'unknown'}, for CUDA {cuda}")
    if version_of(driver) >= lowest:
        return Finding("driver", f"{driver}, new enough for CUDA {cuda}")
    needed = ".".join(map(str, lowest))
    remedy = (
        f"Install a driver from {needed} on, or a PyTorch for an older CUDA (https://pytorch.org/get-started; for the "
        "image, CUDA_VARIANT of build_image.sh)."
    )
    return Finding("driver", f"{driver}, too old for CUDA {cuda}", PROBLEM, remedy)


def runs_on(capability: str, architectures: Sequence[str]) -> bool:
    """Whether code for one of these architectures runs on a GPU of this compute capability, such as 9.0."""
    major, minor = map(int, capability.split("."))
    for architecture in architectures:
        named = re.fullmatch(r"(sm|compute)_(\d+)([a-z]?)", architecture)
        if named is None:
            continue
        kind, digits, variant = named.groups()
        built = divmod(int(digits), 10)
        if variant == "a" and built == (major, minor):  # of this GPU and of no other
            return True
        if variant != "a" and built[0] == major and built[1] <= minor:
            return True
        if not variant and kind == "compute" and built <= (major, minor):
            return True
    return False


def memory_findings(shared: int | None, locked: int | str | None, n_gpus: int, in_container: bool) -> list[Finding]:
    """Shared and locked memory. The loader is a thread and needs neither; NCCL does, between several GPUs."""
    findings = []
    found = "unknown" if shared is None else f"{shared / 2**30:.2f} GiB"
    enough = shared is not None and shared >= SHARED_MEMORY_ADVICE
    how = "Start the container with --shm-size=1g or more" if in_container else "Remount /dev/shm with size=1g or more"
    remedy = f"{how}, or NCCL may fail between GPUs."
    if n_gpus > 1 and not enough:
        findings.append(Finding("shared memory", found, WARNING, remedy))
    else:
        findings.append(Finding("shared memory", f"{found} (needed between GPUs only; the loader takes none)"))
    found = locked if isinstance(locked, str) else "unknown" if locked is None else f"{locked / 2**20:,.0f} MiB"
    if n_gpus > 1 and locked != "unlimited":
        how = "Start the container with --ulimit memlock=-1" if in_container else "Set `ulimit -l unlimited`"
        remedy = f"{how}; InfiniBand adapters need it."
        findings.append(Finding("locked memory", found, WARNING, remedy))
    else:
        findings.append(Finding("locked memory", found))
    return findings


def profiler_findings(
    versions: dict[str, str | None], counters: bool | None, in_container: bool, in_image: bool = False
) -> list[Finding]:
    """Nsight Compute and Nsight Systems, and whether the first may count.

    Args:
        versions: by command; None: not on the PATH.
        counters: of `may_read_gpu_counters`.
        in_image: of `machine.is_in_image`.
    """
    titles = {"ncu": "Nsight Compute", "nsys": "Nsight Systems"}
    findings = []
    for command, version in versions.items():
        source = f"install {titles[command]}, from NVIDIA's CUDA package repository"
        how = f"{REBUILD} with WITH_NSIGHT=1" if in_image else source
        remedy = f"Only profiling needs {command}: {how}."
        state = OK if version else WARNING
        findings.append(Finding(titles[command], version or "not on the PATH", state, "" if version else remedy))
    if counters:
        findings.append(Finding("GPU counters", "may be read"))
    elif counters is False:
        how = (
            "Start the container with start_container.sh --profile"
            if in_container
            else "As root, have the driver loaded with NVreg_RestrictProfilingToAdminUsers=0"
        )
        remedy = f"Only Nsight Compute needs them: {how[0].lower()}{how[1:]}."
        findings.append(Finding("GPU counters", "may be read by administrators only", WARNING, remedy))
    return findings


def apex_finding(version: str | None) -> Finding:
    """apex is an option, so nothing is wrong without it."""
    return Finding("apex", version or "not installed; nothing needs it, and its kernels can be chosen where it is")
