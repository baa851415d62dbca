"""Exact match and F1 as SQuAD's official scripts define them, for v1.1 and v2.0.

Both compare normalized text: lower case, no punctuation, no articles, single spaces. A prediction counts as the best of
what it scores against each of a question's answers. Written from the definitions in Rajpurkar et al. 2016
(https://arxiv.org/abs/1606.05250) and 2018 (https://arxiv.org/abs/1806.03822); the two scripts' ways with answers of
which nothing is left once normalized differ, and so do the functions here.
"""

import itertools
import math
import os
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.json_files import parse_json
from tasks.squad.examples import SquadExample

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
NAMES = ("exact_match", "f1")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(ARTICLES.sub(" ", PUNCTUATION.sub("", text.lower())).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if both are the same once normalized, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def f1(prediction: str, answer: str, version_2_with_negative: bool = False) -> float:
    """Harmonic mean of precision and recall over the words of both, as multisets.

    Where one of the two has no words, it is 0 in v1.1; in v2.0 it is 1 if neither has.
    """
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if version_2_with_negative and not (predicted and wanted):
        return float(predicted == wanted)
    n_common = sum((Counter(predicted) & Counter(wanted)).values())
    if n_common == 0:
        return 0.0
    precision, recall = n_common / len(predicted), n_common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def evaluate_predictions(
    examples: Sequence[SquadExample],
    answers: Mapping[str, str],
    version_2_with_negative: bool,
    null_odds: Mapping[str, float] | None = None,
    best_answers: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Scores in per cent.

    Args:
        answers: by the questions' ids, of which each has one.
        null_odds: v2.0: how much likelier no answer is.
        best_answers: v2.0: what would be answered if something had to be. Among these the best threshold is searched;
            the official script sees `answers` only, which are empty above the threshold they were chosen with, so its
            best is at most this one.

    Returns:
        `exact_match`, `f1` and `total`, the questions. In v2.0 also `has_answer_...` and `no_answer_...` of these where
        there are such questions, and `best_exact_match`, `best_f1` and the thresholds that give them,
        `best_exact_match_threshold` and `best_f1_threshold`: as --null_score_diff_threshold they reproduce the score.
        The official script does not: it names 0 where answering nothing is best, counts questions of equal odds one by
        one, and answers of which nothing is left once normalized as wrong.
    """
    scores = _question_scores(examples, answers, version_2_with_negative)
    result = _means(scores, scores, "")
    if version_2_with_negative:
        with_answer = dict.fromkeys(example.id for example in examples if example.answers)
        without = [example.id for example in examples if not example.answers]
        result |= _means(scores, with_answer, "has_answer_") | _means(scores, without, "no_answer_")
        scores = _question_scores(examples, best_answers, version_2_with_negative)
        unanswered = _question_scores(examples, dict.fromkeys(scores, ""), version_2_with_negative)
        for kind, name in enumerate(NAMES):
            # At a threshold, questions with odds up to it are answered; below the least odds, none are.
            current = best = sum(score[kind] for score in unanswered.values())
            threshold = math.nextafter(min(null_odds.values()), -math.inf)
            for odds, keys in itertools.groupby(sorted(scores, key=null_odds.__getitem__), null_odds.__getitem__):
                current += sum(scores[key][kind] - unanswered[key][kind] for key in keys)
                if current > best:
                    best, threshold = current, odds
            result |= {f"best_{name}": 100 * best / len(scores), f"best_{name}_threshold": threshold}
    return result


def _question_scores(
    examples: Sequence[SquadExample], answers: Mapping[str, str], version_2_with_negative: bool
) -> dict[str, tuple[float, float]]:
    """(exact match, F1) of each question, from 0 to 1."""
    scores = {}
    for example in examples:
        golden, answer = [answer.text for answer in example.answers], answers[example.id]
        if version_2_with_negative:
            golden = [text for text in golden if normalize_answer(text)] or [""]
        exact = max(exact_match(answer, text) for text in golden)
        scores[example.id] = exact, max(f1(answer, text, version_2_with_negative) for text in golden)
    return scores


def _means(scores: Mapping[str, tuple[float, float]], keys: Collection[str], prefix: str) -> dict[str, float]:
    n = len(keys)
    means = {f"{prefix}{name}": 100 * sum(scores[key][i] for key in keys) / n for i, name in enumerate(NAMES) if n}
    return means | {f"{prefix}total": n} if n else {}


def run_official_script(
    script: Path, data_file: Path, predictions_file: Path, null_odds_file: Path | None = None
) -> dict[str, float]:
    """What evaluate-v1.1.py or evaluate-v2.0.py prints for these predictions.

    Args:
        null_odds_file: for v2.0's script, which searches thresholds with it. Since `predictions_file` says "" where a
            threshold decided so, what that script calls best is the best of the thresholds up to that one.

    Raises:
        UserError: the script fails, or does not print a JSON object.
    """
    command = [sys.executable, str(script), str(data_file), str(predictions_file)]
    if null_odds_file is not None:
        # The predictions are scored as they are: by itself the script takes the odds for probabilities, and empties
        # answers with odds above 1.
        command += ["--na-prob-file", str(null_odds_file), "--na-prob-thresh", "inf"]
    utf8 = {**os.environ, "PYTHONUTF8": "1"}  # the script opens the data in the locale's encoding
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=utf8
    )
    try:
        # v1.1's prints one line; v2.0's an object over several, and perhaps words before it.
        printed = "" if ended.returncode else ended.stdout
        return parse_json(printed[printed.index("{") :])
    except ValueError as error:
        said = (ended.stderr.strip() or ended.stdout.strip() or "nothing").splitlines()[-1][-80:]
        raise UserError(
            f"--eval_script {script} printed no scores of {predictions_file} (status {ended.returncode}: {said})",
            "give the official script of the data's version",
        ) from error
