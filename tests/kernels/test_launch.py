"""kernels/launch.py: thread blocks that stay run at once, by the arithmetic of benchmark/kernel_resources.py."""

from types import SimpleNamespace

import pytest
import torch

from benchmark.kernel_resources import blocks_per_multiprocessor
from kernels import tuning
from kernels.launch import n_staying_blocks

GPU = torch.device("cuda", 11)
STAYING = [kernel for kernel, tuned in tuning.DEFAULTS.items() if "blocks_per_multiprocessor" in tuned]


@pytest.fixture(autouse=True)
def gpu_of_132_multiprocessors(monkeypatch):
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.parametrize("width", [0.5, 1, 2, 8])
@pytest.mark.parametrize("kernel", STAYING)
def test_all_have_registers(kernel, width):
    tuned = dict(tuning.DEFAULTS[kernel])
    n_blocks = n_staying_blocks(10**6, width, tuned, GPU)
    assert "blocks_per_multiprocessor" not in tuned
    fit = blocks_per_multiprocessor(90, tuned["num_warps"], tuned["maxnreg"], 0)
    assert 132 <= n_blocks <= 132 * fit


@pytest.mark.parametrize(
    ("width", "per_multiprocessor", "registers"),
    [
        (1, 3, 80),  # 65,536 / (3 * 256 threads) = 85.3, of which eights are given out
        (2, 1, 255),
        (0.25, 3, 80),
    ],
)
def test_by_hand(width, per_multiprocessor, registers):
    tuned = {"num_warps": 8, "blocks_per_multiprocessor": 3}
    assert n_staying_blocks(10**6, width, tuned, GPU) == 132 * per_multiprocessor
    assert tuned == {"num_warps": 8, "maxnreg": registers}


def test_there_are_no_more_than_turns_and_no_more_registers_than_a_gpus_row_says():
    tuned = {"num_warps": 8, "blocks_per_multiprocessor": 3, "maxnreg": 64}
    assert n_staying_blocks(5, 1, tuned, GPU) == 5
    assert tuned["maxnreg"] == 64
