"""When a run's gradients are averaged: by default, NVLink between the GPUs decides it.

Source: NVIDIA Management Library (NVML), https://docs.nvidia.com/deploy/nvml-api/, through nvidia-ml-py.
"""

import importlib
from typing import Any

import torch

from training.distributed.world import World
from training.environment.gpu_uuid import gpu_uuid


def averages_beside_backward(asked: bool | None, world: World, device: torch.device) -> bool:
    """Whether gradients are averaged during the backward pass, not after it; the same answer on all ranks.

    Never on a CPU, where a call that averages returns when it is done.

    Args:
        asked: what the command line says; None: beside, unless NVLink joins all GPUs.
    """
    if device.type != "cuda":
        return False
    return not joined_by_nvlink(world, device) if asked is None else asked


def joined_by_nvlink(world: World, device: torch.device, nvml: Any = None) -> bool:
    """Whether every rank's GPU reaches every other's by NVLink; the same answer on all ranks, which ask together.

    False where the driver does not say: without nvidia-ml-py, and of GPUs that a rank does not see, as those of other
    hosts.

    Args:
        nvml: in place of the module `pynvml`.
    """
    uuid = gpu_uuid(device)
    uuids = world.gather(uuid)
    return all(world.gather(_reaches(uuid, uuids, nvml)))


def _reaches(uuid: str, uuids: list[str], nvml: Any) -> bool:
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()
        own, *others = (nvml.nvmlDeviceGetHandleByUUID(one) for one in dict.fromkeys([uuid, *uuids]))
        by_nvlink = nvml.NVML_P2P_CAPS_INDEX_NVLINK
        states = [nvml.nvmlDeviceGetP2PStatus(own, other, by_nvlink) for other in others]
        return all(state == nvml.NVML_P2P_STATUS_OK for state in states)
    except Exception:  # a driver may fail in any way, and none keeps a run from training
        return False
