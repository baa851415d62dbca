"""From scores for each token to answers: the best spans over all windows of a question, or that there is none.

The algorithm is the published one (google-research/bert, run_squad.py): of each window the best starts and ends, all
pairs of them that can be an answer, the best of these over the windows. What differs is the answer's text: it is the
slice of the context from the first token's first character to the last token's last, and is never put together again.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from file_utils import atomic_write
from tasks.squad.examples import SquadExample
from tasks.squad.features import SquadFeatures

PREDICTIONS, N_BEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """How answers are chosen; the names are the flags'."""

    n_best_size: int = 20
    max_answer_length: int = 30
    """In tokens."""
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0
    """No answer is given where its score is above the best answer's by more than this."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """context[char_start:char_end], or no answer, which is the empty text at 0."""

    text: str
    char_start: int
    char_end: int
    start_logit: float
    end_logit: float
    probability: float = 0.0
    """Softmax of the scores of a question's n best."""

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclasses.dataclass(frozen=True)
class Predictions:
    """By the questions' ids."""

    answers: dict[str, str]
    """The empty string where there is none: in v2.0 by choice, else where no token of the context can be one."""
    best_answers: dict[str, str]
    """The best that is not empty, whatever no answer scores; a threshold is searched among these."""
    n_best: dict[str, list[Candidate]]
    """The best first, with different texts; no answer is among them in v2.0, and where nothing else can be."""
    null_odds: dict[str, float]
    """v2.0: the score of no answer less that of the best answer."""


def predict_answers(
    examples: Sequence[SquadExample],
    features: SquadFeatures,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    options: PredictionOptions,
    report: Callable[[str], object] | None = None,
) -> Predictions:
    """Answers to all questions.

    Args:
        start_logits, end_logits: (T,) fp32, scores of the features' tokens.
        report: told in a sentence how each answer came about.

    Raises:
        UserError: scores that are infinite or not numbers.
    """
    _check_finite(start_logits, end_logits)
    predictions = Predictions({}, {}, {}, {})
    begins = np.searchsorted(features.example_index, np.arange(len(examples) + 1))
    for index, example in enumerate(examples):
        windows = range(begins[index], begins[index + 1])
        spans, null_logits = _spans(features, windows, start_logits, end_logits, options)
        null = null_logits if options.version_2_with_negative or not spans else None
        n_best = _n_best(example, features, spans, null, options.n_best_size)
        best = next((candidate for candidate in n_best if candidate.text), None)
        answer = best.text if best else ""
        predictions.best_answers[example.id] = answer
        if options.version_2_with_negative:
            odds = sum(null_logits) - best.score if best else float("inf")
            # JSON has no infinity.
            predictions.null_odds[example.id] = min(odds, float(np.finfo(np.float32).max))
            if odds > options.null_score_diff_threshold:
                answer = ""
        predictions.answers[example.id] = answer
        predictions.n_best[example.id] = n_best
        if report:
            report(_account(example, n_best, len(windows), len(spans), answer, predictions.null_odds.get(example.id)))
    return predictions


def _check_finite(start_logits: np.ndarray, end_logits: np.ndarray) -> None:
    n_wrong = int((~np.isfinite(start_logits) | ~np.isfinite(end_logits)).sum())
    if n_wrong:
        raise UserError(
            f"the model's scores of {n_wrong:,} of {len(start_logits):,} tokens are infinite or not numbers, so "
            "nothing can be answered",
            "answer with --precision bf16 or fp32, or take other weights",
        )


