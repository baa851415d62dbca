"""Scores of held-out batches against numbers worked by hand and against a loop over positions."""

import dataclasses
import math

import pytest
import torch

from tasks.pretraining.evaluation import evaluate_pretraining

CPU = torch.device("cpu")


@dataclasses.dataclass
class Batch:
    mlm_logits: torch.Tensor
    masked_lm_labels: torch.Tensor
    nsp_logits: torch.Tensor
    next_sentence_labels: torch.Tensor

    def to(self, device):
        return self


def predict(batch):
    return batch.mlm_logits, batch.nsp_logits


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
    scores = evaluate_pretraining(predict, [first, second], CPU)
    assert scores.n_masked == 3
    assert scores.n_sequences == 3
    assert scores.mlm_loss == pytest.approx((ln2 + 2 * ln2 + ln2) / 3)
    assert scores.mlm_accuracy == pytest.approx(2 / 3)
    assert scores.nsp_loss == pytest.approx((math.log(4 / 3) + ln2 + math.log(4.0)) / 3)
    assert scores.nsp_accuracy == pytest.approx(1 / 3)  # of two equal scores the first is the prediction


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
    scores = dataclasses.asdict(evaluate_pretraining(predict, made, CPU))
    assert (scores.pop("n_masked"), scores.pop("n_sequences")) == (18, 9)
    assert scores == pytest.approx(expected, rel=1e-6)


def test_no_gradients_are_kept():
    weight = torch.zeros(1, 3, requires_grad=True)
    modes = []

    def predict_with_weight(batch):
        modes.append(torch.is_grad_enabled())
        return batch.mlm_logits + weight, batch.nsp_logits

    evaluate_pretraining(predict_with_weight, [batch([[0.0, 0.0, 0.0]], [1], [[0.0, 0.0]], [0])], CPU)
    assert modes == [False]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        evaluate_pretraining(predict, [], CPU)
    with pytest.raises(ValueError, match="no masked position"):
        evaluate_pretraining(predict, [batch([[0.0, 0.0]], [-100], [[0.0, 0.0]], [0])], CPU)
