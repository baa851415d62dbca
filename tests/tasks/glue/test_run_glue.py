"""Fine-tuning on GLUE, scoring and predicting through the command line, on the CPU."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch
import transformers
from glue_runs import LAYOUTS, command, make_inputs, write_glue
from paths import ROOT
from pretraining_runs import SHAPE, copied, losses, summary
from squad_runs import N_WORDS_OF_VOCABULARY

from common.errors import UserError
from data.loading.labelled_pairs import LabelledDataset, tokenized
from optimization import learning_rate
from run_glue import main
from tasks.glue.benchmarks import BENCHMARKS
from tasks.glue.examples import read_glue
from tasks.glue.task import GlueTask
from tasks.setup import parse_arguments
from tokenization import BertTokenizer

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("glue"), *LAYOUTS)


@pytest.fixture(scope="module")
def finished(folder):
    """A finished run on mnli, with dropout."""
    main(command(folder, "mnli", output_dir=folder / "mnli", do_predict=True))
    return folder / "mnli"


def submission(path):
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == ["index", "prediction"]
    assert [int(index) for index, _ in lines[1:]] == list(range(len(lines) - 1))
    return [prediction for _, prediction in lines[1:]]


@pytest.mark.parametrize(("task", "n_outputs"), [("rte", 2), ("mnli", 3), ("sts-b", 1)])
def test_training_equals_hugging_face_step_by_step(tmp_path, task, n_outputs):
    make_inputs(tmp_path, task, **WITHOUT_DROPOUT, initializer_range=0.2)  # outputs that differ by more than rounding
    # The schedule ends at rate 0, so that a run of one step leaves its initial weights in the checkpoint.
    main(command(tmp_path, task, max_steps=1, do_eval=False))
    main(command(tmp_path, task, output_dir=tmp_path / "run", max_steps=8))
    values = {**SHAPE, **WITHOUT_DROPOUT, "vocab_size": N_WORDS_OF_VOCABULARY}
    config = transformers.BertConfig(**values, num_labels=n_outputs, layer_norm_eps=1e-12)
    reference = transformers.BertForSequenceClassification(config)
    reference.load_state_dict(torch.load(tmp_path / "out" / "ckpt_1.pt")["model"])
    decayed = [p for name, p in reference.named_parameters() if not name.endswith(("bias", "LayerNorm.weight"))]
    others = [p for name, p in reference.named_parameters() if name.endswith(("bias", "LayerNorm.weight"))]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=1e-6)
    folder = tmp_path / "glue" / LAYOUTS[task][0]
    tokenizer = BertTokenizer(tmp_path / "vocab.txt")
    sequences = tokenized(*read_glue(folder / "train.tsv", BENCHMARKS[task]), tokenizer, 16)
    expected = []
    with LabelledDataset(sequences, 4, 16, 42).iterate() as batches:
        for step in range(1, 9):
            halves = [as_rectangle(batch) | {"labels": batch.labels} for batch in itertools.islice(batches, 2)]
            loss = sum(reference(**half).loss for half in halves) / 2
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, 8, 0.1, 0.003, "linear")
            optimizer.step()
            expected.append(loss.item())
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-5)
    # And the weights that were trained give the scores that are told.
    reference.load_state_dict(torch.load(tmp_path / "run" / "ckpt_8.pt")["model"])
    file = "dev_mismatched.tsv" if task == "mnli" else "dev.tsv"
    rows = read_glue(folder / file, BENCHMARKS[task], "score")
    with LabelledDataset(tokenized(*rows, tokenizer, 16), 64, 16).evaluation_batches() as batches:
        (batch,) = batches
    with torch.no_grad():
        logits = reference.eval()(**as_rectangle(batch)).logits.double().numpy()
    scores = summary(tmp_path / "run")
    if n_outputs == 1:
        correlation = np.corrcoef(logits[:, 0], batch.labels.double())[0, 1]
        assert scores["pearson"] == pytest.approx(correlation, abs=1e-5)
        assert scores["score"] == pytest.approx((scores["pearson"] + scores["spearman"]) / 2)
    else:
        name = "mismatched_accuracy" if task == "mnli" else "accuracy"
        accuracy = sklearn.metrics.accuracy_score(batch.labels, logits.argmax(1))
        assert scores[name] == pytest.approx(accuracy)


def as_rectangle(batch):
    """A flat batch as Hugging Face wants it."""
    starts = batch.cu_seqlens[: batch.work.n_sequences + 1].tolist()
    padded = {
        name: torch.zeros(batch.work.n_sequences, 16, dtype=torch.long) for name in ("input_ids", "token_type_ids")
    }
    mask = torch.zeros(batch.work.n_sequences, 16, dtype=torch.long)
    for row, (start, end) in enumerate(itertools.pairwise(starts)):
        for name, values in padded.items():
            values[row, : end - start] = getattr(batch, name)[start:end]
        mask[row, : end - start] = 1
    return {**padded, "attention_mask": mask}


@pytest.mark.parametrize("task", [name for name in LAYOUTS if name not in ("ax", "mnli")])
def test_every_task_trains_scores_and_predicts(folder, tmp_path, task):
    main(command(folder, task, max_steps=1, output_dir=tmp_path, do_predict=True))
    scores, benchmark = summary(tmp_path), BENCHMARKS[task]
    assert scores["score"] == pytest.approx(sum(scores[name] for name in benchmark.metrics) / len(benchmark.metrics))
    predictions = submission(tmp_path / f"{LAYOUTS[task][0]}.tsv")
    assert len(predictions) == 7
    if task == "sts-b":
        assert all(0 <= float(prediction) <= 5 for prediction in predictions)
    else:
        assert set(predictions) <= set(LAYOUTS[task][4])


def test_both_sides_of_mnli_and_its_diagnostic_set(folder, finished, tmp_path):
    scores = summary(finished)
    assert scores["score"] == pytest.approx((scores["accuracy"] + scores["mismatched_accuracy"]) / 2)
    assert scores["sequences_per_second"] > 0
    assert scores["inference_sequences_per_second"] > 0
    predictions = {name: submission(finished / f"{name}.tsv") for name in ("MNLI-m", "MNLI-mm")}
    assert [len(words) for words in predictions.values()] == [7, 10]
    assert set(predictions["MNLI-m"]) <= set(LAYOUTS["mnli"][4])
    predicts = {"do_train": False, "do_eval": False, "do_predict": True, "resume_from_checkpoint": True}
    copy = copied(finished, tmp_path)
    main(command(folder, "ax", **predicts, output_dir=copy))
    assert len(submission(copy / "AX.tsv")) == 7


def test_a_task_is_learned(tmp_path):
    make_inputs(tmp_path, **WITHOUT_DROPOUT, initializer_range=0.2)
    write_glue(tmp_path / "glue", "wnli", n_train=48)
    data = tmp_path / "glue" / "WNLI"
    (data / "dev.tsv").write_bytes((data / "train.tsv").read_bytes())
    main(command(tmp_path, "WNLI", data_dir=data, max_steps=80, log_freq=40, learning_rate=0.01))
    assert summary(tmp_path / "out")["accuracy"] > 0.9


def test_stopped_and_resumed_is_the_same_run(folder, finished, tmp_path):
    changes = {"output_dir": tmp_path, "do_predict": True, "resume_from_checkpoint": True}
    main(command(folder, "mnli", steps_this_run=3, **changes))
    main(command(folder, "mnli", **changes))
    assert losses(tmp_path) == losses(finished)
    assert submission(tmp_path / "MNLI-mm.tsv") == submission(finished / "MNLI-mm.tsv")


@pytest.mark.slow
def test_two_ranks_train_and_predict_as_one(folder, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    main(command(folder, "sts-b", output_dir=alone, do_predict=True))
    arguments = command(
        folder, "sts-b", output_dir=together, do_predict=True, train_batch_size=4, gradient_accumulation_steps=1
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run([*launcher, ROOT / "run_glue.py", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
    predictions = [[float(word) for word in submission(path / "STS-B.tsv")] for path in (alone, together)]
    assert predictions[0] == pytest.approx(predictions[1], abs=2e-3)
    # A correlation of predictions that hardly differ magnifies their rounding.
    assert summary(together)["score"] == pytest.approx(summary(alone)["score"], abs=1e-3)


def test_a_head_of_other_classes_starts_anew_and_cannot_be_asked(folder, finished, tmp_path, capsys):
    weights = {"init_checkpoint": finished / "ckpt_8.pt", "output_dir": tmp_path}
    main(command(folder, "cola", **weights, max_steps=1))
    printed = capsys.readouterr().out
    assert "randomly initialized, as the file has none of their shape: classifier.weight" in printed
    assert "\nGLUE CoLA | step 1/1 | loss " in printed
    with pytest.raises(UserError, match=r"has no weights of the names classifier\.\*|classifier.weight"):
        main(command(folder, "cola", **{**weights, "output_dir": tmp_path / "other"}, do_train=False))


def test_scores_of_both_development_sets_are_shown():
    task = GlueTask(parse_arguments(GlueTask, ["--task_name", "mnli", "--output_dir", "out"]))
    task.scored = {"": None, "mismatched_": None}
    scores = {"accuracy": 0.84123, "mismatched_accuracy": 0.8, "score": 0.820615}
    speed = {"inference_sequences_per_second": 812.4, "inference_tokens_per_second": 31_000.0, "inference_seconds": 2.0}
    assert task.scores_in_words(scores | speed) == {
        "accuracy": "0.8412",
        "mismatched accuracy": "0.8000",
        "score": "0.8206",
        "inference": "812 seq/s, 31,000 tok/s",
    }


@pytest.mark.parametrize("task", ["sst-2", "sts-b"])
def test_speed_is_measured_on_random_tokens(folder, tmp_path, task):
    main(command(folder, task, synthetic="full", data_dir=None, do_eval=False, output_dir=tmp_path))
    assert summary(tmp_path)["sequences_per_second"] > 0
    assert summary(tmp_path)["tokens"] == 16 * summary(tmp_path)["sequences"]
    assert summary(tmp_path)["loss_problem"] is None


def test_all_that_is_wrong_is_said_at_once(folder, tmp_path):
    data, _ = write_glue(tmp_path, "rte")
    (data / "train.tsv").write_text("index,sentence1,sentence2,label\n0,a,b,entailment\n")
    (data / "dev.tsv").unlink()
    changes = {"data_dir": data, "vocab_file": tmp_path / "vocab.txt", "config_file": tmp_path / "config.json"}
    with pytest.raises(UserError) as caught:
        main(command(folder, **changes, eval_batch_size=0, learning_rate=-1, output_dir=tmp_path / "out"))
    for part in (
        "--eval_batch_size is 0",
        "--learning_rate is -1.0",
        "train.tsv has no column sentence1",
        "dev.tsv cannot be read",
        "vocab.txt",
        "config.json",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": False, "do_eval": False}, "there is nothing to do"),
        ({"task_name": None}, "--task_name is missing; give one of cola, sst-2, mrpc"),
        ({"task_name": "sst2"}, r"did you mean sst-2\?"),
        ({"data_dir": None}, "--data_dir is missing"),
        (
            {"data_dir": "nowhere"},
            "nowhere/train.tsv cannot be read .*GLUE's own folder RTE",
        ),
        ({"task_name": "ax"}, "--task_name ax has nothing to train or score on"),
        ({"do_train": False}, "there are no weights to answer with"),
        ({"vocab_file": None}, "there is no vocabulary"),
        ({"synthetic": "full"}, "--synthetic measures the speed of training"),
        ({"synthetic": "full", "do_eval": False}, "--synthetic makes its own sequences"),
        ({"synthetic": "40", "do_eval": False, "data_dir": None}, "--synthetic 40 is no mean length"),
        ({"max_seq_length": 4}, "--max_seq_length 4 is too short for two texts"),
        ({"max_seq_length": 64}, "longer than the model's max_position_embeddings 32"),
        ({"train_batch_size": 64, "gradient_accumulation_steps": 1}, "24 sequences of RTE, and one micro-batch"),
    ],
)
def test_bad_input(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        main(command(folder, **{"output_dir": tmp_path / "out", **changes}))
    assert not list(tmp_path.glob("out/ckpt*"))


def test_only_checking_writes_nothing(folder, tmp_path):
    main(command(folder, output_dir=tmp_path / "out", do_predict=True, check_only=True))
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_no_numbers_are_no_predictions(folder, finished, tmp_path):
    weights = torch.load(finished / "ckpt_8.pt")
    weights["model"]["classifier.bias"][1] = float("nan")
    torch.save(weights, tmp_path / "broken.pt")
    changes = {"init_checkpoint": tmp_path / "broken.pt", "do_train": False, "output_dir": tmp_path}
    with pytest.raises(UserError, match="outputs for 9 of 9 sequences are infinite or not numbers"):
        main(command(folder, "mnli", **changes))


def test_the_log_names_the_task(finished):
    first = json.loads((finished / "dllogger.json").read_text(encoding="utf-8").splitlines()[0].removeprefix("DLLL "))
    assert first["data"]["task"] == "glue"
    assert first["data"]["arguments"]["task_name"] == "mnli"
