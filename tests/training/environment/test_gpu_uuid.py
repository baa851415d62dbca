"""A GPU's UUID as NVML spells it; test_gpu_telemetry.py asks a real driver by it."""

import types

import torch

from training.environment.gpu_uuid import gpu_uuid


def test_spelling(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1a2b"))
    assert gpu_uuid(torch.device("cuda", 0)) == "GPU-1a2b"
    assert gpu_uuid(torch.device("cpu")) is None
