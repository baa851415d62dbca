"""Hugging Face's model by our loop: against ours with the same seed, and against a plain loop of PyTorch's own.

The plain loop shares the samples alone: rows padded one by one, torch.optim.AdamW with its own groups, PyTorch's
clipping, and the rates of the schedule worked out here.
"""

import dataclasses
import importlib.util

import pytest
import torch
import transformers
from flat_batches import as_padded, random_flat_batch
from pretraining_runs import GPU_SHAPE, LENGTH, PREDICTIONS, SHAPE, command, contents, curve, make_inputs, summary

from benchmark import huggingface_pretraining
from benchmark.workloads.hugging_face import HuggingFaceBert, pad
from common.errors import UserError
from data.loading.pretraining_dataset import PretrainingDataset
from modeling import BertForPreTraining
from models.config import BertConfig
from optimization import parameter_groups
from run_pretraining import main as train_ours
from training.metrics.logger import read_log

STEPS, WARMUP, RATE, SEED, MICRO_BATCH, ACCUMULATION = 20, 0.2, 0.02, 5, 4, 2
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = BertConfig(**SHAPE, **WITHOUT_DROPOUT)
TOLD = {
    "optimizer": "adamw",
    "schedule": "linear",
    "learning_rate": RATE,
    "warmup_proportion": WARMUP,
    "max_steps": STEPS,
    "seed": SEED,
    "num_steps_per_evaluation": 8,
}


def train_theirs(folder, **changes):
    huggingface_pretraining.main(command(folder, **changes))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), **WITHOUT_DROPOUT)


@pytest.fixture(scope="module")
def theirs(inputs):
    """The folder of a run that was stopped after 10 steps, by request, and resumed to its end."""
    told = {**TOLD, "eval_dir": inputs / "test", "output_dir": inputs / "theirs", "resume_from_checkpoint": True}
    train_theirs(inputs, **told, steps_this_run=10)
    train_theirs(inputs, **told)
    return inputs / "theirs"


def initial_model():
    """The random weights that the run begins with."""
    torch.manual_seed(SEED)
    return HuggingFaceBert(CONFIG).model


def rate_of(step):
    progress = step / STEPS
    return RATE * (progress / WARMUP if progress < WARMUP else (1 - progress) / (1 - WARMUP))


def plain_losses(folder):
    """The loss of each step by a loop of PyTorch's parts, with the samples of our stream."""
    model = initial_model()
    no_decay = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decay = [p for p in model.parameters() if not any(p is other for other in no_decay)]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": no_decay, "weight_decay": 0.0}]
    optimizer, losses = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6, fused=True), []
    dataset = PretrainingDataset(folder, MICRO_BATCH, LENGTH, PREDICTIONS, seed=SEED, num_workers=0)
    with dataset.iterate() as batches:
        for step in range(1, STEPS + 1):
            losses.append(0.0)
            for _ in range(ACCUMULATION):
                batch = next(batches)
                padded = as_padded({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)})
                loss = model(**padded).loss / ACCUMULATION
                loss.backward()
                losses[-1] += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate_of(step)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_it_starts_from_the_numbers_that_ours_starts_from():
    torch.manual_seed(SEED)
    ours, theirs = BertForPreTraining(CONFIG).state_dict(), initial_model().state_dict()
    assert theirs.keys() - ours.keys() == {"cls.predictions.decoder.bias"}  # a second name of the head's bias
    for name, expected in ours.items():
        assert torch.equal(theirs[name], expected), name


