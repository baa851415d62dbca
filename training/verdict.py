"""What a measured throughput is worth: how near it came to what the device can do, and whether the run went right."""

from collections.abc import Sequence
from typing import Any

from training.metrics.logger import MetricsLogger
from training.metrics.peaks import utilization


def verdict(
    summary: dict[str, Any],
    guessing_loss: float,
    gpus: Sequence[str | None],
    precision: str,
    measured: dict[str, Any],
    logger: MetricsLogger,
) -> dict[str, Any]:
    """`loss_problem`, and where a throughput was measured `utilisation` and `measured_peak`; people are told too.

    Args:
        guessing_loss: of a model that knows nothing. A fresh one is a little above it, and none stays further above.
        gpus: the name of each rank's GPU; None for a CPU.
        measured: what `measure_peak` found; empty where it was not asked for.
    """
    loss, tflops, found = summary.get("final_loss"), summary.get("model_tflops_per_second"), {"loss_problem": None}
    if loss is not None and not loss < guessing_loss + 1:
        found["loss_problem"] = (
            f"the loss ended at {loss:.3f}, and a model that guesses has {guessing_loss:.3f}: this run is fast at "
            "something else than training."
        )
        logger.message(f"warning: {found['loss_problem']}")
    if tflops is None:
        return found
    found["utilisation"] = None
    if precision == "fp8":
        logger.message("no utilization: the matmuls ran in fp8 and in bf16, and a peak is of one format")
        return found
    if measured:
        share = tflops / (measured["matrix_tflops"] * len(gpus))
        found["measured_peak"] = measured | {"fraction": share}
        logger.message(f"{share:.1%} of what the encoder's matmuls reach alone")
    found["utilisation"] = sheet = utilization(tflops, gpus, precision)
    if sheet:
        logger.message(f"{sheet['fraction']:.1%} of {sheet['peak_tflops']:,g} TFLOP/s ({sheet['peak']})")
    elif not measured:
        what = f"the {precision} peak of {gpus[0] or 'this CPU'}"
        logger.message(f"no utilization: {what} is not known; --measure_peak measures one")
    return found
