"""Training, whole and through the command line, against Hugging Face's BERT with a LAMB written from the papers.

The reference shares nothing but the initial weights and the samples: padded tensors, separate query, key and value,
every parameter updated by itself in float64, NVIDIA's formula for the rates.
"""

import dataclasses
import math

import pytest
import torch
import transformers
from flat_batches import as_padded
from pretraining_runs import LENGTH, PREDICTIONS, SHAPE, command, curve, make_inputs

from data.loading.pretraining_dataset import PretrainingDataset
from run_pretraining import main

STEPS, WARMUP, RATE, SEED = 100, 0.1, 0.02, 7
MICRO_BATCH, ACCUMULATION = 4, 2
BETA1, BETA2, EPS, DECAY, MAX_NORM = 0.9, 0.999, 1e-6, 0.01, 1.0
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def poly_rate(step):
    progress = step / STEPS
    return RATE * (progress / WARMUP if progress < WARMUP else (1 - progress) ** 0.5)


class NaiveLamb:
    """Algorithm 2 of You et al. with apex's details, a parameter at a time."""

    def __init__(self, model):
        self.parameters = dict(model.named_parameters())
        self.moments = dict.fromkeys(self.parameters, (0.0, 0.0))
        self.n_steps = 0

    @torch.no_grad()
    def step(self, rate):
        self.n_steps += 1
        gradients = {name: parameter.grad.double() for name, parameter in self.parameters.items()}
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        for name, parameter in self.parameters.items():
            gradient = gradients[name] / max(1.0, norm / MAX_NORM)
            m, v = self.moments[name]
            m = BETA1 * m + (1 - BETA1) * gradient
            v = BETA2 * v + (1 - BETA2) * gradient**2
            self.moments[name] = m, v
            update = m / (1 - BETA1**self.n_steps) / ((v / (1 - BETA2**self.n_steps)).sqrt() + EPS)
            ratio = 1.0
            if not (name.endswith(".bias") or "LayerNorm" in name):
                update += DECAY * parameter.double()
                if parameter.norm() > 0 and update.norm() > 0:
                    ratio = float(parameter.double().norm() / update.norm())
            parameter.copy_(parameter.double() - rate * ratio * update)
            parameter.grad = None
        return norm


def reference_curve(model, folder):
    """(loss, gradient norm) of each step."""
    optimizer, points = NaiveLamb(model), []
    dataset = PretrainingDataset(folder, MICRO_BATCH, LENGTH, PREDICTIONS, seed=SEED, num_workers=0)
    with dataset.iterate() as batches:
        for step in range(1, STEPS + 1):
            loss_sum = 0.0
            for _ in range(ACCUMULATION):
                batch = next(batches)
                padded = as_padded({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)})
                loss = model(**padded).loss / ACCUMULATION
                loss.backward()
                loss_sum += loss.item()
            points.append((loss_sum, optimizer.step(poly_rate(step))))
    return points


@pytest.mark.slow
def test_100_steps_equal_hugging_face_with_naive_lamb(tmp_path):
    make_inputs(tmp_path, **WITHOUT_DROPOUT)
    torch.manual_seed(3)
    model = transformers.BertForPreTraining(
        transformers.BertConfig(**SHAPE, **WITHOUT_DROPOUT, attn_implementation="eager")
    )
    torch.save({"model": {f"module.{name}": w for name, w in model.state_dict().items()}}, tmp_path / "weights.pt")
    changes = {
        "train_batch_size": MICRO_BATCH * ACCUMULATION,
        "gradient_accumulation_steps": ACCUMULATION,
        "init_checkpoint": tmp_path / "weights.pt",
        "seed": SEED,
        "max_steps": STEPS,
        "learning_rate": RATE,
        "warmup_proportion": WARMUP,
        "skip_checkpoint": True,
    }
    main(command(tmp_path, **changes))
    ours = curve(tmp_path / "out")
    expected = reference_curve(model, tmp_path / "data")
    assert len(ours) == STEPS
    for step, (loss, gradient_norm) in enumerate(expected, start=1):
        assert ours[1, step]["average_loss"] == pytest.approx(loss, rel=1e-4), step
        assert ours[1, step]["gradient_norm"] == pytest.approx(gradient_norm, rel=1e-3), step
    first, last = (sum(loss for loss, _ in part) / 10 for part in (expected[:10], expected[-10:]))
    assert last < 0.9 * first  # there was something to learn, or equality would say little
