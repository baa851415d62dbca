"""The benchmark compares like with like, and runs."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from benchmark.training_step import padded_inputs
from configuration import BertConfig
from data.synthetic import synthetic_batch
from modeling import BertForPreTraining

SCRIPT = Path(__file__).parents[2] / "benchmark" / "training_step.py"


@pytest.mark.parametrize("mean_length", [None, 20])
def test_both_models_are_given_the_same_sequences(mean_length):
    config = BertConfig(100, 32, 2, 2, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch = synthetic_batch(6, 32, 4, 100, mean_length)
    reference = transformers.BertForPreTraining(transformers.BertConfig(**dataclasses.asdict(config)))
    ours = BertForPreTraining(config)
    ours.load_state_dict(reference.state_dict())
    inputs = {
        f.name: getattr(batch, f.name)
        for f in dataclasses.fields(batch)
        if not f.name.startswith(("n_", "sum_", "first_"))
    }
    expected = reference(**padded_inputs(batch)).loss.item()
    assert ours(**inputs).loss.item() == pytest.approx(expected, rel=1e-5)


def test_it_runs_and_prints_the_ratio():
    command = [sys.executable, SCRIPT, "--batch_size", "2", "--max_seq_length", "16", "--max_predictions_per_seq", "2"]
    finished = subprocess.run([*command, "--steps", "1", "--windows", "1"], capture_output=True, text=True, check=True)
    assert "ours / Hugging Face:" in finished.stdout
