"""`--kernels triton`: the losses and gradients of PyTorch's kernels, from models and from the command line."""

import sys

import pytest
import torch
from flat_batches import random_flat_batch
from pretraining_runs import GPU_SHAPE, VOCAB, command, losses, make_inputs, summary, write_config

from common.errors import UserError
from modeling import BertForPreTraining, BertForQuestionAnswering, prepare_model
from models.config import BertConfig, Execution
from run_pretraining import main

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = BertConfig(VOCAB, num_attention_heads=2, max_position_embeddings=16, **SMALL, **WITHOUT_DROPOUT)
ENCODER = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")
MASKED = ("masked_lm_positions", "masked_lm_labels")
# Triton's interpreter takes seconds for a micro-batch.
SHORT = {"max_steps": 2, "train_batch_size": 2, "gradient_accumulation_steps": 1}


def loss_and_gradients(kernels, model_class, inputs):
    torch.manual_seed(0)
    model = model_class(CONFIG)
    prepare_model(model, DEVICE, Execution(kernels=kernels))
    output = model(**{name: v.to(DEVICE) if torch.is_tensor(v) else v for name, v in inputs.items()})
    loss = output if torch.is_tensor(output) else output.loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_class", [BertForPreTraining, BertForQuestionAnswering])
def test_a_whole_model(model_class):
    batch = random_flat_batch([5, 16, 1, 2], 16, VOCAB, n_padding_sequences=1, masked_per_sequence=1)
    batch |= {name: torch.tensor([1, 3, 0]) for name in ("start_positions", "end_positions")}
    names = {
        BertForPreTraining: (*ENCODER, *MASKED, "next_sentence_labels"),
        BertForQuestionAnswering: (*ENCODER, "start_positions", "end_positions"),
    }[model_class]
    inputs = {name: batch[name] for name in names}
    expected_loss, expected = loss_and_gradients("torch", model_class, inputs)
    loss, gradients = loss_and_gradients("triton", model_class, inputs)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_layers_hand_on_what_the_next_can_use(checkpoint_activations):
    """The last one hidden states alone; and where a layer's input is kept, it is not kept in fp8 as well."""
    model = BertForPreTraining(CONFIG)
    prepare_model(
        model, DEVICE, Execution(kernels="triton", in_fp8=True, checkpoint_activations=checkpoint_activations)
    )
    first, last = model.bert.encoder.layer
    assert (first.returns_hidden, last.returns_hidden) == (True, False)
    assert (first.leaves_fp8, last.leaves_fp8) == (not checkpoint_activations, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels were compiled, and cannot be interpreted any more")
@pytest.mark.slow
def test_pre_training_from_the_command_line(tmp_path):
    make_inputs(tmp_path, **SMALL, **WITHOUT_DROPOUT)
    for kernels in ("torch", "triton"):
        main(command(tmp_path, output_dir=tmp_path / kernels, kernels=kernels, skip_checkpoint=True, **SHORT))
    assert losses(tmp_path / "triton") == pytest.approx(losses(tmp_path / "torch"), rel=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels were compiled, and cannot be interpreted any more")
@pytest.mark.parametrize("first", ["torch", "triton"])
@pytest.mark.slow
def test_a_run_with_adamw_goes_on_with_other_kernels(tmp_path, first):
    second = {"torch": "triton", "triton": "torch"}[first]
    make_inputs(tmp_path, **SMALL, **WITHOUT_DROPOUT)
    shared = {**SHORT, "optimizer": "adamw", "learning_rate": 0.005}
    main(command(tmp_path, output_dir=tmp_path / "straight", **shared))
    main(command(tmp_path, output_dir=tmp_path / "changed", kernels=first, steps_this_run=1, **shared))
    main(command(tmp_path, output_dir=tmp_path / "changed", kernels=second, resume_from_checkpoint=True, **shared))
    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "straight"), rel=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels were compiled, and cannot be interpreted any more")
@pytest.mark.slow
def test_fp8_from_the_command_line(tmp_path, capsys):
    """Near fp32, and with no share of a peak that half of its products have not."""
    make_inputs(tmp_path, **{**SMALL, "intermediate_size": 64}, **WITHOUT_DROPOUT)
    shared = {**SHORT, "skip_checkpoint": True}
    main(command(tmp_path, output_dir=tmp_path / "fp32", **shared))
    main(command(tmp_path, output_dir=tmp_path / "fp8", kernels="triton", precision="fp8", measure_peak=True, **shared))
    assert losses(tmp_path / "fp8") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert losses(tmp_path / "fp8") != losses(tmp_path / "fp32")
    assert "no utilization: the matmuls ran in fp8 and in bf16" in capsys.readouterr().out
    assert summary(tmp_path / "fp8")["utilisation"] is None


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("fp16", 5e-3), ("bf16", 2e-2), ("fp8", 5e-2)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("attention", [None, "triton"])
def test_pre_training_on_a_gpu(tmp_path, precision, bound, compiled, attention):
    make_inputs(tmp_path, **GPU_SHAPE)
    shared = {"no_cuda": None, "precision": precision, "max_steps": 20, "skip_checkpoint": True}
    shared["init_loss_scale"] = 2.0**8
    main(command(tmp_path, **shared | {"precision": "fp32"}, output_dir=tmp_path / "torch"))
    main(
        command(
            tmp_path, **shared, output_dir=tmp_path / "triton", kernels="triton", compile=compiled, attention=attention
        )
    )
    assert losses(tmp_path / "triton") == pytest.approx(losses(tmp_path / "torch"), rel=bound)


def test_what_it_cannot_do_is_said(tmp_path, monkeypatch):
    make_inputs(tmp_path, hidden_act="relu")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(UserError) as raised:
        main(command(tmp_path, kernels="triton", layer_norm="apex"))
    parts = (
        "Triton kernels run on NVIDIA GPUs only, and this run is on cpu",
        "hidden_act is relu",
        "--layer_norm is apex",
        "apex",
    )
    for part in parts:
        assert any(part in sentence for sentence in raised.value.sentences), raised.value.sentences
    assert len(raised.value.sentences) == len(parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels were compiled, and cannot be interpreted any more")
@pytest.mark.slow
def test_attention_by_hand_from_the_command_line(tmp_path):
    make_inputs(tmp_path, **SMALL, **WITHOUT_DROPOUT)
    shared = {**SHORT, "skip_checkpoint": True}
    main(command(tmp_path, output_dir=tmp_path / "sdpa", attention="sdpa", **shared))
    main(command(tmp_path, output_dir=tmp_path / "triton", attention="triton", kernels="triton", **shared))
    assert losses(tmp_path / "triton") == pytest.approx(losses(tmp_path / "sdpa"), rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"attention": "triton"}, "--attention triton is of the kernels written in Triton alone; add --kernels triton"),
        (
            {"attention": "triton", "kernels": "triton"},
            "is for heads of size 16, 32, 64, 128, not of 8; leave the flag",
        ),
        ({"attention": "flash", "precision": "bf16"}, "in 16 bits, and this run is on cpu in bfloat16; leave the flag"),
    ],
)
def test_what_attention_cannot_do_is_said(tmp_path, monkeypatch, flags, complaint):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # with a GPU it is not set, and these runs are on the CPU
    make_inputs(tmp_path)  # heads of 8
    with pytest.raises(UserError, match=complaint):
        main(command(tmp_path, **flags))


