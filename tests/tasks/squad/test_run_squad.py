"""Fine-tuning, answering and scoring through the command line, on the CPU."""

import itertools
import json
import re
import subprocess
import sys

import pytest
import torch
import transformers
from paths import ROOT
from pretraining_runs import SHAPE, curve, losses, summary
from pretraining_runs import command as pretraining_command
from pretraining_runs import make_inputs as make_pretraining_inputs
from squad_runs import N_WORDS_OF_VOCABULARY, command, make_inputs, write_squad
from torch.nn.functional import cross_entropy
from transformers.data.metrics import squad_metrics

from common.errors import UserError
from file_utils import locked
from optimization import learning_rate
from run_pretraining import main as pretrain
from run_squad import main
from tasks.squad.dataset import SquadDataset
from tasks.squad.examples import read_squad
from tasks.squad.features import squad_features
from tokenization import BertTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("squad"))


@pytest.fixture(scope="module")
def finished(folder):
    """A finished run, with dropout."""
    main(command(folder, output_dir=folder / "finished"))
    return folder / "finished"


def texts(path):
    return json.loads(path.read_text(encoding="utf-8"))


def contexts(path):
    return {example.id: example.context for example in read_squad(path, True)}


def test_a_run_trains_answers_and_scores(folder, finished):
    answers = texts(finished / "predictions.json")
    assert list(answers) == list(contexts(folder / "dev.json"))
    n_best = texts(finished / "nbest_predictions.json")
    for key, context in contexts(folder / "dev.json").items():
        assert answers[key] in context
        assert answers[key] == n_best[key][0]["text"]
        for candidate in n_best[key]:
            start = candidate["answer_start"]
            assert context[start : start + len(candidate["text"])] == candidate["text"]
    golden = {example.id: example.answers[0].text for example in read_squad(folder / "dev.json", False)}
    scores = summary(finished)
    exact = [squad_metrics.compute_exact(golden[key], answers[key]) for key in golden]
    f1 = [squad_metrics.compute_f1(golden[key], answers[key]) for key in golden]
    assert scores["exact_match"] == pytest.approx(100 * sum(exact) / len(exact))
    assert scores["f1"] == pytest.approx(100 * sum(f1) / len(f1))
    assert scores["sequences_per_second"] > 0
    assert scores["inference_sequences_per_second"] > 0
    assert not (finished / "null_odds.json").exists()
    assert (finished / "ckpt_8.pt").is_file()


