"""What is told of a GPU, against a driver that the test speaks for; on a GPU, against the real one."""

import threading
import time

import pytest
import torch

from training.metrics import gpu_telemetry
from training.metrics.gpu_telemetry import GpuTelemetry, of_all_gpus


class Driver:
    """NVML's functions, over values that the test sets; None is an error, as of a quantity that a GPU has not."""

    NVML_CLOCK_SM = "sm"
    NVML_TEMPERATURE_GPU = "gpu"
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = "uncorrected"
    NVML_VOLATILE_ECC = "volatile"

    class NVMLError(Exception):
        pass

    def __init__(self, **values):
        self.values = {
            "handle": 1,
            "energy": 0,
            "clock": 1980,
            "power": 700_000,
            "temperature": 60,
            "reasons": 0,
            "memory errors": 0,
        } | values

    def __getattr__(self, name):
        quantities = {
            "nvmlInit": "handle",
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetTotalEnergyConsumption": "energy",
            "nvmlDeviceGetClockInfo": "clock",
            "nvmlDeviceGetPowerUsage": "power",
            "nvmlDeviceGetTemperature": "temperature",
            "nvmlDeviceGetCurrentClocksThrottleReasons": "reasons",
            "nvmlDeviceGetTotalEccErrors": "memory errors",
        }
        if name not in quantities:
            raise AttributeError(name)

        def answer(*arguments):
            if self.values[quantities[name]] is None:
                raise self.NVMLError
            return self.values[quantities[name]]

        return answer


def test_a_snapshot_has_what_the_driver_tells():
    known = GpuTelemetry("GPU-1", Driver(reasons=0x44, **{"memory errors": 2})).snapshot()
    reasons = ["software power cap", "hardware thermal slowdown"]
    assert known == {"sm_clock_mhz": 1980, "throttle_reasons": reasons, "memory_errors": 2}
    assert "memory_errors" not in GpuTelemetry("GPU-1", Driver(**{"memory errors": None})).snapshot()
    assert GpuTelemetry().snapshot() == {}


def watch(driver, **changes):
    telemetry = GpuTelemetry("GPU-1", driver, seconds_between_looks=60)
    telemetry.resume()
    driver.values |= changes
    telemetry.pause()
    return telemetry


def test_energy_is_that_between_resume_and_pause():
    driver = Driver(energy=5_000)
    telemetry = watch(driver, energy=7_500)
    driver.values["energy"] = 90_000  # a checkpoint
    telemetry.resume()
    driver.values["energy"] = 91_000
    telemetry.pause()
    assert telemetry.result()["energy_joules"] == 3.5


def test_a_function_that_the_module_lacks_is_left_out():
    class OtherVersion(Driver):
        def __getattr__(self, name):
            if "Throttle" in name:
                raise AttributeError(name)
            return super().__getattr__(name)

    gpu = watch(OtherVersion()).result()["gpu"]
    assert (gpu["throttle_reasons"], gpu["sm_clock_mhz"]["mean"]) == ([], 1980)


@pytest.mark.parametrize("how", ["breaks", "hangs"])
def test_a_driver_that_breaks_or_hangs_meanwhile_ends_nothing(monkeypatch, how):
    def strike(*_):
        if how == "hangs" and threading.current_thread() is not threading.main_thread():
            hangs.wait()
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no error of NVML's own")

    hangs = threading.Event()
    monkeypatch.setattr(gpu_telemetry, "SECONDS_TO_LOOK", 0.1)
    driver = Driver()
    telemetry = GpuTelemetry("GPU-1", driver, seconds_between_looks=0.01)
    telemetry.resume()
    for name in ("ClockInfo", "PowerUsage", "Temperature", "TotalEnergyConsumption", "CurrentClocksThrottleReasons"):
        setattr(driver, f"nvmlDeviceGet{name}", strike)
    time.sleep(0.05)
    telemetry.pause()
    telemetry.resume()
    telemetry.pause()
    assert "energy_joules" not in telemetry.result()
    hangs.set()


def test_quantities_and_reasons():
    driver = Driver(reasons=0x1)
    telemetry = watch(driver, clock=1500, power=500_000, reasons=0x4 | 0x20)
    telemetry.resume()
    driver.values |= {"clock": 1000, "reasons": 0x1}
    telemetry.pause()
    gpu = telemetry.result()["gpu"]
    assert gpu["sm_clock_mhz"] == {"min": 1000, "mean": 1250, "max": 1500}
    assert gpu["power_watts"] == {"min": 500.0, "mean": 500.0, "max": 500.0}
    assert gpu["throttle_reasons"] == ["software power cap", "software thermal slowdown"]


def test_the_thread_looks_while_nobody_pauses():
    driver = Driver()
    telemetry = GpuTelemetry("GPU-1", driver, seconds_between_looks=0.001)
    telemetry.resume()
    deadline = time.monotonic() + 10
    while len(telemetry._seen["sm_clock_mhz"]) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    driver.values["clock"] = 990
    telemetry.pause()
    assert telemetry.result()["gpu"]["sm_clock_mhz"]["max"] == 1980


def test_what_a_gpu_does_not_tell_is_left_out():
    found = watch(Driver(energy=None, temperature=None)).result()
    assert "energy_joules" not in found
    assert set(found["gpu"]) == {"sm_clock_mhz", "power_watts", "throttle_reasons"}


def test_a_gpu_that_the_driver_does_not_know():
    assert watch(Driver(handle=None)).result() == {}


def test_without_a_driver_there_is_nothing():
    telemetry = GpuTelemetry.of_device(torch.device("cpu"))
    telemetry.resume()
    telemetry.pause()
    assert telemetry.result() == {}


def test_several_gpus_as_one():
    def rank(joules, clock, reasons):
        quantity = {"min": clock - 10, "mean": clock, "max": clock + 10}
        return {"energy_joules": joules, "gpu": {"sm_clock_mhz": quantity, "throttle_reasons": reasons}}

    found = of_all_gpus([rank(10.0, 1000, ["sync boost"]), rank(30.0, 1200, ["software power cap"])])
    assert found["energy_joules"] == 40.0
    assert found["gpu"]["sm_clock_mhz"] == {"min": 990, "mean": 1100, "max": 1210}
    assert found["gpu"]["throttle_reasons"] == ["software power cap", "sync boost"]
    assert of_all_gpus([rank(10.0, 1000, []), {}]).keys() == {"gpu"}
    assert of_all_gpus([{}, {}]) == {}


@pytest.mark.gpu
def test_the_real_driver_tells_of_work():
    pytest.importorskip("pynvml")
    device = torch.device("cuda", torch.cuda.current_device())
    telemetry = GpuTelemetry.of_device(device)
    matrix = torch.randn(4096, 4096, device=device)
    telemetry.resume()
    began = time.perf_counter()
    while time.perf_counter() - began < 5:
        matrix @ matrix
        torch.cuda.synchronize()
    telemetry.pause()
    found = telemetry.result()
    seconds = time.perf_counter() - began
    assert 20 < found["gpu"]["power_watts"]["max"] < 2000
    assert 100 < found["gpu"]["sm_clock_mhz"]["max"] < 5000
    # The power is a mean over a second, so it lags behind at the beginning.
    assert found["energy_joules"] == pytest.approx(found["gpu"]["power_watts"]["mean"] * seconds, rel=0.5)
