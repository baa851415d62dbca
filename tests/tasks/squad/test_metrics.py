"""Exact match and F1: worked out by hand, by transformers' copy of the official v2.0 script, by any script."""

import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.data.metrics import squad_metrics as reference

from common.errors import UserError
from tasks.squad.examples import Answer, SquadExample, read_squad
from tasks.squad.metrics import evaluate_predictions, exact_match, f1, normalize_answer, run_official_script

WORDS = st.lists(
    st.sampled_from(["the", "a", "an", "cat", "Cat,", "sat", "on", "Émile", "mat.", "--", "\u200b"]), max_size=6
)
TEXTS = WORDS.map(" ".join) | st.text(max_size=12)


def example(key, *answers):
    return SquadExample(key, "?", " ".join(answers), tuple(map(Answer, answers)))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat,\tsat!", "cat sat"),
        ("a an the", ""),
        ("An apple a day", "apple day"),
        ("theatre another", "theatre another"),
        ("U.S.-led", "usled"),
        ("«Émile»", "«émile»"),  # ASCII punctuation only
    ],
)
def test_normalized_by_hand(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "score"),
    [
        ("the cat", "Cat.", 1, 1),
        ("black cat sat", "cat", 0, 0.5),  # precision 1/3, recall 1
        ("cat cat", "cat", 0, 2 / 3),  # the second cat is one too many
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
    ],
)
def test_scores_by_hand(prediction, answer, exact, score):
    assert exact_match(prediction, answer) == exact
    assert f1(prediction, answer) == pytest.approx(score)


def test_where_the_two_scripts_differ():
    assert f1("the", "a") == 0
    assert f1("the", "a", version_2_with_negative=True) == 1
    assert f1("", "", version_2_with_negative=True) == 1


@given(TEXTS, TEXTS)
def test_each_pair_as_the_official_script(prediction, answer):
    assert normalize_answer(prediction) == reference.normalize_answer(prediction)
    assert exact_match(prediction, answer) == reference.compute_exact(answer, prediction)
    assert f1(prediction, answer, version_2_with_negative=True) == pytest.approx(
        reference.compute_f1(answer, prediction)
    )


def test_v1_by_hand():
    examples = [example("1", "cat", "black cat"), example("2", "mat"), example("3", "on the mat")]
    scores = evaluate_predictions(examples, {"1": "the black cat", "2": "a red mat", "3": ""}, False)
    # The second scores 2 * (1/2) / (3/2) = 2/3; the third was not answered.
    assert scores == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3, "total": 3})


QUESTIONS = st.lists(
    st.tuples(st.lists(TEXTS.filter(str.strip), max_size=3), TEXTS, st.floats(-5, 5)), min_size=1, max_size=8
)


@given(QUESTIONS)
def test_v2_as_the_official_script(questions):
    examples = [example(str(i), *answers) for i, (answers, _, _) in enumerate(questions)]
    answers = {str(i): answer for i, (_, answer, _) in enumerate(questions)}
    odds = {str(i): value for i, (_, _, value) in enumerate(questions)}
    theirs = [SimpleNamespace(qas_id=e.id, answers=[{"text": a.text} for a in e.answers]) for e in examples]
    expected = reference.squad_evaluate(theirs, answers, odds, no_answer_probability_threshold=100)
    scores = evaluate_predictions(examples, answers, True, odds, answers)
    names = {
        "exact_match": "exact",
        "f1": "f1",
        "total": "total",
        "has_answer_exact_match": "HasAns_exact",
        "has_answer_f1": "HasAns_f1",
        "has_answer_total": "HasAns_total",
        "no_answer_exact_match": "NoAns_exact",
        "no_answer_f1": "NoAns_f1",
        "no_answer_total": "NoAns_total",
        "best_exact_match": "best_exact",
        "best_f1": "best_f1",
    }
    # The script counts questions of equal odds one by one, and "the" as a wrong answer where "" is right.
    texts = [text for gold, answer, _ in questions for text in (*gold, answer)]
    is_odd = len(set(odds.values())) < len(odds) or any(text and not normalize_answer(text) for text in texts)
    compared = {ours: name for ours, name in names.items() if not (is_odd and "best" in ours)}
    wanted = {ours: expected[name] for ours, name in compared.items() if name in expected}
    assert {name: scores[name] for name in wanted} == pytest.approx(wanted)
    for kind in ("exact_match", "f1"):
        threshold = scores[f"best_{kind}_threshold"]
        given = {key: answer if odds[key] <= threshold else "" for key, answer in answers.items()}
        assert evaluate_predictions(examples, given, True, odds, given)[kind] == pytest.approx(scores[f"best_{kind}"])


