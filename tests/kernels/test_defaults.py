"""Defaults by GPU and dtype, without a GPU: its capability is made up."""

import pytest
import torch

from kernels.defaults import FastPaths, fast_paths

FUSED = FastPaths("triton", "triton", 32768)
PLAIN = FastPaths("torch", None, 0)


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        ((9, 0), torch.bfloat16, FUSED),
        ((9, 0), torch.float16, FUSED),
        ((9, 0), torch.float32, PLAIN),
        ((8, 0), torch.bfloat16, PLAIN),
        ((10, 0), torch.bfloat16, PLAIN),
        ((7, 0), torch.float16, PLAIN),
    ],
)
def test_what_was_measured_is_the_default(monkeypatch, capability, dtype, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert fast_paths(torch.device("cuda"), dtype) == expected


def test_without_triton_and_on_other_devices_pytorch_is_the_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fast_paths(torch.device("cpu"), torch.bfloat16) == PLAIN
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert fast_paths(torch.device("cuda"), torch.bfloat16) == PLAIN
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fast_paths(torch.device("cuda"), torch.bfloat16) == PLAIN