def test_what_fp8_cannot_do_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # with a GPU it is not set, and these runs are on the CPU
    make_inputs(tmp_path, hidden_size=24)
    with pytest.raises(UserError, match="is of the kernels written in Triton alone; add --kernels triton"):
        main(command(tmp_path, precision="fp8"))
    with pytest.raises(UserError, match="multiples of 16, and the model's hidden_size is 24; use bf16"):
        main(command(tmp_path, precision="fp8", kernels="triton"))
    with pytest.raises(UserError, match="--fp8_weight_gradients is for the matmuls of --precision fp8; add that, or"):
        main(command(tmp_path, precision="bf16", kernels="triton", fp8_weight_gradients=True))


def test_fp8_where_no_triton_runs_is_not_told_to_use_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    make_inputs(tmp_path)
    with pytest.raises(UserError, match="Triton kernels run on NVIDIA GPUs only, and this run is on cpu; use bf16"):
        main(command(tmp_path, precision="fp8"))


def test_without_triton(tmp_path, monkeypatch):
    make_inputs(tmp_path)
    write_config(tmp_path / "config.json")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="Triton kernels need the package triton, which PyTorch for CUDA brings along"):
        main(command(tmp_path, kernels="triton"))
    monkeypatch.delitem(sys.modules, "kernels.attention.short", raising=False)  # or it would be there already
    with pytest.raises(UserError, match="--attention triton is of the kernels written in Triton alone"):
        main(command(tmp_path, attention="triton"))
