"""Whether training can run on this machine, and what keeps it from doing so: facts in, findings with a remedy out.

Apart from the facts (machine.py, description.py), so that any machine can be judged from its facts alone. A problem
means that training cannot run, or not on the GPUs that are there; a warning, that something else is lost. A remedy ends
in a command, if there is one, so that it can be copied.

Source: NVIDIA, "CUDA Compatibility" (docs.nvidia.com/deploy/cuda-compatibility): an application of a CUDA major version
runs on drivers from a lowest one on.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from training.environment.machine import Pin, version_of

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LOWEST_DRIVERS = MappingProxyType({11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)})  # Linux, by CUDA's major
PYTHONS = ((3, 11), (3, 14))  # for which versions are pinned
# NVIDIA's advice for containers. Docker gives 64 MiB, of which NCCL's first GPUs leave nothing.
SHARED_MEMORY_ADVICE = 2**30
INSTALL = "python3 -m pip install --requirement requirements.txt"
REBUILD = "bash build_image.sh"  # on the host, where the Python is the image's
PROFILER_TITLES = MappingProxyType({"ncu": "Nsight Compute", "nsys": "Nsight Systems"})


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    found: str
    state: str = OK
    remedy: str = ""
    """For all that is not OK."""


def finding(check: str, found: str, state: str, remedy: str) -> Finding:
    """With the remedy only where it is needed."""
    return Finding(check, found, state, "" if state == OK else remedy)


def python_findings(
    version: tuple[int, ...], pins: Sequence[Pin], error: str | None, install: str = INSTALL
) -> Iterator[Finding]:
    """Python and its packages.

    Args:
        error: what importing the training raised, if it did.
        install: INSTALL or REBUILD.
    """
    lowest, highest = (".".join(map(str, bound)) for bound in PYTHONS)
    state = PROBLEM if version[:2] < PYTHONS[0] else WARNING if version[:2] > PYTHONS[1] else OK
    remedy = f"Take Python {lowest} to {highest}, for which versions are pinned."
    yield finding("Python", ".".join(map(str, version)), state, remedy)
    others = [str(pin) for pin in pins if not pin.fits]
    found = ", ".join(others) + " as pinned in brackets" if others else f"all {len(pins)} as pinned"
    remedy = f"What was measured was measured with the pinned versions: {install}"
    yield finding("packages", found, WARNING if others else OK, remedy)
    if error is not None:
        yield Finding("import of the training", error, PROBLEM, f"Install what is missing: {install}")


def gpu_findings(
    shown: Sequence[tuple[str, str]] | None,
    torch_version: str,
    facts: dict[str, Any],
    run_kernel: Callable[[int], str | None],
    are_hidden: bool = False,
) -> Iterator[Finding]:
    """GPU, driver, CUDA and PyTorch, and whether they agree.

    Args:
        shown: (name, driver version) by nvidia-smi; None: it is not there or fails.
        facts: of `description.gpu_facts`.
        run_kernel: computes on the GPU of this index; returns what went wrong.
        are_hidden: CUDA_VISIBLE_DEVICES names none, so that nobody wants them.
    """
    gpus, cuda, names = facts["gpus"], facts["cuda"], [name for name, _ in shown or ()]
    built_for = f"torch {torch_version}, for CUDA {cuda}" if cuda else f"torch {torch_version}, for CPUs only"
    if are_hidden or not (names or gpus):
        yield _no_gpu_finding(shown, are_hidden and bool(names))
        yield Finding("PyTorch", built_for)
        return
    yield Finding("GPU", _counted(gpus or names))
    remedy = "PyTorch cannot use the GPU; install one that was built for CUDA, as PyPI's for Linux are."
    yield finding("PyTorch", built_for, OK if cuda else PROBLEM, remedy)
    if not cuda:
        return
    yield _driver_finding(shown[0][1] if shown else facts["driver"], cuda)
    if not gpus:
        remedy = (
            "Look whether CUDA_VISIBLE_DEVICES names a GPU that is there, and whether nvidia-smi works for this user; "
            "in a container, whether it was started with --gpus all."
        )
        yield Finding("GPUs in PyTorch", "torch.cuda sees none", PROBLEM, remedy)
        return
    for index, (name, capability) in enumerate(zip(gpus, facts["compute_capabilities"], strict=True)):
        error = run_kernel(index)
        found = f"GPU {index} ({name}), compute capability {capability}: {error or 'right'}"
        remedy = (
            "Without a kernel image for this compute capability, install a PyTorch that was built for it: for new GPUs "
            "a newer, for old ones an older one. Else see nvidia-smi for what else runs there; a reboot often helps."
        )
        yield finding("a matrix product", found, PROBLEM if error else OK, remedy)
    if facts["nccl"] or len(gpus) > 1:
        remedy = "Several GPUs train together through NCCL only; install a PyTorch that has it, or set NUM_GPUS=1."
        yield finding("NCCL", facts["nccl"] or "PyTorch has none", OK if facts["nccl"] else PROBLEM, remedy)


def _no_gpu_finding(shown: Sequence[tuple[str, str]] | None, are_hidden: bool) -> Finding:
    if are_hidden:
        found = f"{_counted([name for name, _ in shown or ()])}, hidden by CUDA_VISIBLE_DEVICES"
        return Finding("GPU", found, WARNING, "Training runs on the CPU. To use the GPU: unset CUDA_VISIBLE_DEVICES")
    found = "there is no nvidia-smi that works" if shown is None else "nvidia-smi shows none"
    remedy = (
        "Training runs on the CPU, which is for trying things; on a machine with a GPU, install NVIDIA's driver and, "
        "for containers, its container toolkit."
    )
    return Finding("GPU", found, WARNING, remedy)


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _driver_finding(driver: str | None, cuda: str) -> Finding:
    lowest = LOWEST_DRIVERS.get(version_of(cuda)[0])
    if driver is None or lowest is None:
        return Finding("driver", f"{driver or 'unknown'}, for CUDA {cuda}")
    is_old = version_of(driver) < lowest
    remedy = (
        f"Install a driver from {'.'.join(map(str, lowest))} on, or a PyTorch for an older CUDA "
        "(https://pytorch.org/get-started); for the image: CUDA_VARIANT=cu126 bash build_image.sh"
    )
    found = f"{driver}, {'too old' if is_old else 'new enough'} for CUDA {cuda}"
    return finding("driver", found, PROBLEM if is_old else OK, remedy)


def memory_findings(shared: int | None, locked: int | str | None, n_gpus: int, in_container: bool) -> Iterator[Finding]:
    """Shared and locked memory. The loader is a thread and needs neither; NCCL does, between several GPUs."""
    found = "unknown" if shared is None else f"{shared / 2**30:.2f} GiB"
    state = WARNING if n_gpus > 1 and (shared or 0) < SHARED_MEMORY_ADVICE else OK
    note = " (needed between GPUs only; the loader takes none)" if state == OK else ""
    how = "docker run --shm-size 1g" if in_container else "sudo mount --options remount,size=1g /dev/shm"
    yield finding("shared memory", found + note, state, f"With less than 1 GiB NCCL may fail between GPUs: {how}")
    found = locked if isinstance(locked, str) else "unknown" if locked is None else f"{locked / 2**20:,.0f} MiB"
    state = WARNING if n_gpus > 1 and locked != "unlimited" else OK
    how = "docker run --ulimit memlock=-1" if in_container else "ulimit -l unlimited"
    yield finding("locked memory", found, state, f"InfiniBand adapters need it without a limit: {how}")


def profiler_findings(
    versions: dict[str, str | None], counters: bool | None, in_container: bool, in_image: bool = False
) -> Iterator[Finding]:
    """Nsight Compute and Nsight Systems, and whether the first may count.

    Args:
        versions: by command; None: not on the PATH.
        counters: of `may_read_gpu_counters`.
        in_image: of `machine.is_in_image`.
    """
    for command, version in versions.items():
        title = PROFILER_TITLES[command]
        how = f"build the image with it, on the host: WITH_NSIGHT=1 {REBUILD}"
        if not in_image:
            how = f"install {title}, from NVIDIA's CUDA package repository."
        remedy = f"Only profiling needs {command}; {how}"
        yield finding(title, version or "not on the PATH", OK if version else WARNING, remedy)
    if counters is None:
        return
    how = "have the driver loaded with NVreg_RestrictProfilingToAdminUsers=0, as root."
    if in_container:
        how = "start the container so: bash start_container.sh --profile DATASET_FOLDER"
    found = "may be read" if counters else "may be read by administrators only"
    yield finding("GPU counters", found, OK if counters else WARNING, f"Only Nsight Compute needs them; {how}")


def apex_finding(version: str | None) -> Finding:
    """apex is an option, so nothing is wrong without it."""
    return Finding("apex", version or "not installed; nothing needs it, and its kernels can be chosen where it is")
