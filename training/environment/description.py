"""What a run ran on: every log and every result carries it, or the numbers in them could not be compared.

Nothing here fails where something is absent, a GPU, a driver or git: the entry is then None. Host names are left out,
so that logs can be published.
"""

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

from common.workers import usable_cores
from training.environment.machine import driver_version, machine_facts, output_of

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def describe_environment() -> dict[str, Any]:
    """Hardware, software, source version, command line and time of this process, in JSON's types."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": shlex.join(sys.argv),
        **_git(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "operating_system": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        **machine_facts(PROJECT_ROOT / "requirements.txt"),
        **gpu_facts(),
    }


def gpu_facts() -> dict[str, Any]:
    """The GPUs that this process sees, and the software between them and it."""
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    has_nccl = torch.cuda.is_available() and torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return {
        "gpus": [device.name for device in devices],
        "compute_capabilities": [f"{device.major}.{device.minor}" for device in devices],
        "gpu_memory_bytes": [device.total_memory for device in devices],
        "driver": driver_version() if devices else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
    }


def _git() -> dict[str, Any]:
    """Commit, and whether files differ from it; None where the project is not itself a git checkout."""
    top = output_of("git", "-C", str(PROJECT_ROOT), "rev-parse", "--show-toplevel")
    commit = output_of("git", "-C", str(PROJECT_ROOT), "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit or not top or Path(top).resolve() != PROJECT_ROOT:
        return {"git_commit": None, "git_dirty": None}
    changes = output_of("git", "-C", str(PROJECT_ROOT), "status", "--porcelain")
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, None) or platform.processor() or platform.machine() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
