"""What a run ran on: every log and every result carries it, or the numbers in them could not be compared.

What cannot be found out is None and never an error. PyTorch is imported only by the functions that ask it, since
scripts/check_environment.py also looks at machines without it. Host names are left out, so that logs can be published.

Source for who may read a GPU's counters: NVIDIA, "ERR_NVGPUCTRPERM" (developer.nvidia.com); capabilities(7).
"""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.addresses import without_secrets
from common.version import VERSION
from common.workers import usable_cores

PROJECT_ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = PROJECT_ROOT / "requirements.txt"
SHARED_MEMORY = Path("/dev/shm")
DRIVER_SETTINGS = Path("/proc/driver/nvidia/params")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
PROCESS_STATUS = Path("/proc/self/status")
CAP_SYS_ADMIN, CAP_PERFMON = 21, 38  # bits of a process's capabilities
PROFILERS = ("ncu", "nsys")
NOT_RUN = (":!docs", ":!tests", ":!*.md")  # for git: files that are there for people
CONTAINER_MARKS = (("/.singularity.d", "apptainer"), ("/run/.containerenv", "podman"), ("/.dockerenv", "docker"))


def describe_environment() -> dict[str, Any]:
    """Hardware, software, source version, command line and time of this process, in JSON's types."""
    import numpy
    import torch

    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": shlex.join(map(without_secrets, sys.argv)),
        "version": VERSION,
        **_git(),
        "numpy": numpy.__version__,
        "torch_threads": torch.get_num_threads(),
        **machine_facts(),
        **gpu_facts(),
    }


def machine_facts() -> dict[str, Any]:
    """What needs no package; takes milliseconds."""
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    marked = (engine for mark, engine in CONTAINER_MARKS if Path(mark).exists())
    unmarked = "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None
    return {
        "python": platform.python_version(),
        "operating_system": platform.platform(),
        "cpu": _line_of(Path("/proc/cpuinfo"), r"model name\s*: (.+)") or platform.processor() or platform.machine(),
        "cpu_cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "container": os.environ.get("container") or next(marked, unmarked),  # noqa: SIM112  # systemd's, enroot's
        "shared_memory_bytes": shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None,
        "locked_memory_bytes": "unlimited" if locked == resource.RLIM_INFINITY else locked,
        "gpu_counters_readable": may_read_gpu_counters(),
        "profilers": [name for name in PROFILERS if shutil.which(name)],
        # Without its CUDA extensions apex is of no use here, and the package of that name on PyPI is something else.
        "apex": _installed("apex") if importlib.util.find_spec("amp_C") else None,
        "other_versions_than_pinned": other_versions(),
    }


def gpu_facts() -> dict[str, Any]:
    """The GPUs that this process sees, and the software between them and it."""
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    has_nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    return {
        "torch": torch.__version__,
        "gpus": [device.name for device in devices],
        "compute_capabilities": [f"{device.major}.{device.minor}" for device in devices],
        "gpu_memory_bytes": [device.total_memory for device in devices],
        "driver": driver_version() if devices else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
    }


def gpus_of_driver() -> list[tuple[str, str]] | None:
    """Name and driver version of each GPU that nvidia-smi shows; None where it is missing or fails."""
    shown = _output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    # It warns of a GPU in lines of other forms.
    return None if shown is None else [tuple(line.rsplit(", ", 1)) for line in shown.splitlines() if ", " in line]


def driver_version(file: Path = DRIVER_VERSION) -> str | None:
    """Of the kernel module, which containers without nvidia-smi show too, else by nvidia-smi."""
    loaded = _line_of(file, r"NVRM.*?\s(\d+\.[\d.]+)\s")
    return loaded or next((driver for _, driver in gpus_of_driver() or ()), None)


def may_read_gpu_counters(settings: Path = DRIVER_SETTINGS, status: Path = PROCESS_STATUS) -> bool | None:
    """Whether Nsight Compute may count here; None without an NVIDIA driver."""
    only_admins = _line_of(settings, r"RmProfilingAdminOnly: *(\d)")
    capabilities = _line_of(status, r"CapEff:\s*([0-9a-f]+)")
    if only_admins is None or capabilities is None:
        return None
    return only_admins == "0" or any(int(capabilities, 16) >> bit & 1 for bit in (CAP_SYS_ADMIN, CAP_PERFMON))


def other_versions(requirements: Path = REQUIREMENTS) -> list[str]:
    """Packages that are not of the version that is pinned, as `numpy 2.1.0 (2.4.6)` or `numpy is missing (2.4.6)`."""
    if not requirements.is_file():
        return ["requirements.txt is missing"]
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    installed = {name: _installed(name) for name, _ in pins}
    return [f"{name} {installed[name] or 'is missing'} ({pin})" for name, pin in pins if installed[name] != pin]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Commit, and whether what can change a result differs from it; None where the project is no git checkout itself.

    Nothing reads a file that git does not know, unless one that it knows is changed too.
    """
    in_project = ("git", "-C", str(PROJECT_ROOT))
    if _output_of(*in_project, "rev-parse", "--show-toplevel") != str(PROJECT_ROOT):
        return {"git_commit": None, "git_dirty": None}
    changes = _output_of(*in_project, "status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_RUN)
    dirty = None if changes is None else bool(changes)
    return {"git_commit": _output_of(*in_project, "rev-parse", "HEAD"), "git_dirty": dirty}


def _line_of(file: Path, pattern: str) -> str | None:
    """What the pattern's group matches in the first line that begins so; None without one."""
    try:
        found = re.search(f"^{pattern}", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found and found[1]


def _output_of(*command: str) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()
