"""From scores for each token to answers: the best spans over all windows of a question, or that there is none.

The algorithm is the published one (google-research/bert, run_squad.py): of each window the best starts and ends, all
pairs of them that can be an answer, the best of these over the windows. What differs is the answer's text: it is the
slice of the context from the first token's first character to the last token's last, and is never put together again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from file_utils import atomic_write
from tasks.squad.arguments import SquadFlags
from tasks.squad.examples import SquadExample
from tasks.squad.features import SquadFeatures

PREDICTIONS, N_BEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"


class Candidate(NamedTuple):
    """An answer as nbest_predictions.json has it."""

    text: str
    probability: float  # softmax of the scores of a question's n best
    start_logit: float
    end_logit: float
    answer_start: int  # in characters of the context; 0 of the empty text, which is no answer

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


class Predictions(NamedTuple):
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
    flags: SquadFlags,
) -> Predictions:
    """Answers to all questions.

    Args:
        start_logits, end_logits: (T,) fp32, scores of the features' tokens.

    Raises:
        UserError: scores that are infinite or not numbers.
    """
    if n_wrong := int((~np.isfinite(start_logits) | ~np.isfinite(end_logits)).sum()):
        raise UserError(
            f"the model's scores of {n_wrong:,} of {len(start_logits):,} tokens are infinite or not numbers, so "
            "nothing can be answered",
            "answer with --precision bf16 or fp32, or take other weights",
        )
    predictions = Predictions({}, {}, {}, {})
    begins = np.searchsorted(features.example_index, np.arange(len(examples) + 1))
    for index, example in enumerate(examples):
        windows = slice(begins[index], begins[index + 1])
        token_ranges = list(zip(features.offsets[:-1][windows], features.offsets[1:][windows], strict=True))
        # No answer is [CLS], in the window where its scores' sum is least.
        nulls = [(float(start_logits[begin]), float(end_logits[begin])) for begin, _ in token_ranges]
        null_logits = min(nulls, key=sum, default=(0.0, 0.0))
        spans = _spans(features, token_ranges, start_logits, end_logits, flags)
        null = null_logits if flags.version_2_with_negative or not spans else None
        n_best = _n_best(example, features, spans, null, flags.n_best_size)
        best = next((candidate for candidate in n_best if candidate.text), None)
        answer = best.text if best else ""
        predictions.best_answers[example.id] = answer
        said = ""
        if flags.version_2_with_negative:
            odds = sum(null_logits) - best.score if best else float("inf")
            # JSON has no infinity.
            predictions.null_odds[example.id] = min(odds, float(np.finfo(np.float32).max))
            if odds > flags.null_score_diff_threshold:
                answer = ""
            said = f", no answer above the best by {odds:.2f}"
        predictions.answers[example.id] = answer
        predictions.n_best[example.id] = n_best
        if flags.verbose_logging:
            print(f"{example.id} {example.question!r}: {answer!r}, of {len(spans)} spans{said}; best: {n_best[:3]}")
    return predictions


def _spans(
    features: SquadFeatures,
    token_ranges: Sequence[tuple[int, int]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    flags: SquadFlags,
) -> list[tuple[float, float, int, int]]:
    """All spans of some windows that can be the answer, the best first: start and end logit, first and last token."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for begin, end in token_ranges:
        # The highest first; of equal ones the first.
        starts, ends = (
            begin + np.argsort(-logits[begin:end], kind="stable")[: flags.n_best_size]
            for logits in (start_logits, end_logits)
        )
        starts = starts[features.is_max_context[starts] & (features.char_starts[starts] >= 0)]
        ends = ends[features.char_starts[ends] >= 0]
        n_tokens = ends[None, :] - starts[:, None] + 1
        rows, columns = np.nonzero((n_tokens >= 1) & (n_tokens <= flags.max_answer_length))
        found.append(np.stack([starts[rows], ends[columns]], axis=1))
    pairs = np.concatenate(found)
    # In fp64, as the scores of the candidates: fp32 sums round, and would put some in another order.
    starts, ends = start_logits[pairs[:, 0]].astype(np.float64), end_logits[pairs[:, 1]].astype(np.float64)
    # Equal scores stay in the order of the windows, of the starts and of the ends.
    order = np.argsort(-(starts + ends), kind="stable")
    return list(zip(starts[order].tolist(), ends[order].tolist(), *pairs[order].T.tolist(), strict=True))


def _n_best(
    example: SquadExample,
    features: SquadFeatures,
    spans: Sequence[tuple[float, float, int, int]],
    null_logits: tuple[float, float] | None,
    n: int,
) -> list[Candidate]:
    """The n best with different texts, the best first; no answer among them if its logits are given."""
    candidates: dict[str, Candidate] = {}
    null = Candidate("", 0.0, *null_logits, 0) if null_logits is not None else None
    for start_logit, end_logit, first, last in spans:
        if null is not None and null.score >= start_logit + end_logit:
            candidates.setdefault("", null)
        if len(candidates) >= n:
            break
        char_start = int(features.char_starts[first])
        text = example.context[char_start : features.char_ends[last]]
        candidates.setdefault(text, Candidate(text, 0.0, start_logit, end_logit, char_start))
    if null is not None:
        candidates.setdefault("", null)  # one more than n if it scores less than they do: it is always told
    scores = np.array([candidate.score for candidate in candidates.values()])
    weights = np.exp(scores - scores.max())
    probabilities = (weights / weights.sum()).tolist()
    return [candidate._replace(probability=p) for candidate, p in zip(candidates.values(), probabilities, strict=True)]


def write_predictions(folder: Path, predictions: Predictions, with_null_odds: bool) -> Path:
    """Write predictions.json, nbest_predictions.json and, for v2.0, null_odds.json; returns the first one's path.

    In ASCII, other characters escaped: the official scripts open files in the locale's encoding, whichever that is.
    """
    n_best = {key: [one._asdict() for one in candidates] for key, candidates in predictions.n_best.items()}
    files = {PREDICTIONS: predictions.answers, N_BEST: n_best}
    if with_null_odds:
        files[NULL_ODDS] = predictions.null_odds
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            json.dump(content, file, indent=1)
    return folder / PREDICTIONS