def test_the_best_threshold_by_hand():
    examples = [example("1", "cat"), example("2"), example("3", "mat"), example("4")]
    best = {"1": "cat", "2": "dog", "3": "mat", "4": "mouse"}
    odds = {"1": -3.0, "2": 1.0, "3": -1.0, "4": 2.0}
    given_at_zero = {"1": "cat", "2": "", "3": "mat", "4": ""}
    scores = evaluate_predictions(examples, given_at_zero, True, odds, best)
    assert scores["exact_match"] == 100
    assert (scores["best_exact_match"], scores["best_exact_match_threshold"]) == (100, -1.0)
    # Without odds that tell, answering nothing is best: two of four.
    scores = evaluate_predictions(examples, best, True, {"1": 2.0, "2": -3.0, "3": 1.0, "4": -1.0}, best)
    assert (scores["best_f1"], scores["best_f1_threshold"]) == (50, pytest.approx(-3.0))
    assert scores["best_f1_threshold"] < -3.0
    # Three questions of equal odds are answered together or not at all: one right of three against two of three.
    scores = evaluate_predictions([*examples[:2], example("4")], best, True, dict.fromkeys("124", 0.5), best)
    assert scores["best_f1"] == pytest.approx(200 / 3)
    assert scores["best_f1_threshold"] < 0.5


@pytest.mark.parametrize("version_2", [False, True])
def test_a_real_file_as_the_official_script(version_2, reference_data):
    path = reference_data / "squad-v1.1-sample.json"
    examples = read_squad(path, version_2, skip_bad_answers=True, report=lambda sentence: None)
    rng = random.Random(0)
    answers = {}
    for e in examples:  # right, cut, longer, elsewhere, or none
        start, text = e.answers[0].start, e.answers[0].text
        end = start + len(text)
        wrong = e.context[: rng.randint(1, 40)]
        answers[e.id] = rng.choice([text, text[:-3], e.context[max(0, start - 9) : end + 9], wrong, "", text.upper()])
    theirs = [SimpleNamespace(qas_id=e.id, answers=[{"text": a.text} for a in e.answers]) for e in examples]
    expected = reference.squad_evaluate(theirs, answers)
    scores = evaluate_predictions(examples, answers, version_2, dict.fromkeys(answers, 0.0), answers)
    assert scores["exact_match"] == pytest.approx(expected["exact"])
    assert scores["f1"] == pytest.approx(expected["f1"])
    assert 20 < scores["exact_match"] < scores["f1"] < 80


def script(folder, body):
    path = folder / "evaluate.py"
    path.write_text(f"import json, sys\n{body}\n")
    return path


def test_it_gets_the_files_and_its_scores_come_back(tmp_path):
    path = script(tmp_path, "print(json.dumps({'exact_match': 50.0, 'f1': 62.5, 'given': sys.argv[1:]}))")
    scores = run_official_script(path, tmp_path / "data.json", tmp_path / "predictions.json", tmp_path / "odds.json")
    files = [str(tmp_path / name) for name in ("data.json", "predictions.json", "odds.json")]
    assert scores == {
        "exact_match": 50.0,
        "f1": 62.5,
        "given": [*files[:2], "--na-prob-file", files[2], "--na-prob-thresh", "inf"],
    }


def test_v2_predictions_are_scored_as_they_are(tmp_path):
    # As evaluate-v2.0.py: an answer is emptied if its odds are above the threshold, which is 1 unless given.
    body = """import argparse
parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("predictions")
parser.add_argument("--na-prob-file")
parser.add_argument("--na-prob-thresh", type=float, default=1.0)
args = parser.parse_args()
given, odds = json.load(open(args.predictions)), json.load(open(args.na_prob_file))
print(json.dumps({key: "" if odds[key] > args.na_prob_thresh else text for key, text in given.items()}))"""
    (tmp_path / "predictions.json").write_text(json.dumps({"1": "cat", "2": ""}))
    (tmp_path / "odds.json").write_text(json.dumps({"1": 2.5, "2": 3.4e38}))
    files = [tmp_path / name for name in ("data.json", "predictions.json", "odds.json")]
    assert run_official_script(script(tmp_path, body), *files) == {"1": "cat", "2": ""}


def test_the_data_is_read_as_utf8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("LC_ALL", "C")
    (tmp_path / "data.json").write_text(json.dumps({"text": "Émile 中"}, ensure_ascii=False), encoding="utf-8")
    path = script(tmp_path, "print(json.dumps(json.load(open(sys.argv[1])), ensure_ascii=False))")
    assert run_official_script(path, tmp_path / "data.json", tmp_path / "p.json") == {"text": "Émile 中"}


def test_scores_over_several_lines_after_words(tmp_path):
    path = script(tmp_path, "print('Unanswered: none'); print(json.dumps({'exact': 1}, indent=2))")
    assert run_official_script(path, tmp_path, tmp_path) == {"exact": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('KeyError: data')", r"printed no scores of .*preds.json \(status 1: KeyError: data\)"),
        ("sys.exit(3)", r"status 3: nothing"),
        ("print('fine')", r"status 0: fine"),
        ("print('{1')", r"printed no scores"),
        (f"print({json.dumps([1])})", r"printed no scores"),
    ],
)
def test_what_goes_wrong(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        run_official_script(script(tmp_path, body), tmp_path / "data.json", tmp_path / "preds.json")