def test_losses_and_scores_equal_ours_with_the_same_seed(inputs, theirs):
    train_ours(command(inputs, **TOLD, eval_dir=inputs / "test", output_dir=inputs / "ours"))
    ours, found = curve(inputs / "ours"), curve(theirs)
    assert ours.keys() == found.keys() == {(1, step) for step in range(1, STEPS + 1)}
    for at, expected in ours.items():
        for name in ("average_loss", "mlm_loss", "nsp_loss", "learning_rate"):
            assert found[at][name] == pytest.approx(expected[name], rel=1e-5), (at, name)
        assert found[at]["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4), at
    for step in (8, 16, STEPS):
        expected = {name: value for name, value in ours[1, step].items() if name.startswith("eval_")}
        assert len(expected) == 6
        assert {name: found[1, step][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    losses = [values["average_loss"] for values in ours.values()]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])  # something was learned, or equality would say little


def test_losses_equal_those_of_a_plain_loop(inputs, theirs):
    found = [values["average_loss"] for values in curve(theirs).values()]
    assert found == pytest.approx(plain_losses(inputs / "data"), rel=1e-5)


def test_the_log_says_whose_model_it_was_and_has_a_throughput(theirs):
    told = [event["data"] for event in read_log(theirs / "dllogger.json") if event.get("step") == "PARAMETER"]
    assert [each["arguments"]["implementation"] for each in told] == [f"transformers {transformers.__version__}"] * 2
    assert summary(theirs)["sequences_per_second"] > 0


def test_padding_puts_each_token_in_its_place():
    batch = random_flat_batch([5, 16, 11, 7, 0], 16, 40, n_padding_sequences=2)
    flat = [batch[name] for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")]
    found, places = pad(*flat, 3)
    expected = as_padded(batch)
    for name, values in found.items():
        assert torch.equal(values, expected[name]), name
    assert torch.equal(found["input_ids"].flatten()[places[:32]], batch["input_ids"][:32])


def test_scores_of_masked_positions_and_pairs_are_those_of_our_model():
    theirs, ours = HuggingFaceBert(CONFIG).eval(), BertForPreTraining(CONFIG).eval()
    ours.load_state_dict(theirs.model.state_dict())
    batch = random_flat_batch([5, 16, 11, 7, 0], 16, CONFIG.vocab_size, n_padding_sequences=2)
    del batch["masked_lm_labels"]
    inputs = [*batch.values()][:6]
    with torch.no_grad():
        for found, expected in zip(theirs.predict(*inputs, 3), ours.predict(*inputs, 3), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_weights_are_drawn_but_ours():
    drawn = []
    for make in (HuggingFaceBert, BertForPreTraining):
        torch.manual_seed(SEED)
        make(CONFIG)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_a_weight_that_two_modules_share_is_trained_once():
    model = initial_model()
    grouped = [parameter for group in parameter_groups(model) for parameter in group["params"]]
    assert len(grouped) == len(list(model.parameters()))
    assert all(any(each is other for other in grouped) for each in model.parameters())


def test_in_16_bits_parameters_and_losses_stay_fp32():
    model = HuggingFaceBert(CONFIG)
    model.compute_dtype = torch.bfloat16
    losses = model(**random_flat_batch([16, 16, 16], 16, 40))
    losses.loss.backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert {loss.dtype for loss in losses} == {torch.float32}
    exact = HuggingFaceBert(CONFIG)
    exact.load_state_dict(model.state_dict())
    expected = exact(**random_flat_batch([16, 16, 16], 16, 40)).loss.item()
    assert losses.loss.item() != expected
    assert losses.loss.item() == pytest.approx(expected, rel=0.02)


@pytest.mark.gpu
def test_on_a_gpu_compiled_in_bf16_it_follows_fp32(tmp_path):
    make_inputs(tmp_path, **GPU_SHAPE)
    told = {**TOLD, "no_cuda": False, "eval_dir": tmp_path / "test", "evaluate_first": True, "skip_checkpoint": True}
    told["learning_rate"] = RATE / 10  # at RATE rounding grows to a tenth of the loss within ten steps
    train_theirs(tmp_path, **told, output_dir=tmp_path / "fp32")
    train_theirs(tmp_path, **told | {"precision": "bf16", "compile": True}, output_dir=tmp_path / "bf16")
    expected, found = curve(tmp_path / "fp32"), curve(tmp_path / "bf16")
    for at, values in expected.items():
        for name in {"average_loss", "eval_mlm_loss"} & values.keys():
            assert found[at][name] == pytest.approx(values[name], rel=0.02), (at, name)


def test_all_that_it_cannot_do_is_said_at_once(inputs, tmp_path):
    before = contents(inputs)
    wrong = {"attention": "sdpa", "checkpoint_activations": True, "cuda_graphs": True, "init_checkpoint": "w.pt"}
    with pytest.raises(UserError) as error:
        train_theirs(inputs, **wrong, output_dir=tmp_path / "out", learning_rate=-1)
    for flag in ("attention sdpa", "checkpoint_activations True", "cuda_graphs True", "init_checkpoint w.pt"):
        assert f"--{flag} is for our model, and this is Hugging Face's; leave it out." in str(error.value)
    assert "--learning_rate is -1.0" in str(error.value)
    assert contents(inputs) == before
    assert not (tmp_path / "out").exists()


def test_without_transformers_it_says_how_to_get_it(inputs, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else find_spec(name))
    with pytest.raises(UserError) as error:
        train_theirs(inputs, output_dir=tmp_path / "out", learning_rate=-1)
    assert "Hugging Face's model needs the package transformers, which is not installed; install it: " in str(
        error.value
    )
    assert "requirements-dev.txt." in str(error.value)
    assert "--learning_rate is -1.0" in str(error.value)
