"""What a measured throughput is worth: how near it came to what the device can do, and whether the run went right."""

from collections.abc import Sequence
from typing import Any

from training.metrics.logger import MetricsLogger
from training.metrics.peaks import utilisation


def verdict(
    summary: dict[str, Any],
    guessing_loss: float,
    gpus: Sequence[str | None],
    matmul_format: str | None,
    measured: dict[str, Any],
    logger: MetricsLogger,
) -> dict[str, Any]:
    """`loss_problem`, and where a throughput was measured `utilisation` and `measured_peak`; people are told too.

    Args:
        summary: of a run, with `final_loss` and `model_tflops_per_second` where they are known.
        guessing_loss: see `loss_problem`.
        gpus: the name of each rank's GPU; None for a CPU.
        matmul_format: of all matmuls; None where they have several, and so no peak.
        measured: what `measure_peak` found; empty where it was not asked for.
    """
    problem, tflops = loss_problem(summary.get("final_loss"), guessing_loss), summary.get("model_tflops_per_second")
    if problem:
        logger.message(f"warning: {problem}")
    if tflops is None:
        return {"loss_problem": problem}
    found = {"loss_problem": problem, "utilisation": None}
    if matmul_format is None:
        logger.message("no utilisation: the products ran in fp8 and in bf16, and a peak is of one format")
        return found
    if measured:
        share = tflops / (measured["matrix_tflops"] * len(gpus))
        found["measured_peak"] = measured | {"fraction": share}
        logger.message(f"{share:.1%} of what the encoder's products do by themselves")
    found["utilisation"] = sheet = utilisation(tflops, gpus, matmul_format)
    if sheet:
        logger.message(f"{sheet['fraction']:.1%} of {sheet['peak_tflops']:,g} TFLOP/s ({sheet['peak']})")
    elif not measured:
        what = f"the {matmul_format} peak of {gpus[0] or 'this CPU'}"
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
