"""What a measured throughput is worth: how near it came to what the device can do, and whether the run went right."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from common.matmul import Matmul
from training.config.precision import Precision
from training.distributed.world import World
from training.metrics.logger import MetricsLogger
from training.metrics.measured_peak import measure_peak
from training.metrics.peaks import utilisation


class DevicePeaks(NamedTuple):
    """What a measured throughput is compared with."""

    gpus: list[str | None]
    """Name of each rank's GPU; None for a CPU."""
    matmul_format: str | None
    """The one format of all matmuls; None where they have several, and so no peak of theirs."""
    measured: dict[str, Any]
    """See `measure_peak`; empty where it was not asked for."""


def device_peaks(
    world: World, device: torch.device, precision: Precision, matmuls: Sequence[Matmul], logger: MetricsLogger
) -> DevicePeaks:
    """What the ranks' devices are, and what this one does at most on these matmuls of a step, if any are given.

    All ranks call it.
    """
    measured = measure_peak(matmuls, precision.compute_dtype, device) if matmuls else {}
    if measured:
        logger.message(
            f"this device by itself: the encoder's products {measured['matrix_tflops']:.4g} TFLOP/s in "
            f"{precision.matmul_format or 'bf16'}, "
            f"a copy {measured['copy_bytes_per_second'] / 1e12:.3g} TB/s"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return DevicePeaks(world.gather(name), precision.matmul_format, measured)


def verdict(summary: dict, guessing_loss: float, peaks: DevicePeaks, logger: MetricsLogger) -> dict[str, Any]:
    """What the measured throughput is worth: how near the peaks it came, and whether the run went right at all.

    Args:
        summary: of a run, with `final_loss` and `model_tflops_per_second` where they are known.
        guessing_loss: see `loss_problem`.
    """
    found: dict[str, Any] = {"loss_problem": loss_problem(summary.get("final_loss"), guessing_loss)}
    if found["loss_problem"]:
        logger.message(f"warning: {found['loss_problem']}")
    tflops = summary.get("model_tflops_per_second")
    if tflops is None:
        return found
    matmul_format, measured = peaks.matmul_format, peaks.measured
    if matmul_format is None:
        found["utilisation"] = None
        logger.message("no utilisation: the products ran in fp8 and in bf16, and a peak is of one format")
        return found
    if measured:
        share = tflops / (measured["matrix_tflops"] * len(peaks.gpus))
        found["measured_peak"] = measured | {"fraction": share}
        logger.message(f"{share:.1%} of what the encoder's products do by themselves")
    found["utilisation"] = sheet = utilisation(tflops, peaks.gpus, matmul_format)
    if sheet:
        logger.message(f"{sheet['fraction']:.1%} of {sheet['peak_tflops']:,g} TFLOP/s ({sheet['peak']})")
    elif not measured:
        what = f"the {matmul_format} peak of {peaks.gpus[0] or 'this CPU'}"
        logger.message(f"no utilisation: {what} is not known; --measure_peak measures one")
    return found


def loss_problem(final_loss: float | None, guessing_loss: float) -> str | None:
    """Why a run's throughput is worth nothing, a sentence; None where its loss is that of a model that trains.

    Args:
        final_loss: the last average; None where no step was taken.
        guessing_loss: of a model that knows nothing. A fresh one is a little above it, and none stays further above.
    """
    if final_loss is None or final_loss < guessing_loss + 1:
        return None
    return (
        f"the loss ended at {final_loss:.3f}, and a model that guesses has {guessing_loss:.3f}: this run is fast at "
        "something else than training."
    )
