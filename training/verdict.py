"""What a measured throughput is worth: how near it came to what the device can do, and whether the run went right."""

import torch

from training.metrics.logger import MetricsLogger
from training.metrics.measured_peak import encoder_products, measure_peak
from training.metrics.peaks import utilisation
from training.run import TrainingRun


def measure_device(run: TrainingRun, logger: MetricsLogger) -> dict:
    """What this device does at most, on the encoder's own products."""
    config, setup = run.setup.config, run.setup
    n_tokens = setup.batches.micro * run.args.max_seq_length
    products = encoder_products(config.hidden_size, config.intermediate_size, config.num_hidden_layers, n_tokens)
    peak = measure_peak(products, setup.precision.compute_dtype, setup.device)
    logger.message(
        f"this device by itself: the encoder's products {peak['matrix_tflops']:.4g} TFLOP/s in "
        f"{setup.precision.products_format or 'bf16'}, "
        f"a copy {peak['copy_bytes_per_second'] / 1e12:.3g} TB/s"
    )
    return peak


def verdict(run: TrainingRun, summary: dict, peak: dict, logger: MetricsLogger) -> dict:
    """What the measured throughput is worth: how near the peaks it came, and whether the run went right at all.

    All ranks call it.
    """
    found: dict = {"loss_problem": loss_problem(summary.get("final_loss"), run.guessing_loss)}
    if found["loss_problem"]:
        logger.message(f"warning: {found['loss_problem']}")
    tflops = summary.get("model_tflops_per_second")
    device = run.setup.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    gpus = run.world.gather(name)
    if tflops is None:
        return found
    products_format = run.setup.precision.products_format
    if peak and products_format:
        share = tflops / (peak["matrix_tflops"] * run.world.size)
        found["measured_peak"] = peak | {"fraction": share}
        logger.message(f"{share:.1%} of what the encoder's products do by themselves")
    found["utilisation"] = utilisation(tflops, gpus, products_format) if name and products_format else None
    if found["utilisation"]:
        sheet = found["utilisation"]
        logger.message(f"{sheet['fraction']:.1%} of {sheet['peak_tflops']:,g} TFLOP/s ({sheet['peak']})")
    elif not products_format:
        logger.message("no utilisation: the products ran in fp8 and in bf16, and a peak is of one format")
    elif not peak:
        what = f"the {products_format} peak of {name or 'this CPU'}"
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
