"""How well a model predicts what was held out: one pass over batches that training never sees."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.loading.flat_batch import IGNORE_INDEX


@dataclasses.dataclass(frozen=True)
class PreTrainingScores:
    """Means over every held-out masked position and every held-out pair; losses in nats."""

    mlm_loss: float
    mlm_accuracy: float
    nsp_loss: float
    nsp_accuracy: float
    n_sequences: int
    n_masked: int


@torch.no_grad()
def evaluate_pretraining(
    predict: Callable[[Any], tuple[Tensor, Tensor]],
    batches: Iterable[Any],
    device: torch.device,
    sum_over_ranks: Callable[[Tensor], None] = lambda tensor: None,
) -> PreTrainingScores:
    """Score `predict` on `batches`.

    Args:
        predict: a batch on the device to the logits at its masked positions (M, V) and of its pairs (B, 2), fp32. The
            model behind it is in evaluation mode.
        batches: flat batches with `masked_lm_labels` (M,), IGNORE_INDEX where there is none, and
            `next_sentence_labels` (B,).
            On several ranks each gives its share, which may be none.
        sum_over_ranks: adds a tensor up over ranks, in place.

    Raises:
        ValueError: the batches hold nothing to predict.
    """
    totals = torch.zeros(6, dtype=torch.float64, device=device)
    for host_batch in batches:
        batch = host_batch.to(device)
        mlm_logits, nsp_logits = predict(batch)
        sums = torch.stack([*_sums(mlm_logits, batch.masked_lm_labels), *_sums(nsp_logits, batch.next_sentence_labels)])
        totals += sums
    sum_over_ranks(totals)
    mlm_loss, mlm_correct, n_masked, nsp_loss, nsp_correct, n_sequences = totals.tolist()
    if not n_sequences:
        raise ValueError("there is no batch to evaluate on")
    if not n_masked:
        raise ValueError("the batches to evaluate on have no masked position")
    return PreTrainingScores(
        mlm_loss=mlm_loss / n_masked,
        mlm_accuracy=mlm_correct / n_masked,
        nsp_loss=nsp_loss / n_sequences,
        nsp_accuracy=nsp_correct / n_sequences,
        n_sequences=int(n_sequences),
        n_masked=int(n_masked),
    )


def _sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of losses, correct predictions and labels counted, as 0-d float64 tensors."""
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    correct = ((logits.argmax(1) == labels) & (labels != IGNORE_INDEX)).sum()
    return loss.double(), correct.double(), (labels != IGNORE_INDEX).sum().double()
