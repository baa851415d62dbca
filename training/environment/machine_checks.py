"""Whether training can run on this machine, and what keeps it from doing so: facts in, findings with a remedy out.

Apart from the facts (description.py), so that any machine can be judged from its facts alone. A problem means that
training cannot run, or not on the GPUs that are there; a warning, that something else is lost.

Source: NVIDIA, "CUDA Compatibility" (docs.nvidia.com/deploy/cuda-compatibility): an application of a CUDA major version
runs on drivers from a lowest one on.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from common.packages import install_command, project_command

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LOWEST_DRIVERS = MappingProxyType({"12": "525.60.13", "13": "580.65.06"})  # Linux, by CUDA's major version
LOWEST_PYTHON, HIGHEST_PYTHON = (3, 11), (3, 14)  # for which versions are pinned
ON_THE_HOST = "for the image, on the host"
SHARED_MEMORY_ADVICE = 2**30  # of NVIDIA for containers; Docker gives 64 MiB, of which NCCL's first GPUs leave nothing


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    found: str
    state: str = OK
    remedy: str = ""  # for every finding that is not OK


def finding(check: str, found: str, is_right: object, remedy: str, otherwise: str = WARNING) -> Finding:
    """With the remedy only where it is needed."""
    return Finding(check, found) if is_right else Finding(check, found, otherwise, remedy)


def machine_findings(facts: dict[str, Any], n_gpus: int, import_error: str | None) -> Iterator[Finding]:
    """Python, packages, memory and profilers, from `description.machine_facts` and what importing a training raised."""
    python, build = _numbers(facts["python"])[:2], project_command("bash", "build_image.sh")
    remedy = "Take Python 3.11 to 3.14, for which versions are pinned."
    is_right, otherwise = LOWEST_PYTHON <= python <= HIGHEST_PYTHON, PROBLEM if python < LOWEST_PYTHON else WARNING
    yield finding("Python", facts["python"], is_right, remedy, otherwise)
    others = facts["other_versions_than_pinned"]
    pinned = "What was measured was measured with the pinned versions, in brackets"
    remedy = f"{pinned}: {install_command()}; {ON_THE_HOST}: {build}"
    yield finding("packages", ", ".join(others) or "all as pinned", not others, remedy)
    if import_error:
        yield Finding("import of the training", import_error, PROBLEM, f"Install what is missing: {install_command()}")
    shared, locked = facts["shared_memory_bytes"] or 0, facts["locked_memory_bytes"]
    how = "sudo mount --options remount,size=1g /dev/shm, or docker run --shm-size 1g"
    remedy = f"With less than 1 GiB NCCL may fail between GPUs: {how}"
    yield finding("shared memory", f"{shared / 2**30:.2f} GiB", n_gpus < 2 or shared >= SHARED_MEMORY_ADVICE, remedy)
    found = locked if locked == "unlimited" else f"{locked / 2**20:,.0f} MiB"
    remedy = "InfiniBand adapters need it without a limit: ulimit -l unlimited, or docker run --ulimit memlock=-1"
    yield finding("locked memory", found, n_gpus < 2 or locked == "unlimited", remedy)
    for command, title in (("ncu", "Nsight Compute"), ("nsys", "Nsight Systems")):
        remedy = (
            "Only profiling needs it: install it from NVIDIA's CUDA package repository; "
            f"{ON_THE_HOST}: WITH_NSIGHT=1 {build}"
        )
        has_it = command in facts["profilers"]
        yield finding(title, f"{command} is {'' if has_it else 'not '}on the PATH", has_it, remedy)
    if (counters := facts["gpu_counters_readable"]) is not None:
        found = "may be read" if counters else "may be read by administrators only"
        remedy = (
            "Only Nsight Compute needs them: have the driver loaded with NVreg_RestrictProfilingToAdminUsers=0, as "
            f"root; for a container: {project_command('bash', 'start_container.sh', '--profile')} DATASET_FOLDER"
        )
        yield finding("GPU counters", found, counters, remedy)


def gpu_findings(
    shown: Sequence[tuple[str, str]] | None, facts: dict[str, Any], product_error: Callable[[int], str | None]
) -> Iterator[Finding]:
    """GPU, driver, CUDA and PyTorch, and whether they agree.

    Args:
        shown: (name, driver version) by nvidia-smi; empty where CUDA_VISIBLE_DEVICES hides all GPUs; None: it fails.
        facts: of `description.gpu_facts`.
        product_error: computes on the GPU of this index; returns what went wrong.
    """
    gpus, cuda = facts["gpus"], facts["cuda"]
    names = gpus or [name for name, _ in shown or ()]
    built_for = f"torch {facts['torch']}, for {f'CUDA {cuda}' if cuda else 'CPUs only'}"
    if not names:
        found = "nvidia-smi is missing or fails" if shown is None else "none in nvidia-smi or CUDA_VISIBLE_DEVICES"
        remedy = (
            "Training runs on the CPU, which is for trying things; on a machine with a GPU, install NVIDIA's driver "
            "and, for containers, its container toolkit, or unset CUDA_VISIBLE_DEVICES."
        )
        yield Finding("GPU", found, WARNING, remedy)
        yield Finding("PyTorch", built_for)
        return
    yield Finding("GPU", ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)))
    remedy = (
        "PyTorch cannot use the GPUs. Install one that was built for CUDA, as PyPI's for Linux are; look whether "
        "CUDA_VISIBLE_DEVICES names a GPU that is there, and whether nvidia-smi works for this user; in a container, "
        "whether it was started with --gpus all."
    )
    yield finding("PyTorch", built_for if gpus else f"{built_for}, sees no GPU", gpus, remedy, PROBLEM)
    if shown and cuda and (lowest := LOWEST_DRIVERS.get(cuda.split(".")[0])):
        is_new = _numbers(shown[0][1]) >= _numbers(lowest)
        remedy = (
            f"Install a driver from {lowest} on, or a PyTorch for an older CUDA (https://pytorch.org/get-started); "
            f"{ON_THE_HOST}: CUDA_VARIANT=cu126 {project_command('bash', 'build_image.sh')}"
        )
        found = f"{shown[0][1]}, {'new enough' if is_new else 'too old'} for CUDA {cuda}"
        yield finding("driver", found, is_new, remedy, PROBLEM)
    for index, (name, capability) in enumerate(zip(gpus, facts["compute_capabilities"], strict=True)):
        error = product_error(index)
        found = f"GPU {index} ({name}), compute capability {capability}: {error or 'right'}"
        remedy = (
            "Without a kernel image for this compute capability, install a PyTorch that was built for it: for new GPUs "
            "a newer, for old ones an older one. Else see nvidia-smi for what else runs there; a reboot often helps."
        )
        yield finding("a matrix product", found, error is None, remedy, PROBLEM)
    if facts["nccl"] or len(gpus) > 1:
        remedy = "Several GPUs train together through NCCL only; install a PyTorch that has it, or set NUM_GPUS=1."
        yield finding("NCCL", facts["nccl"] or "PyTorch has none", facts["nccl"], remedy, PROBLEM)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
