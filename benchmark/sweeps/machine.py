"""What a sweep must know of its machine. A process of its own asks, as CUDA would hold memory in the sweep's."""

import json
import subprocess
import sys
from typing import Any

from benchmark.sweeps.measurement import ROOT
from common.errors import UserError


def look_at_machine() -> dict[str, Any]:
    """The environment of a measuring process, its default `precision`, and each precision's default `kernels`.

    Raises:
        UserError: PyTorch does not start.
    """
    words = [sys.executable, "-m", "benchmark.sweeps.machine"]
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UserError(f"PyTorch does not start here: {finished.stderr.strip().splitlines()[-1]}")
    return json.loads(finished.stdout.splitlines()[-1])


def describe() -> dict[str, Any]:
    """The same of this process; imports PyTorch."""
    import torch

    from kernels.defaults import fast_paths
    from training.config.precision import PRECISIONS, precision_problem, resolve_precision
    from training.environment.description import describe_environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    able = [resolve_precision(name, device) for name in PRECISIONS if not precision_problem(name, device)]
    kernels = {precision.name: fast_paths(device, precision.compute_dtype).kernels for precision in able}
    return describe_environment() | {"precision": resolve_precision(None, device).name, "kernels": kernels}


if __name__ == "__main__":
    print(json.dumps(describe()))
