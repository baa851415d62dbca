"""When gradients are averaged and by what, and who is joined by NVLink, by a driver that is made up."""

import types

import pytest
import torch

from training.distributed import averaging
from training.distributed.averaging import Way, joined_by_nvlink, way_to_average
from training.distributed.world import World

GPU = torch.device("cuda", 0)


class Ranks(World):
    """One rank of several, which have these GPUs; `answers` is what the others say."""

    def __init__(self, gpus, others_agree=True):
        super().__init__(size=len(gpus))
        object.__setattr__(self, "gathered", [gpus, [True] * (len(gpus) - 1) + [others_agree]])

    def gather(self, value):
        found = self.gathered.pop(0)
        return [value, *found[1:]]


def driver(joined, known):
    """NVML that knows these GPUs, of which these pairs are joined."""

    def handle(uuid):
        if uuid not in known:
            raise RuntimeError("Not Found")
        return uuid

    def status(first, second, index):
        assert index == 2
        return 0 if {first, second} in joined else 4

    return types.SimpleNamespace(
        NVML_P2P_CAPS_INDEX_NVLINK=2,
        NVML_P2P_STATUS_OK=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetP2PStatus=status,
    )


@pytest.fixture(autouse=True)
def own_gpu(monkeypatch):
    monkeypatch.setattr(averaging, "gpu_uuid", {GPU: "GPU-a"}.get)


ALL = ["GPU-a", "GPU-b", "GPU-c"]
TO_B, TO_C = {"GPU-a", "GPU-b"}, {"GPU-a", "GPU-c"}


@pytest.mark.parametrize(
    ("joined", "known", "others_agree", "expected"),
    [
        ([TO_B, TO_C], ALL, True, True),
        ([TO_B], ALL, True, False),
        ([TO_B, TO_C], ALL[:2], True, False),  # the third is on another host
        ([TO_B, TO_C], ALL, False, False),
    ],
)
def test_all_ranks_must_reach_all_others(joined, known, others_agree, expected):
    assert joined_by_nvlink(Ranks(ALL, others_agree), GPU, driver(joined, known)) is expected


def test_a_driver_that_fails_has_none():
    assert joined_by_nvlink(Ranks(ALL), GPU, types.SimpleNamespace()) is False


@pytest.mark.parametrize(
    ("asked", "device", "joined", "dtypes_agree", "engines_work", "expected"),
    [
        (None, "cuda", True, True, True, Way.AFTER),
        (True, "cuda", True, True, True, Way.COPY_ENGINES),
        (True, "cuda", True, False, True, Way.BESIDE),
        (True, "cuda", True, True, False, Way.BESIDE),
        (None, "cuda", False, True, True, Way.BESIDE),
        (False, "cuda", False, True, True, Way.AFTER),
        (None, "cpu", True, True, True, Way.AFTER),
        (True, "cpu", True, True, True, Way.AFTER),
    ],
)
def test_gradients_are_averaged(monkeypatch, asked, device, joined, dtypes_agree, engines_work, expected):
    monkeypatch.setattr(averaging, "joined_by_nvlink", lambda world, device: joined)
    monkeypatch.setattr(averaging, "work_between", lambda world, device: engines_work)
    assert way_to_average(asked, World(size=2), torch.device(device), dtypes_agree) is expected
