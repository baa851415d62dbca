"""When gradients are averaged over the ranks, and by what: by default, NVLink between the GPUs decides it.

Source: NVIDIA Management Library (NVML), https://docs.nvidia.com/deploy/nvml-api/, through nvidia-ml-py.
"""

import enum
import importlib
from typing import Any

import torch

from training.distributed.copy_engines import work_between
from training.distributed.world import World
from training.environment.gpu_uuid import gpu_uuid


class Way(enum.Enum):
    """When gradients are averaged, and by what, as a run announces it."""

    AFTER = "after backward"
    BESIDE = "beside backward"
    COPY_ENGINES = "beside backward by copy engines"


def way_to_average(asked: bool | None, world: World, device: torch.device, dtypes_agree: bool) -> Way:
    """How a run's gradients are averaged; the same answer on all ranks, which ask together.

    On a CPU always after backward, as a call that averages returns when it is done.

    Args:
        asked: whether beside backward, as the command line says; None: unless NVLink joins all GPUs.
        dtypes_agree: gradients are sent in the dtype of the buckets.
    """
    if device.type != "cuda" or asked is False:
        return Way.AFTER
    if not joined_by_nvlink(world, device):
        return Way.BESIDE
    if not asked:
        return Way.AFTER
    return Way.COPY_ENGINES if dtypes_agree and work_between(world, device) else Way.BESIDE


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
