"""What the driver says of a GPU while it is measured: energy, power, clocks, temperature, and why clocks were lowered.

The same card is slower when it is hot, or held to a power limit. The driver counts energy itself; the rest is looked at
ten times a second from a thread. What it does not tell is left out, and nothing here can make a run fail: not a driver
that ends, hangs or says what the module cannot read.

Source: NVIDIA Management Library (NVML), https://docs.nvidia.com/deploy/nvml-api/, through nvidia-ml-py.
"""

import contextlib
import functools
import importlib
import math
import operator
import statistics
import threading
from collections import defaultdict
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch

from training.environment.gpu_uuid import gpu_uuid

# Bits of nvmlClocksEventReasons; an idle GPU's, which is no complaint, is left out.
REASONS = MappingProxyType(
    {
        0x02: "application clocks setting",
        0x04: "software power cap",
        0x08: "hardware slowdown",
        0x10: "sync boost",
        0x20: "software thermal slowdown",
        0x40: "hardware thermal slowdown",
        0x80: "hardware power brake",
        0x100: "display clocks setting",
    }
)


SECONDS_TO_LOOK = 10  # after which a GPU is not watched any more; one that is lost may keep its driver for ever


class GpuTelemetry:
    """Watches the GPU of this UUID between `resume` and `pause`, by the module `pynvml`; without one, nothing."""

    def __init__(self, uuid: str = "", nvml: Any = None, seconds_between_looks: float = 0.1):
        self._nvml, self._handle = nvml, None
        self._seconds_between_looks = seconds_between_looks
        self._joules = self._joules_at_start = 0.0
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._paused = threading.Event()
        if nvml is not None:
            with contextlib.suppress(Exception):
                nvml.nvmlInit()
                self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    @classmethod
    def of_device(cls, device: torch.device) -> "GpuTelemetry":
        """Of a CUDA device of this process; of nothing where there is none, or no nvidia-ml-py."""
        with contextlib.suppress(Exception):
            if uuid := gpu_uuid(device):
                return cls(uuid, importlib.import_module("pynvml"))
        return cls()

    def resume(self) -> None:
        """Watch from here on."""
        if self._handle is None:
            return
        self._joules_at_start = self._energy()
        self._paused.clear()
        self._thread = threading.Thread(target=self._watch, name="gpu_telemetry", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Watch no longer, until the next `resume`."""
        if self._handle is None:
            return
        self._joules += self._energy() - self._joules_at_start
        self._paused.set()
        self._thread.join(SECONDS_TO_LOOK)
        if self._thread.is_alive():
            self._handle = None
            return
        self._look()  # a window may be shorter than the time between two looks

    def result(self) -> dict[str, Any]:
        """`energy_joules` and `gpu` (a summary of each quantity), where they are known."""
        quantities = dict(self._seen)
        bits = functools.reduce(operator.or_, quantities.pop("throttle_reasons", ()), 0)
        found: dict[str, Any] = {"energy_joules": self._joules} if self._joules > 0 else {}
        if quantities:
            found["gpu"] = {
                name: {"min": min(values), "mean": statistics.fmean(values), "max": max(values)}
                for name, values in quantities.items()
            } | {"throttle_reasons": _texts(bits)}
        return found

    def snapshot(self) -> dict[str, Any]:
        """`sm_clock_mhz` and `throttle_reasons` of this moment, where they are known, and `memory_errors`.

        Those are the uncorrected ones since the driver was loaded.
        """
        nvml, handle, found = self._nvml, self._handle, {}
        if handle is None:
            return found
        counter = ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
        for name, read in (
            ("sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("throttle_reasons", lambda: _texts(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
            ("memory_errors", lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, *(getattr(nvml, n) for n in counter))),
        ):
            with contextlib.suppress(Exception):
                found[name] = read()
        return found

    def _watch(self) -> None:
        while not self._paused.wait(self._seconds_between_looks):
            self._look()

    def _look(self) -> None:
        nvml, handle = self._nvml, self._handle
        for name, read in (
            ("sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("power_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            ("temperature_celsius", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            ("throttle_reasons", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        ):
            with contextlib.suppress(Exception):
                value = read()
                self._seen[name].append(value)

    def _energy(self) -> float:
        """Joules since the driver was loaded; NaN where it does not tell."""
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
        except Exception:
            return math.nan


def _texts(bits: int) -> list[str]:
    return [text for bit, text in REASONS.items() if bits & bit]


def of_all_gpus(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The telemetry of several GPUs as one: energies added up where all are known, ranges joined, means averaged."""
    energies = [rank["energy_joules"] for rank in ranks if "energy_joules" in rank]
    found: dict[str, Any] = {"energy_joules": sum(energies)} if len(energies) == len(ranks) else {}
    joined = defaultdict(list)
    for rank in ranks:
        for name, value in rank.get("gpu", {}).items():
            joined[name].append(value)
    reasons = {reason for of_rank in joined.pop("throttle_reasons", ()) for reason in of_rank}
    if joined:
        ways = {"min": min, "mean": statistics.fmean, "max": max}
        found["gpu"] = {
            name: {key: way(value[key] for value in values) for key, way in ways.items()}
            for name, values in joined.items()
        } | {"throttle_reasons": [text for text in REASONS.values() if text in reasons]}
    return found
