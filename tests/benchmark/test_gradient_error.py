"""benchmark/gradient_error.py: its arithmetic, by hand; the same weights and batch for all; what cannot be run."""

import dataclasses

import pytest
import torch
from pretraining_runs import make_inputs

from benchmark import gradient_error
from common.errors import UserError
from modeling import BertForPreTraining
from models.config import BertConfig, Execution
from tasks.pretraining.synthetic import synthetic_batch


def test_errors_are_norms_over_all_weights_of_a_kind():
    exact = {"a.output.dense.weight": torch.tensor([3.0]), "b.output.dense.weight": torch.tensor([0.0, 4.0])}
    exact["bert.pooler.dense.weight"] = torch.tensor([2.0])
    found = {name: gradient.clone() for name, gradient in exact.items()}
    found["b.output.dense.weight"][1] += 0.5
    assert gradient_error.errors(found, exact) == {"output": 0.1, "heads": 0.0}


def test_kinds():
    layer = "bert.encoder.layer.1."
    kinds = {
        layer + "attention.self.query_key_value.weight": "query, key, value",
        layer + "attention.output.dense.weight": "attention's output",
        layer + "intermediate.dense.weight": "intermediate",
        layer + "output.dense.weight": "output",
        layer + "output.dense.bias": "biases",
        "cls.predictions.bias": "biases",
        "bert.embeddings.LayerNorm.weight": "LayerNorm",
        "bert.embeddings.position_embeddings.weight": "embeddings",
        "cls.seq_relationship.weight": "heads",
    }
    assert {name: gradient_error.kind_of(name) for name in kinds} == kinds


def test_a_difference_that_is_known():
    """Half the dtype's precision shows as a larger error, and none shows as none."""
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=16,
    )  # fmt: skip
    batch = synthetic_batch(4, 16, 3, 40)
    torch.manual_seed(0)
    weights = BertForPreTraining(config).state_dict()
    dtypes = torch.float32, torch.float64, torch.float16, torch.bfloat16
    losses, gradients = zip(
        *(gradient_error.gradients_of(config, weights, Execution(dtype), batch) for dtype in dtypes), strict=True
    )
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-2)
    fp64, fp16, bf16 = (gradient_error.errors(found, gradients[0]) for found in gradients[1:])
    assert max(fp64.values()) < 1e-5
    for kind in ("query, key, value", "intermediate", "output"):
        assert 1e-5 < fp16[kind] < bf16[kind] / 4 < 0.01  # three bits more are a factor of 8


def test_on_shards_from_a_checkpoint(tmp_path, capsys):
    folder = make_inputs(tmp_path)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = dataclasses.replace(BertConfig.from_json_file(folder / "config.json"), **no_dropout)
    weights = BertForPreTraining(config).state_dict()
    torch.save(weights, folder / "weights.pt")
    arguments = ["--batch_size=8", "--max_seq_length=16", "--max_predictions_per_seq=3"]
    arguments += [f"--bert_model={folder / 'config.json'}", f"--input_dir={folder / 'data'}"]
    first, second = gradient_error.two_batches(gradient_error.parse_arguments(arguments), config)
    (loss, exact), (_, other) = (
        gradient_error.gradients_of(config, weights, Execution(), batch) for batch in (first, second)
    )
    gradient_error.main([*arguments, f"--init_checkpoint={folder / 'weights.pt'}"])
    fp32, bf16, header, _, *rows = capsys.readouterr().out.splitlines()
    assert fp32 == f"fp32: loss {loss:.5f}"
    assert bf16.startswith("eager, in bf16 where not in fp8: loss ")
    assert header.split("|")[1:-1] == [" gradients of       ", " eager ", " another batch "]
    for row, error in zip(rows, gradient_error.errors(other, exact).values(), strict=True):
        _, in_bf16, another = row.strip("|").split("|")
        assert 0 < float(in_bf16.strip(" %")) < 10
        assert another.strip() == f"{error:.2%}"


def test_what_cannot_be_run(monkeypatch):
    monkeypatch.setattr(gradient_error, "problem", lambda name, device: "it is not for here" if name == "fp8" else None)
    with pytest.raises(UserError) as refused:
        gradient_error.main(["--bert_model=huge", "--batch_size=0", "--variants", "eager", "fp8"])
    said = [problem.problem for problem in refused.value.problems]
    assert said == ["--batch_size is 0", "--bert_model is huge", "--variants has fp8: it is not for here"]
