"""Scores of held-out batches against numbers worked by hand and against a loop over positions."""

import dataclasses
import math

import pytest
import torch

from tasks.pretraining.task import evaluate_pretraining


@dataclasses.dataclass
class Batch:
    mlm_logits: torch.Tensor
    masked_lm_labels: torch.Tensor
    nsp_logits: torch.Tensor
    next_sentence_labels: torch.Tensor

    masked_lm_positions = None

    @property
    def encoder_inputs(self):
        return (self,)

    def to(self, device):
        return self


class Model(torch.nn.Module):
    """Predicts the logits that a batch brings."""

    def predict(self, batch, positions, n_sequences):
        assert not torch.is_grad_enabled()
        assert not self.training
        return batch.mlm_logits, batch.nsp_logits


def evaluate(batches):
    return evaluate_pretraining(Model(), batches, torch.device("cpu"), lambda totals: None)


def batch(mlm_logits, labels, nsp_logits, nsp_labels):
    return Batch(torch.tensor(mlm_logits), torch.tensor(labels), torch.tensor(nsp_logits), torch.tensor(nsp_labels))


def test_by_hand():
    ln2, ln3 = math.log(2.0), math.log(3.0)
    first = batch(
        [[ln2, 0.0, 0.0], [0.0, 0.0, ln2], [9.0, 0.0, 0.0]],  # probabilities 1/2 1/4 1/4, then 1/4 1/4 1/2
        [0, 1, -100],  # right with 1/2, wrong with 1/4, padding
        [[ln3, 0.0], [0.0, 0.0]],
        [0, 1],
    )
    second = batch([[0.0, 0.0, ln2]], [2], [[0.0, ln3]], [0])
    assert evaluate([first, second]) == pytest.approx(
        {
            "mlm_loss": (ln2 + 2 * ln2 + ln2) / 3,
            "mlm_accuracy": 2 / 3,
            "nsp_loss": (math.log(4 / 3) + ln2 + math.log(4.0)) / 3,
            "nsp_accuracy": 1 / 3,  # of two equal scores the first is the prediction
            "n_masked": 3,
            "n_sequences": 3,
        }
    )


def test_batches_of_different_sizes_weigh_by_what_they_hold():
    generator = torch.Generator().manual_seed(0)
    made = []
    for n_masked, n_sequences in ((5, 4), (11, 4), (2, 1)):
        labels = torch.randint(7, (n_masked + 2,), generator=generator)
        labels[n_masked:] = -100
        made.append(
            Batch(
                torch.randn(n_masked + 2, 7, generator=generator),
                labels,
                torch.randn(n_sequences, 2, generator=generator),
                torch.randint(2, (n_sequences,), generator=generator),
            )
        )
    expected = {}
    for kind, logits, labels in (
        ("mlm", [b.mlm_logits for b in made], [b.masked_lm_labels for b in made]),
        ("nsp", [b.nsp_logits for b in made], [b.next_sentence_labels for b in made]),
    ):
        pairs = zip(torch.cat(logits).tolist(), torch.cat(labels).tolist(), strict=True)
        counted = [(row, label) for row, label in pairs if label != -100]
        losses = [math.log(sum(math.exp(logit) for logit in row)) - row[label] for row, label in counted]
        expected[f"{kind}_loss"] = sum(losses) / len(losses)
        expected[f"{kind}_accuracy"] = sum(row.index(max(row)) == label for row, label in counted) / len(counted)
    scores = evaluate(made)
    assert (scores.pop("n_masked"), scores.pop("n_sequences")) == (18, 9)
    assert scores == pytest.approx(expected, rel=1e-6)
