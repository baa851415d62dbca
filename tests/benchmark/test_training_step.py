"""The benchmark compares like with like, runs, and says what it cannot run."""

import dataclasses
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers

from benchmark import training_step
from benchmark.training_step import main, parse_arguments
from benchmark.workloads import step_variants
from benchmark.workloads.step_variants import Variant, Workload, step_of, variants
from common.errors import UserError
from modeling import BertForPreTraining, BertForQuestionAnswering
from models.config import BertConfig, Execution
from tasks.pretraining.synthetic import synthetic_batch

CPU = torch.device("cpu")
CONFIG = BertConfig(100, 32, 2, 2, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SMALL = ["--batch_size", "2", "3", "--max_seq_length", "16", "--max_predictions_per_seq", "2", "--steps", "1"]


def loss_over_tokens(output, padded):
    """Hugging Face's loss, but for the padding, which it takes for places where an answer could be."""
    losses = []
    for name in ("start", "end"):
        logits = output[f"{name}_logits"].masked_fill(padded["attention_mask"] == 0, -torch.inf)
        losses.append(F.cross_entropy(logits, padded[f"{name}_positions"]))
    return sum(losses) / 2


@pytest.mark.parametrize("mean_length", [None, "20"])
@pytest.mark.parametrize(
    ("task", "model_class", "reference_class"),
    [
        ("pretraining", BertForPreTraining, transformers.BertForPreTraining),
        ("squad", BertForQuestionAnswering, transformers.BertForQuestionAnswering),
    ],
)
def test_both_models_are_given_the_same_sequences(task, model_class, reference_class, mean_length):
    arguments = ["--max_seq_length", "32", "--max_predictions_per_seq", "4", "--task", task]
    args = parse_arguments(arguments + (["--mean_length", mean_length] if mean_length else []))
    work = Workload(task, CONFIG, synthetic_batch(6, 32, 4, CONFIG.vocab_size, args.mean_length))
    reference = reference_class(transformers.BertConfig(**dataclasses.asdict(CONFIG)))
    ours = model_class(CONFIG)
    ours.load_state_dict(reference.state_dict())
    padded = work.padded()
    output = reference(**padded)
    expected = output.loss if task == "pretraining" else loss_over_tokens(output, padded)
    assert ours(*work.inputs()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_is_masked():
    inputs = Workload("pretraining", CONFIG, synthetic_batch(6, 32, 4, 100, 20)).padded()
    lengths = inputs["attention_mask"].sum(1)
    assert lengths.min() < 32
    assert (inputs["input_ids"].bool() <= inputs["attention_mask"].bool()).all()


@pytest.mark.parametrize("name", ["eager", "eager+all"])
def test_a_last_layer_of_all_tokens_is_a_variant(monkeypatch, name):
    """Which differs from the other by how many tokens it computes, and by nothing else."""
    n_rows, losses, work = [], [], Workload("pretraining", CONFIG, synthetic_batch(6, 32, 4, CONFIG.vocab_size))

    class Noting(BertForPreTraining):
        def __init__(self, config):
            super().__init__(config)
            last = self.bert.encoder.layer[-1].intermediate
            last.register_forward_hook(lambda module, inputs, output: n_rows.append(len(output)))

        def forward(self, *inputs):
            output = super().forward(*inputs)
            losses.append(output.loss.item())
            return output

    monkeypatch.setattr(step_variants, "MODELS", {"pretraining": Noting})
    step_of(variants()[name], torch.float32, "adamw", work)()
    torch.manual_seed(0)
    assert losses == [pytest.approx(BertForPreTraining(CONFIG)(*work.inputs()).loss.item(), rel=1e-6)]
    assert n_rows == [6 * 32 if "all" in name else 6 * (1 + 4)]


def test_it_prints_each_variant_and_the_ratio_of_the_best(capsys):
    main([*SMALL, "--windows", "2"])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"][2:]
    assert [(name, size) for name, size, *_ in rows] == [("eager", "2"), ("eager", "3"), ("hf", "2"), ("hf", "3")]
    rates = {(name, size): float(rate.replace(",", "")) for name, size, rate, *_ in rows}
    theirs = max(rates["hf", size] for size in "23")
    for name, size, *_, ratio in rows:
        assert float(ratio) == pytest.approx(rates[name, size] / theirs, abs=0.02, rel=0.05)


def test_it_keeps_each_variant_with_all_that_is_needed_to_repeat_it(tmp_path, capsys):
    file = tmp_path / "steps.jsonl"
    file.write_text('{"of": "another run"}\n', encoding="utf-8")
    main([*SMALL, "--windows", "3", "--output", str(file)])
    printed = capsys.readouterr().out
    earlier, *kept = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert earlier == {"of": "another run"}
    assert [(line["variant"], line["batch_size"]) for line in kept] == [
        ("eager", 2),
        ("hf", 2),
        ("eager", 3),
        ("hf", 3),
    ]
    for line in kept:
        middle = sorted(window["sequences_per_second"] for window in line["windows"])[1]
        assert line["sequences_per_second"] == middle
        assert f"{line['variant']} with {line['batch_size']} sequences: {middle:,.1f} sequences/s" in printed
        assert (line["model"], line["task"], line["max_seq_length"], line["precision"]) == (
            "tiny",
            "pretraining",
            16,
            "fp32",
        )
        assert line["environment"]["torch"] == torch.__version__
        assert line.get("transformers") == (transformers.__version__ if line["variant"] == "hf" else None)


def test_what_does_not_fit_is_said_and_the_others_go_on(capsys, monkeypatch):
    build = training_step.build

    def build_or_fail(variant, compute_dtype, optimizer, work):
        if variant == variants()["eager"] and work.batch.work.sum_lengths > 2 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return build(variant, compute_dtype, optimizer, work)

    monkeypatch.setattr(training_step, "build", build_or_fail)
    main([*SMALL, "--windows", "1"])
    printed = capsys.readouterr().out
    assert "eager with 3 sequences: out of memory" in printed
    assert [line.split("|")[2].strip() for line in printed.splitlines() if line[:7] == "| eager"] == ["2"]
    assert "| hf      |     3 |" in printed


def test_what_ran_out_of_memory_holds_none_when_it_is_released(monkeypatch):
    held, alive = [], []

    def fail():
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training_step, "release_memory", lambda: alive.append(held[0]() is not None))
    batch = SimpleNamespace(work=SimpleNamespace(n_sequences=1), input_ids=torch.zeros(1))
    with training_step._failing_alone("hf", SimpleNamespace(batch=batch), []):
        fail()
    assert alive == [False]


def test_a_step_that_ran_out_of_memory_is_gone_when_its_memory_is_released(monkeypatch):
    held, alive = [], []

    class Step:
        def __call__(self):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def build(*_):
        step = Step()
        held.append(weakref.ref(step))
        return step

    monkeypatch.setattr(training_step, "build", build)
    monkeypatch.setattr(training_step, "release_memory", lambda: alive.append(held[0]() is not None))
    args = parse_arguments(SMALL)
    work = Workload("pretraining", CONFIG, synthetic_batch(2, 16, 2, CONFIG.vocab_size))
    assert training_step.measure_all({"eager": Variant(Execution())}, args, work, torch.float32, []) == {}
    assert alive == [False]


def test_what_fails_is_shown_once_and_the_others_go_on(capsys, monkeypatch):
    measure = training_step.measure
    calls = []

    def measure_or_fail(steps, name, n_steps, work):
        calls.append(work.batch.work.sum_lengths)
        if len(calls) == 1:
            del steps[name]
            raise RuntimeError("no kernel image")
        return measure(steps, name, n_steps, work)

    monkeypatch.setattr(training_step, "measure", measure_or_fail)
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, "--windows", "2"])
    assert ended.value.code == 1
    printed, complaints = capsys.readouterr()
    assert "RuntimeError: no kernel image" in complaints
    assert complaints.splitlines()[-1] == "Failed: eager with 2 sequences."
    assert len(calls) == 1 + 2 + 2 * 2  # the failed one, the other's windows, and both's of the second batch size
    rows = [line.split("|")[1:3] for line in printed.splitlines() if line[:1] == "|"][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [["eager", "3"], ["hf", "2"], ["hf", "3"]]


def test_without_transformers_theirs_is_left_out_and_refused_when_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    main([*SMALL, "--windows", "1"])
    assert "hf is left out: Hugging Face's model needs transformers" in capsys.readouterr().out
    with pytest.raises(UserError, match="--variants has hf: Hugging Face's model needs transformers"):
        main(["--variants", "hf"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch_size", "0"], "--batch_size is 0"),
        (["--windows", "0"], "--windows is 0"),
        (
            ["--variants", "eager+all", "--task", "squad"],
            "eager\\+all, and --task squad reads all tokens anyway; leave",
        ),
        (
            ["--output", "nowhere/steps"],
            "--output is nowhere/steps, in a folder that is not there; make the folder first",
        ),
        (["--precision", "tf32"], "tf32 exists on NVIDIA GPUs only"),
        (["--variants", "triton"], "--variants has triton: Triton kernels run on NVIDIA GPUs only"),
        (
            ["--max_seq_length", "1024"],
            "--max_seq_length is 1024; the model's max_position_embeddings allows 512 at most",
        ),
        (["--max_seq_length", "16"], "--max_predictions_per_seq is 20; --max_seq_length allows 16 at most"),
        (["--mean_length", "129"], "--mean_length 129 is no mean length between 5 and --max_seq_length 128"),
    ],
)
def test_one_sentence_for_what_cannot_be(arguments, complaint, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=complaint):
        main(arguments)