def _spans(
    features: SquadFeatures,
    windows: range,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    options: PredictionOptions,
) -> tuple[list[tuple[float, float, int, int]], tuple[float, float]]:
    """All spans that can be the answer, the best first, as (start logit, end logit, first and last token); and the
    logits of no answer, those of [CLS] in the window where their sum is least, 0 if there is no window."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    null_logits = (0.0, 0.0)
    least = np.inf
    for window in windows:
        begin, end = features.offsets[window], features.offsets[window + 1]
        logits = float(start_logits[begin]), float(end_logits[begin])
        if sum(logits) < least:
            least, null_logits = sum(logits), logits
        found.append(_pairs(features, begin, end, start_logits, end_logits, options))
    pairs = np.concatenate(found)
    # In fp64, as the scores of the candidates: fp32 sums round, and would put some in another order.
    starts, ends = start_logits[pairs[:, 0]].astype(np.float64), end_logits[pairs[:, 1]].astype(np.float64)
    # Equal scores stay in the order of the windows, of the starts and of the ends.
    order = np.argsort(-(starts + ends), kind="stable")
    columns = (starts[order].tolist(), ends[order].tolist(), *pairs[order].T.tolist())
    return list(zip(*columns, strict=True)), null_logits


def _pairs(
    features: SquadFeatures,
    begin: int,
    end: int,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    options: PredictionOptions,
) -> np.ndarray:
    """(K, 2) int64: first and last tokens, among the window's best, of what can be an answer."""
    starts = begin + _best(start_logits[begin:end], options.n_best_size)
    ends = begin + _best(end_logits[begin:end], options.n_best_size)
    starts = starts[features.is_max_context[starts] & (features.char_starts[starts] >= 0)]
    ends = ends[features.char_starts[ends] >= 0]
    n_tokens = ends[None, :] - starts[:, None] + 1
    rows, columns = np.nonzero((n_tokens >= 1) & (n_tokens <= options.max_answer_length))
    return np.stack([starts[rows], ends[columns]], axis=1)


def _best(scores: np.ndarray, n: int) -> np.ndarray:
    """Where the n highest scores are, the highest first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:n]


def _n_best(
    example: SquadExample,
    features: SquadFeatures,
    spans: Sequence[tuple[float, float, int, int]],
    null_logits: tuple[float, float] | None,
    n: int,
) -> list[Candidate]:
    """The n best with different texts, the best first; no answer among them if its logits are given."""
    candidates: dict[str, Candidate] = {}
    null = None if null_logits is None else Candidate("", 0, 0, *null_logits)
    for start_logit, end_logit, first, last in spans:
        if null is not None and null.score >= start_logit + end_logit:
            candidates.setdefault("", null)
        if len(candidates) >= n:
            break
        char_start, char_end = int(features.char_starts[first]), int(features.char_ends[last])
        text = example.context[char_start:char_end]
        candidates.setdefault(text, Candidate(text, char_start, char_end, start_logit, end_logit))
    if null is not None:
        candidates.setdefault("", null)  # one more than n if it scores less than they do: it is always told
    n_best = list(candidates.values())
    if not n_best:
        return []
    scores = np.array([candidate.score for candidate in n_best])
    weights = np.exp(scores - scores.max())
    return [
        dataclasses.replace(candidate, probability=float(weight))
        for candidate, weight in zip(n_best, weights / weights.sum(), strict=True)
    ]


def _account(
    example: SquadExample, n_best: Sequence[Candidate], n_windows: int, n_spans: int, answer: str, odds: float | None
) -> str:
    """How an answer came about."""
    best = "; ".join(
        f"{candidate.text!r} at {candidate.char_start} ({candidate.start_logit:.2f} + {candidate.end_logit:.2f}, "
        f"{candidate.probability:.1%})"
        for candidate in n_best[:3]
    )
    null = "" if odds is None else f", no answer above the best by {odds:.2f}"
    return f"{example.id} {example.question!r}: {answer!r}, of {n_spans} spans in {n_windows} windows{null}: {best}"


def write_predictions(folder: Path, predictions: Predictions, with_null_odds: bool) -> Path:
    """Write predictions.json, nbest_predictions.json and, for v2.0, null_odds.json; returns the first one's path.

    In ASCII, other characters escaped: the official scripts open files in the locale's encoding, whichever that is.
    """
    n_best = {
        key: [
            {
                "text": candidate.text,
                "probability": candidate.probability,
                "start_logit": candidate.start_logit,
                "end_logit": candidate.end_logit,
                "answer_start": candidate.char_start,
            }
            for candidate in candidates
        ]
        for key, candidates in predictions.n_best.items()
    }
    files: dict[str, object] = {PREDICTIONS: predictions.answers, N_BEST: n_best}
    if with_null_odds:
        files[NULL_ODDS] = predictions.null_odds
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            json.dump(content, file, indent=1)
    return folder / PREDICTIONS
