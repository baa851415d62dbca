"""The official script is run as it is; whatever goes wrong with it is a sentence."""

import json

import pytest

from common.errors import UserError
from tasks.squad.metrics import run_official_script


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
