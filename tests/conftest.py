"""Shared by all tests: helpers to import, GPU tests skipped with a reason, fp32 without tf32, and real data."""

import importlib.util
import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

# Runs are of one process unless a test says otherwise, whatever started the tests.
os.environ.pop("WORLD_SIZE", None)

# Read when a kernel is defined, so before any test imports one. With a GPU the kernels are compiled as for users.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton_interpreter").mend()

# On a machine that is busy with other tests everything is slow, which says nothing of the code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


def pytest_collection_modifyitems(items):
    # A file is one process's (see scripts/run_tests.sh), so those that take longest come first.
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fp32_matmuls_in_fp32():
    """Not in tf32, in which an earlier run may have left the process: tests compare fp32 with fp64 to 1e-4."""
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")  # for fixtures of modules, which come before the next test's own


@pytest.fixture(scope="module")
def one_thread():
    """For modules that compare bits, before any other fixture: the order of additions depends on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder that BERT_REFERENCE_DATA names: a real dump, vocabulary and SQuAD file (see docs/data.md)."""
    folder = os.environ.get("BERT_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is looked for in the folder that BERT_REFERENCE_DATA names; it names none")
    return Path(folder)