def test_losses_equal_hugging_face(tmp_path):
    make_inputs(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    changes = {"do_eval": False, "predict_file": None, "max_grad_norm": 1e9, "weight_decay": 0}
    main(command(tmp_path, **changes, max_steps=1))
    reference = transformers.BertForQuestionAnswering(
        transformers.BertConfig(
            **{**SHAPE, "vocab_size": N_WORDS_OF_VOCABULARY}, hidden_dropout_prob=0, attention_probs_dropout_prob=0
        )
    )
    # One optimizer step at rate 0, the end of the schedule, leaves the initial weights in the checkpoint.
    missing = reference.load_state_dict(torch.load(tmp_path / "out" / "ckpt_1.pt")["model"], strict=False)
    assert not missing.unexpected_keys
    main(
        command(
            tmp_path, do_eval=False, predict_file=None, max_grad_norm=1e9, weight_decay=0, output_dir=tmp_path / "b"
        )
    )

    tokenizer = BertTokenizer(tmp_path / "vocab.txt")
    features = squad_features(read_squad(tmp_path / "train.json", False), tokenizer, 32, 8, 8, progress=False)
    optimizer = torch.optim.AdamW(reference.parameters(), betas=(0.9, 0.999), eps=1e-6, weight_decay=0)
    expected = []
    with SquadDataset(features, 4, 32, 42).iterate() as batches:
        for step in range(1, 9):
            halves = [hugging_face_loss(reference, next(batches)) for _ in range(2)]
            loss = sum(halves) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = learning_rate(step, 8, 0.1, 0.003, "linear")
            optimizer.step()
            expected.append(loss.item())
    assert losses(tmp_path / "b") == pytest.approx(expected, rel=1e-5)


def hugging_face_loss(model, batch):
    """Of a flat batch as a rectangle."""
    starts = batch.cu_seqlens[: batch.work.n_sequences + 1].tolist()
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    padded = torch.zeros(2, batch.work.n_sequences, 32, dtype=torch.long)
    mask = torch.zeros(batch.work.n_sequences, 32, dtype=torch.bool)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        padded[0, row, :length] = batch.input_ids[start : start + length]
        padded[1, row, :length] = batch.token_type_ids[start : start + length]
        mask[row, :length] = True
    output = model(padded[0], attention_mask=mask.long(), token_type_ids=padded[1])
    start_loss = cross_entropy(output.start_logits.masked_fill(~mask, -1e30), batch.start_positions)
    return (start_loss + cross_entropy(output.end_logits.masked_fill(~mask, -1e30), batch.end_positions)) / 2


def test_stopped_and_resumed_is_the_same_run(folder, finished, tmp_path):
    changes = {"output_dir": tmp_path / "out", "resume_from_checkpoint": True}
    main(command(folder, steps_this_run=3, **changes))
    assert not (tmp_path / "out" / "ckpt_8.pt").exists()
    main(command(folder, **changes))
    assert losses(tmp_path / "out") == losses(finished)
    assert texts(tmp_path / "out" / "predictions.json") == texts(finished / "predictions.json")


@pytest.mark.slow
def test_two_ranks_train_and_answer_as_one(folder, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    main(command(folder, output_dir=alone, gradient_accumulation_steps=2))
    arguments = command(folder, output_dir=together, train_batch_size=4, gradient_accumulation_steps=1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run([*launcher, ROOT / "run_squad.py", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
    assert texts(together / "predictions.json") == texts(alone / "predictions.json")
    assert summary(together)["f1"] == summary(alone)["f1"]


def test_questions_without_an_answer(folder, tmp_path, capsys):
    for name in ("train", "dev"):
        write_squad(tmp_path / f"{name}.json", share_without_answer=0.4)
    data = {"train_file": tmp_path / "train.json", "predict_file": tmp_path / "dev.json", "output_dir": tmp_path}
    with pytest.raises(UserError, match=r"--version_2_with_negative"):
        main(command(folder, **data))
    main(command(folder, **data, version_2_with_negative=True, verbose_logging=True))
    odds, answers = texts(tmp_path / "null_odds.json"), texts(tmp_path / "predictions.json")
    assert odds.keys() == answers.keys()
    assert all((answers[key] == "") == (odds[key] > 0) for key in odds)
    scores = summary(tmp_path)
    assert scores["has_answer_total"] + scores["no_answer_total"] == scores["total"] == 24
    assert scores["best_f1"] >= scores["f1"]
    printed = capsys.readouterr().out
    assert "no answer above the best by" in printed
    assert "SQuAD | step 1/" in printed
    for score, name in (("exact_match", "exact match"), ("f1", "F1")):
        assert re.search(rf"^  {name} +{scores[score]:.2f} %$", printed, re.MULTILINE)
    assert re.search(r"^  inference +[\d,.]+ seq/s, [\d,.]+ (M )?tok/s$", printed, re.MULTILINE)
    # With a threshold that nothing is above, all questions are answered.
    evaluates = {"do_train": False, "train_file": None, "resume_from_checkpoint": True}
    main(command(folder, **{**data, **evaluates}, version_2_with_negative=True, null_score_diff_threshold=1000))
    assert all(texts(tmp_path / "predictions.json").values())


def test_answers_alone_need_no_answers(folder, finished, tmp_path):
    questions = texts(folder / "dev.json")
    for paragraph in questions["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    changes = {"do_train": False, "train_file": None, "init_checkpoint": finished / "ckpt_8.pt"}
    paths = {"predict_file": tmp_path / "questions.json", "output_dir": tmp_path / "out"}
    main(command(folder, do_eval=False, do_predict=True, **changes, **paths))
    assert texts(tmp_path / "out" / "predictions.json") == texts(finished / "predictions.json")
    assert "f1" not in summary(tmp_path / "out")
    with pytest.raises(UserError, match="answer"):
        main(command(folder, **changes, **paths))


def test_one_question(folder, finished, tmp_path, capsys):
    context = next(iter(contexts(folder / "dev.json").values()))
    (tmp_path / "context.txt").write_text(context, encoding="utf-8")
    weights = {"do_train": False, "do_eval": False, "train_file": None, "predict_file": None}
    weights |= {"init_checkpoint": finished / "ckpt_8.pt", "output_dir": tmp_path / "out"}
    asked = texts(folder / "dev.json")["data"][0]["paragraphs"][0]["qas"][0]["question"]
    for given in (context, f"@{tmp_path / 'context.txt'}"):
        main(command(folder, **weights, question=asked, context=given))
        said = capsys.readouterr().out
        answer = texts(finished / "predictions.json")["dev-0"]
        assert f"answer: {answer}\n" in said
        assert len([line for line in said.splitlines() if line.lstrip()[:1].isdigit() and "%" in line]) > 3
    assert not (tmp_path / "out" / "predictions.json").exists()
    weights |= {"init_checkpoint": None, "resume_from_checkpoint": True, "output_dir": finished}
    with locked(finished / ".lock"):  # by a run that goes on
        with pytest.raises(UserError, match="is in use by"):
            main(command(folder, **weights, question=asked, context=context))
        main(command(folder, **weights, question=asked, context=context, **{"json-summary": tmp_path / "log.json"}))
    assert f"answer: {answer}\n" in capsys.readouterr().out


def test_features_are_kept_and_can_be_left_out(folder, finished, tmp_path, capsys):
    assert len(list((finished / "cache").glob("*.npz"))) == 2
    cache = {"cache_dir": finished / "cache", "output_dir": tmp_path / "a"}
    main(command(folder, **cache))
    assert capsys.readouterr().out.count("made before, are read") == 2
    assert losses(tmp_path / "a") == losses(finished)
    main(command(folder, output_dir=tmp_path / "b", skip_cache=True))
    assert not (tmp_path / "b" / "cache").exists()
    assert losses(tmp_path / "b") == losses(finished)


def test_the_official_script_is_shown_beside_ours(folder, finished, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import json, sys\nanswers = json.load(open(sys.argv[2]))\nprint(json.dumps({'f1': float(len(answers))}))"
    )
    changes = {"do_train": False, "train_file": None, "init_checkpoint": finished / "ckpt_8.pt"}
    main(command(folder, **changes, eval_script=script, output_dir=tmp_path / "out"))
    assert summary(tmp_path / "out")["official_f1"] == 9


def test_it_starts_from_pre_training(tmp_path, capsys):
    make_pretraining_inputs(tmp_path)
    pretrain(pretraining_command(tmp_path, output_dir=tmp_path / "pretrained", max_steps=2))
    make_inputs(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))  # of the vocabulary that was pre-trained with
    tokens = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split()[: SHAPE["vocab_size"]]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    capsys.readouterr()
    main(command(tmp_path, config_file=None, init_checkpoint=tmp_path / "pretrained" / "ckpt_2.pt", max_steps=1))
    said = capsys.readouterr().out
    assert "weights loaded" in said
    assert "randomly initialized, as the file has none of their shape: qa_outputs" in said
    trained, before = (torch.load(tmp_path / name)["model"] for name in ("out/ckpt_1.pt", "pretrained/ckpt_2.pt"))
    name = "bert.embeddings.position_embeddings.weight"
    torch.testing.assert_close(trained[name], before[name], rtol=0, atol=0.01)
    # Answering resumes what was fine-tuned; where there is nothing to resume, the new head would answer at random.
    answers = {"config_file": None, "init_checkpoint": tmp_path / "pretrained/ckpt_2.pt", "do_train": False}
    answers |= {"train_file": None, "resume_from_checkpoint": True}
    main(command(tmp_path, **answers, check_only=True))
    main(command(tmp_path, **answers))
    assert "the weights of step 1 in" in capsys.readouterr().out
    for resumes, output in ((True, "nothing"), (False, "other")):
        changes = {**answers, "resume_from_checkpoint": resumes, "output_dir": tmp_path / output}
        with pytest.raises(UserError, match=r"has no weights of the names qa_outputs\.\*"):
            main(command(tmp_path, **changes))
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": SHAPE["num_hidden_layers"] + 1}))
    changes = {"init_checkpoint": tmp_path / "pretrained" / "ckpt_2.pt", "output_dir": tmp_path / "other"}
    with pytest.raises(UserError, match="does not hold the weights of a BertForQuestionAnswering"):
        main(command(tmp_path, **changes))
    assert not (tmp_path / "other").exists()  # nothing was tokenized


@pytest.mark.parametrize("kind", ["torch"])
def test_some_steps_are_profiled(folder, tmp_path, capsys, kind):
    main(command(folder, output_dir=tmp_path, profile=kind, **{"profile-start": 2, "profile-steps": 3}))
    trace = json.loads((tmp_path / "profile" / "trace_rank0.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert sum(name == "Optimizer.step#AdamW.step" for name in names) == 3
    printed = capsys.readouterr().out
    assert f"trace: {tmp_path}" in printed
    # Of 8 steps the first is warm-up, and the three that were profiled do not count.
    assert "over 4 steps" in printed
    main(command(folder, output_dir=tmp_path / "short", profile=kind, **{"profile-start": 8}, max_steps=3))
    assert "nothing was profiled: this run ended after 3 steps" in capsys.readouterr().out


def test_all_that_is_wrong_is_said_at_once(folder, tmp_path):
    (tmp_path / "broken.json").write_text('{"data": [}')
    changes = {
        "train_file": tmp_path / "broken.json",
        "predict_file": tmp_path / "absent.json",
        "vocab_file": tmp_path / "vocab.txt",
        "config_file": tmp_path / "config.json",
        "output_dir": tmp_path / "out",
        "n_best_size": 0,
        "max_query_length": 30,
        "eval_script": "evaluate.py",
        "do_eval": False,
        "do_predict": True,
    }
    with pytest.raises(UserError) as caught:
        main(command(folder, **changes))
    for part in (
        "--n_best_size is 0",
        "--max_query_length 30 leaves no room",
        "--eval_script scores answers; add --do_eval",
        "broken.json",
        "absent.json",
        "vocab.txt",
        "config.json",
    ):
        assert part in str(caught.value)
    assert "line 1" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": False, "do_eval": False}, "there is nothing to do"),
        ({"train_file": None}, "--do_train needs --train_file"),
        ({"predict_file": None}, "need --predict_file"),
        ({"question": "who"}, "--question and --context belong together"),
        ({"question": "who", "context": "it"}, "--question answers one question and does nothing else"),
        ({"do_train": False}, "there are no weights to answer with"),
        ({"vocab_file": None}, "there is no vocabulary"),
        ({"no-do_lower_case": True}, r"is an uncased one.*give --do_lower_case"),
        (
            {"train_batch_size": 64, "gradient_accumulation_steps": 1},
            r"windows of .*, and one micro-batch on all ranks takes 64",
        ),
        ({"profile": "cuda"}, "needs a GPU; give --profile torch"),
        ({"profile-start": -1}, "--profile-start is -1; it must not be negative"),
        ({"max_seq_length": 64}, "longer than the model's max_position_embeddings 32"),
    ],
)
def test_bad_input(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        main(command(folder, **{"output_dir": tmp_path / "out", **changes}))
    assert not list(tmp_path.glob("out/ckpt*"))


def test_a_cased_vocabulary_is_not_lower_cased(folder, tmp_path):
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    vocab[-30:] = [word.capitalize() for word in vocab[-30:]]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    changes = {"vocab_file": tmp_path / "vocab.txt", "output_dir": tmp_path / "out"}
    with pytest.raises(UserError, match=r"is a cased one.*give --no-do_lower_case"):
        main(command(folder, **changes, do_lower_case=True))
    main(command(folder, **changes, max_steps=1))
    assert curve(tmp_path / "out")
