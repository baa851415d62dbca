"""What MLPerf Training's closed division fixes of its BERT, so that a log does not say "closed" of another training.

The hyperparameters of the optimizer, its schedule and the batch are free there; all else is the reference's. Only what
flags, configuration and held-out shards show is looked at. That the shards hold MLPerf's text in random order, and that
the initial weights are its checkpoint, is the user's word.

Source: https://github.com/mlcommons/training_policies, training_rules.adoc of v5.0, and its reference of BERT.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from common.errors import Problem
from training.config.settings import Settings

TARGET = 0.72
EVALUATION_SAMPLES = 10_000
SHAPE = MappingProxyType(
    {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "vocab_size": 30522,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu_new",
    }
)


def evaluation_interval(global_batch: int) -> int:
    """Samples between evaluations: 0.05 (230.23 B + 3,000,000), down to a multiple of 25,000."""
    return (23_023 * global_batch + 300_000_000) // 50_000_000 * 25_000


def closed_division_problems(settings: Settings, n_eval_samples: int | None) -> Iterator[Problem]:
    """A problem for each thing that the closed division has otherwise.

    Args:
        settings: with model and batches, where these are known.
        n_eval_samples: held-out sequences; None where they cannot be read.
    """
    for what, value, wanted in _rules(settings, n_eval_samples):
        if value is not None and value != wanted:
            yield Problem(
                f"{what} is {value}, and MLPerf's closed division has {wanted}",
                "change it, or say --mllog_division open",
            )
    flags, task = settings.optimization, settings.task
    if task.target_mlm_accuracy is not None and task.target_mlm_accuracy < TARGET:
        yield Problem(
            f"--target_mlm_accuracy is {task.target_mlm_accuracy}, and MLPerf's closed division has {TARGET}",
            "raise it, or say --mllog_division open",
        )
    if settings.checkpoints.init_checkpoint is None:
        yield Problem(
            "MLPerf's closed division starts from its checkpoint, and --init_checkpoint is not given",
            "give --init_checkpoint, or say --mllog_division open",
        )
    if "lamb" not in flags.optimizer:
        yield Problem(
            f"--optimizer is {flags.optimizer}, and MLPerf's closed division has LAMB",
            "give --optimizer lamb, or say --mllog_division open",
        )


def _rules(settings: Settings, n_eval_samples: int | None) -> Iterator[tuple[str, Any, Any]]:
    """(what, its value or None where unknown, what the rules want)."""
    flags, task = settings.optimization, settings.task
    yield "--schedule", flags.schedule, "mlperf"
    yield "--max_grad_norm", flags.max_grad_norm, 1.0
    yield "--bias_correction", flags.bias_correction, True
    yield "--masking", task.masking, "static"
    yield "--max_seq_length", task.max_seq_length, 512
    yield "--max_predictions_per_seq", task.max_predictions_per_seq, 76
    yield "the number of held-out sequences", n_eval_samples, EVALUATION_SAMPLES
    if settings.batches is not None:
        interval = evaluation_interval(settings.batches.overall)
        yield "--num_samples_per_evaluation", task.num_samples_per_evaluation or "not given", interval
    if settings.model is not None:
        for name, wanted in SHAPE.items():
            yield f"the model's {name}", getattr(settings.model, name), wanted
