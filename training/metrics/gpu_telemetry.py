"""What the driver says of a GPU while it is measured: energy, power, clocks, temperature, and why clocks were lowered.

A throughput without it is half a number: the same card is slower when it is hot, or held to a power limit. The driver
counts energy itself, in millijoules; the rest is looked at ten times a second from a thread, since the driver keeps no
history of it. What a GPU or its driver does not tell is left out, and nothing here can make a run fail.

Source: NVIDIA Management Library (NVML), https://docs.nvidia.com/deploy/nvml-api/, through nvidia-ml-py.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import torch

SECONDS_BETWEEN_LOOKS = 0.1
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


class GpuTelemetry:
    """Watches one GPU between `resume` and `pause`.

    Args:
        uuid: the GPU's, as NVML spells it (GPU-...).
        nvml: the module `pynvml`, or what has its functions; None: nothing is watched.
        seconds_between_looks: of the thread.
    """

    def __init__(self, uuid: str, nvml: Any, seconds_between_looks: float = SECONDS_BETWEEN_LOOKS):
        self._nvml, self._handle = nvml, None
        self._pause_between_looks = seconds_between_looks
        self._joules = 0.0
        self._energy_at_start: float | None = None
        self._seen: dict[str, list[float]] = {"sm_clock_mhz": [], "power_watts": [], "temperature_celsius": []}
        self._reasons = 0
        self._watching = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlInit()
                self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    @classmethod
    def of_device(cls, device: torch.device) -> "GpuTelemetry":
        """Of a CUDA device of this process; of nothing where there is none, or no nvidia-ml-py."""
        if device.type != "cuda":
            return cls("", None)
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            nvml = None
        return cls(f"GPU-{torch.cuda.get_device_properties(device).uuid}", nvml)

    def resume(self) -> None:
        """Watch from here on."""
        if self._handle is None:
            return
        self._energy_at_start = self._energy()
        self._watching.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="gpu_telemetry", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Watch no longer, until the next `resume`."""
        if self._handle is None:
            return
        self._watching.clear()
        now = self._energy()
        if now is not None and self._energy_at_start is not None:
            self._joules += now - self._energy_at_start
        self._look()  # a window may be shorter than the time between two looks

    def result(self) -> dict[str, Any]:
        """Stop for good, and tell: `energy_joules` and `gpu` (a summary of each quantity), where they are known."""
        self._ended.set()
        self._watching.set()
        if self._thread is not None:
            self._thread.join()
        found: dict[str, Any] = {}
        if self._joules > 0:
            found["energy_joules"] = self._joules
        gpu: dict[str, Any] = {
            name: {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}
            for name, values in self._seen.items()
            if values
        }
        if gpu:
            found["gpu"] = gpu | {"throttle_reasons": [text for bit, text in REASONS.items() if self._reasons & bit]}
        return found

    def _watch(self) -> None:
        while True:
            self._watching.wait()
            if self._ended.wait(self._pause_between_looks):
                return
            if self._watching.is_set():
                self._look()

    def _look(self) -> None:
        nvml, handle = self._nvml, self._handle
        self._note("sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        self._note("power_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
        self._note("temperature_celsius", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            self._reasons |= nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)

    def _note(self, name: str, read: Callable[[], float]) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._seen[name].append(read())

    def _energy(self) -> float | None:
        """Joules since the driver was loaded."""
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
        except self._nvml.NVMLError:
            return None


def of_all_gpus(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The telemetry of several GPUs as one: energies added up where all are known, ranges joined, means averaged."""
    found: dict[str, Any] = {}
    if all("energy_joules" in rank for rank in ranks):
        found["energy_joules"] = sum(rank["energy_joules"] for rank in ranks)
    gpus = [rank["gpu"] for rank in ranks if "gpu" in rank]
    if not gpus:
        return found
    joined: dict[str, Any] = {}
    for name in ("sm_clock_mhz", "power_watts", "temperature_celsius"):
        values = [gpu[name] for gpu in gpus if name in gpu]
        if values:
            joined[name] = {
                "min": min(value["min"] for value in values),
                "mean": sum(value["mean"] for value in values) / len(values),
                "max": max(value["max"] for value in values),
            }
    reasons = {reason for gpu in gpus for reason in gpu["throttle_reasons"]}
    found["gpu"] = joined | {"throttle_reasons": [text for text in REASONS.values() if text in reasons]}
    return found
