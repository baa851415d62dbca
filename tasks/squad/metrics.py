"""Exact match and F1 as SQuAD's official scripts define them, for v1.1 and v2.0.

Both compare normalized text: lower case, no punctuation, no articles, single spaces. A prediction counts as the best of
what it scores against each of a question's answers. Written from the definitions in Rajpurkar et al. 2016
(https://arxiv.org/abs/1606.05250) and 2018 (https://arxiv.org/abs/1806.03822); the two scripts' ways with answers of
which nothing is left once normalized differ, and so do the functions here.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.squad.examples import SquadExample

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


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
        answers: by the questions' ids; one that is missing scores 0 in v1.1 and counts as no answer in v2.0.
        null_odds: v2.0: how much likelier no answer is; with it the best threshold is searched.
        best_answers: v2.0: what would be answered if something had to be; `answers` if not given. With it the search
            covers all thresholds. The official script sees `answers` only, which are empty above the threshold they
            were chosen with, so its best is at most this one.

    Returns:
        `exact_match`, `f1` and `total`, the questions. In v2.0 also `has_answer_...` and `no_answer_...` of these where
        there are such questions, and with `null_odds` `best_exact_match`, `best_f1` and the thresholds that give them,
        `best_exact_match_threshold` and `best_f1_threshold`.
    """
    scores = question_scores(examples, answers, version_2_with_negative)
    result = _means(scores, scores, "")
    if version_2_with_negative:
        with_answer = [example.id for example in examples if example.answers]
        without = [example.id for example in examples if not example.answers]
        result |= _means(scores, with_answer, "has_answer_") | _means(scores, without, "no_answer_")
        if null_odds is not None:
            given = answers if best_answers is None else best_answers
            scores = question_scores(examples, given, version_2_with_negative)
            for kind, name in enumerate(("exact_match", "f1")):
                best, threshold = _best_threshold(
                    {key: pair[kind] for key, pair in scores.items()}, given, set(with_answer), null_odds
                )
                result |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
    return result


def question_scores(
    examples: Sequence[SquadExample], answers: Mapping[str, str], version_2_with_negative: bool
) -> dict[str, tuple[float, float]]:
    """(exact match, F1) of each question, from 0 to 1."""
    scores = {}
    for example in examples:
        golden = [answer.text for answer in example.answers]
        if version_2_with_negative:
            golden = [text for text in golden if normalize_answer(text)] or [""]
        elif example.id not in answers:
            scores[example.id] = (0.0, 0.0)
            continue
        answer = answers.get(example.id, "")
        exact = max((exact_match(answer, text) for text in golden), default=0.0)
        scores[example.id] = exact, max((f1(answer, text, version_2_with_negative) for text in golden), default=0.0)
    return scores


def _means(scores: Mapping[str, tuple[float, float]], keys: Sequence[str], prefix: str) -> dict[str, float]:
    n = len(keys)
    if n == 0:
        return {}
    means = {name: 100 * sum(scores[key][kind] for key in keys) / n for kind, name in enumerate(("exact_match", "f1"))}
    return {**{prefix + name: mean for name, mean in means.items()}, prefix + "total": n}


def _best_threshold(
    scores: Mapping[str, float], answers: Mapping[str, str], with_answer: set[str], null_odds: Mapping[str, float]
) -> tuple[float, float]:
    """The best mean in per cent that any threshold on the odds gives, and the lowest such threshold.

    At a threshold, questions with odds up to it are answered, and the others are not. All unanswered is the beginning,
    with the official script's threshold of 0.
    """
    current = best = float(sum(key not in with_answer for key in scores))
    threshold = 0.0
    for key in sorted(scores, key=lambda key: null_odds[key]):
        if key in with_answer:
            current += scores[key]
        elif answers.get(key):
            current -= 1
        if current > best:
            best, threshold = current, null_odds[key]
    return 100 * best / len(scores), threshold
