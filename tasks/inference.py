"""Inference over a whole dataset, once, and how fast it was: the same loop and the same definition for every task."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common.work import Work
from data.loading.flat_batch import FlatBatch
from data.loading.labelled_pairs import LabelledBatch, LabelledDataset
from data.loading.stream import SampleStream
from training.distributed.world import World
from training.metrics.progress import speeds
from training.metrics.throughput import ThroughputMeter

WARM_UP_BATCHES = 10
REPORTED = (
    "measured_steps",
    "seconds",
    "sequences_per_second",
    "tokens_per_second",
    "sequences_per_second_per_gpu",
    "model_tflops_per_second",
)

INFERENCE_METRICS = (
    ("inference_sequences_per_second", None, ":,.1f"),
    ("inference_tokens_per_second", None, ":,.0f"),
    ("inference_model_tflops_per_second", "TFLOP/s", ":.3g"),
)
"""Name, unit and printed form, for a task's `metrics`."""


def inference_in_words(scores: Mapping[str, float]) -> dict[str, str]:
    """The row about inference of a task's final table."""
    found = scores.get("inference_sequences_per_second")
    return {} if found is None else {"inference": ", ".join(speeds(found, scores["inference_tokens_per_second"], 1))}


@torch.no_grad()
def infer(
    model: nn.Module,
    dataset: SampleStream,
    predict: Callable[[FlatBatch], Tensor],
    keep: Callable[[FlatBatch, Tensor], None],
    world: World,
    device: torch.device,
    training_flops: Callable[[Work], float],
) -> dict[str, float]:
    """Run a model on this rank's share of a dataset; returns the throughput over all ranks, which all call it.

    Args:
        predict: the scores of a batch on the device.
        keep: takes a batch on the host, and its scores, once the next batch is under way.
        training_flops: of a `Work`, forward and backward.
    """
    model.eval()
    n_batches = -(-dataset.n_samples // (dataset.micro_batch_size * world.size))
    warm_up = min(WARM_UP_BATCHES, n_batches // 5)
    meter = ThroughputMeter(warm_up, None, lambda work: training_flops(work) / 3, device)
    pending = None
    with dataset.evaluation_batches() as batches:
        for host_batch in batches:
            scores = predict(host_batch.to(device))
            if pending is not None:  # read while the device works on the next
                keep(*pending)
            pending = host_batch, scores
            meter.end_step(host_batch.work)
    if pending is not None:
        keep(*pending)
    measured = meter.result(world.gather)
    return {f"inference_{name}": measured[name] for name in REPORTED if name in measured}


def outputs_of_sequences(
    model: nn.Module,
    dataset: LabelledDataset,
    world: World,
    device: torch.device,
    training_flops: Callable[[Work], float],
) -> tuple[np.ndarray, dict[str, float]]:
    """A model's fp32 outputs (N, n_outputs) for all sequences, on all ranks, and the throughput."""
    outputs = np.zeros((dataset.n_samples, model.n_outputs), dtype=np.float32)  # zero where another rank knows them

    def predict(batch: LabelledBatch) -> Tensor:
        return model.predict(*batch.encoder_inputs, len(batch.labels))

    def keep(batch: LabelledBatch, scores: Tensor) -> None:
        outputs[batch.indices.numpy()] = scores.cpu().numpy()

    throughput = infer(model, dataset, predict, keep, world, device, training_flops)
    return sum(world.gather(outputs)), throughput
