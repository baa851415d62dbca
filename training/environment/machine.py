"""What the machine, its driver and a container around us allow, without PyTorch: for logs, and before it is installed.

Every run's log carries `machine_facts`; scripts/check_environment.py judges the same functions' answers. What cannot be
found out is None and never an error.

Sources: proc(5) and capabilities(7); NVIDIA, "ERR_NVGPUCTRPERM: Permission issue with Performance Counters"
(developer.nvidia.com) for who may read a GPU's counters.
"""

import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SHARED_MEMORY = Path("/dev/shm")
DRIVER_SETTINGS = Path("/proc/driver/nvidia/params")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
PROCESS_STATUS = Path("/proc/self/status")
CAP_SYS_ADMIN, CAP_PERFMON = 21, 38  # bits of a process's capabilities
DRIVER_WITH_PERFMON = 565  # the first that takes CAP_PERFMON for enough
PROFILERS = ("ncu", "nsys")
IMAGE_ENVIRONMENT = "/opt/bert_pytorch"  # of docker/Dockerfile
# Files that container engines leave in every container.
ENGINE_MARKS = (("/run/.containerenv", "podman"), ("/.dockerenv", "docker"))
APPTAINER_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")


def machine_facts(requirements: Path) -> dict[str, Any]:
    """For the log, in JSON's types; takes milliseconds.

    Args:
        requirements: the file of pinned versions.
    """
    return {
        "container": container(),
        "shared_memory_bytes": shared_memory_bytes(),
        "locked_memory_bytes": locked_memory_bytes(),
        "gpu_counters_readable": may_read_gpu_counters(),
        "profilers": [name for name in PROFILERS if shutil.which(name)],
        "apex": apex(),
        "other_versions_than_pinned": [str(pin) for pin in pins_of(requirements) if not pin.fits],
    }


def container(variables: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str | None:
    """The kind of container this process is in, by the marks that engines leave; None outside of one."""
    if any(name in variables for name in APPTAINER_VARIABLES):
        return "apptainer"
    marked = (engine for file, engine in ENGINE_MARKS if (root / file.lstrip("/")).exists())
    engine = variables.get("container") or next(marked, None)  # the variable is systemd's convention
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in variables else engine


def is_in_image(prefix: str = sys.prefix) -> bool:
    """Whether this Python is the one of the project's image, in which only a new build installs anything for good."""
    return prefix == IMAGE_ENVIRONMENT


def shared_memory_bytes(folder: Path = SHARED_MEMORY) -> int | None:
    """Size of /dev/shm, through which NCCL moves data between the GPUs of a machine."""
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return None


def locked_memory_bytes() -> int | str | None:
    """How much memory this process may keep from being swapped, as network adapters want it, or `unlimited`."""
    try:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    except (OSError, ValueError):
        return None
    return "unlimited" if limit == resource.RLIM_INFINITY else limit


def may_read_gpu_counters(
    settings: Path = DRIVER_SETTINGS, status: Path = PROCESS_STATUS, version: Path = DRIVER_VERSION
) -> bool | None:
    """Whether Nsight Compute may count here; None without an NVIDIA driver."""
    try:
        only_admins = re.search(r"^RmProfilingAdminOnly: *(\d)", settings.read_text(encoding="utf-8"), re.MULTILINE)
        effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    if only_admins is None or effective is None:
        return None
    sufficient = [CAP_SYS_ADMIN]
    if version_of(driver_version(version)) >= (DRIVER_WITH_PERFMON,):
        sufficient.append(CAP_PERFMON)
    return only_admins[1] == "0" or any(int(effective[1], 16) >> bit & 1 for bit in sufficient)


def driver_version(file: Path = DRIVER_VERSION) -> str | None:
    """Of the NVIDIA kernel module that is loaded, else what nvidia-smi says."""
    try:
        found = re.search(r"^NVRM.*?\s(\d+\.[\d.]+)\s", file.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return found[1]
    gpus = gpus_of_driver()
    return gpus[0][1] if gpus else None


def gpus_of_driver() -> list[tuple[str, str]] | None:
    """Name and driver version of each GPU that nvidia-smi shows; None where it is missing or fails."""
    shown = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if shown is None:
        return None
    return [(name.strip(), driver.strip()) for name, _, driver in (line.rpartition(",") for line in shown.splitlines())]


def apex() -> str | None:
    """The version of NVIDIA's apex, and whether its CUDA extensions were built; None where it is not installed.

    Nothing is imported. The package of that name on PyPI is something else and has no `normalization`.
    """
    package, version = importlib.util.find_spec("apex"), _installed("apex")
    places = package.submodule_search_locations if package else None
    if version is None or not any((Path(place) / "normalization").is_dir() for place in places or ()):
        return None
    return version if importlib.util.find_spec("amp_C") else f"{version}, without its CUDA extensions"


class Pin(NamedTuple):
    """A pinned package, and what is installed of it."""

    name: str
    pinned: str
    installed: str | None
    """Without what follows a plus; None where the package is missing."""

    @property
    def fits(self) -> bool:
        """Whether it is the pinned version."""
        return self.installed == self.pinned

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'is missing'} ({self.pinned})"


def pins_of(requirements: Path) -> list[Pin]:
    """The packages of a requirements file that are pinned, in its order."""
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", text, re.MULTILINE)
    return [Pin(name, pinned, _installed(name)) for name, pinned in found]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def profiler_version(command: str) -> str | None:
    """What a profiler of Nsight's says of its version; None where it is not on the PATH."""
    if shutil.which(command) is None:
        return None
    found = re.search(r"[Vv]ersion (\S+)", output_of(command, "--version") or "")
    return found[1] if found else "of a version that it does not tell"


def version_of(text: str | None) -> tuple[int, ...]:
    """The first number with dots in a text: (580, 65, 6); empty without one."""
    found = re.search(r"\d+(\.\d+)*", text or "")
    return tuple(map(int, found[0].split("."))) if found else ()


def output_of(*command: str, seconds: float = 20.0) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()
