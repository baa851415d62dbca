"""Answers from scores: a naive search, and transformers' copy of the published algorithm."""

import collections
import json
from types import SimpleNamespace

import numpy as np
import pytest
from corpora import WORDS, write_vocab
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.data.metrics.squad_metrics import compute_predictions_logits

from common.errors import UserError
from tasks.squad.arguments import SquadFlags
from tasks.squad.examples import SquadExample
from tasks.squad.features import squad_features
from tasks.squad.predictions import predict_answers, write_predictions
from tokenization import BertTokenizer

MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH = 16, 4, 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return BertTokenizer(write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt"))


def made(contexts):
    return [SquadExample(str(i), WORDS[i], " ".join(words)) for i, words in enumerate(contexts)]


def windows_of(tokenizer, examples):
    return squad_features(examples, tokenizer, MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH, progress=False)


def random_logits(features, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=spread, size=(2, int(features.offsets[-1]))).astype(np.float32)


def options(n_best_size, max_answer_length, version_2_with_negative, null_score_diff_threshold):
    return SquadFlags(
        n_best_size=n_best_size,
        max_answer_length=max_answer_length,
        version_2_with_negative=version_2_with_negative,
        null_score_diff_threshold=null_score_diff_threshold,
    )


def naive_spans(features, window, logits, max_answer_length):
    """(score, first, last) of everything that can be an answer, with no limit on starts and ends."""
    found = []
    for first in range(features.offsets[window], features.offsets[window + 1]):
        for last in range(first, min(first + max_answer_length, features.offsets[window + 1])):
            if features.char_starts[first] >= 0 and features.char_starts[last] >= 0 and features.is_max_context[first]:
                found.append((logits[0, first] + logits[1, last], first, last))
    return found


CONTEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(CONTEXTS, st.integers(0, 2**16), st.integers(1, 6), st.sampled_from([-1.0, 0.0, 1.0]))
def test_the_best_of_all_spans(tokenizer, contexts, seed, max_answer_length, threshold):
    examples = made(contexts)
    features = windows_of(tokenizer, examples)
    logits = random_logits(features, seed)
    flags = options(MAX_SEQ_LENGTH, max_answer_length, True, threshold)  # so that no start is left out
    predictions = predict_answers(examples, features, *logits, flags)
    for index, example in enumerate(examples):
        windows = np.flatnonzero(features.example_index == index)
        spans = [span for window in windows for span in naive_spans(features, window, logits, max_answer_length)]
        score, first, last = max(spans, key=lambda span: span[0])
        best = example.context[features.char_starts[first] : features.char_ends[last]]
        null = min(logits[:, features.offsets[window]].sum() for window in windows)
        assert predictions.best_answers[example.id] == best
        assert predictions.null_odds[example.id] == pytest.approx(null - score, abs=1e-5)
        if abs(null - score - threshold) > 1e-4:
            assert predictions.answers[example.id] == ("" if null - score > threshold else best)
        n_best = predictions.n_best[example.id]
        assert sum(candidate.probability for candidate in n_best) == pytest.approx(1)
        assert [c.score for c in n_best if c.text] == sorted((c.score for c in n_best if c.text), reverse=True)
        assert len({c.text for c in n_best}) == len(n_best)
        assert sum(not c.text for c in n_best) == 1
        for candidate in n_best:
            assert example.context[candidate.answer_start :].startswith(candidate.text)


def published(examples, features, logits, flags, folder):
    """transformers' predictions and n best, for contexts of which each word is one token."""
    theirs = [SimpleNamespace(qas_id=e.id, doc_tokens=e.context.split()) for e in examples]
    windows, results = [], []
    for window in range(len(features)):
        tokens = slice(features.offsets[window], features.offsets[window + 1])
        starts = features.char_starts[tokens].tolist()
        context = examples[features.example_index[window]].context
        words = {place: context[:start].count(" ") for place, start in enumerate(starts) if start >= 0}
        windows.append(
            SimpleNamespace(
                unique_id=window,
                example_index=features.example_index[window],
                tokens=[context.split()[words[place]] if place in words else "[X]" for place in range(len(starts))],
                token_to_orig_map=words,
                token_is_max_context=collections.defaultdict(bool, enumerate(features.is_max_context[tokens].tolist())),
            )
        )
        start_logits, end_logits = logits[:, tokens].tolist()
        results.append(SimpleNamespace(unique_id=window, start_logits=start_logits, end_logits=end_logits))
    tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)
    files = [str(folder / name) for name in ("predictions", "n_best", "odds")]
    answers = compute_predictions_logits(
        theirs,
        windows,
        results,
        flags.n_best_size,
        flags.max_answer_length,
        True,
        *files,
        False,
        flags.version_2_with_negative,
        flags.null_score_diff_threshold,
        tokenizer,
    )
    odds = json.loads((folder / "odds").read_text()) if flags.version_2_with_negative else {}
    return dict(answers), json.loads((folder / "n_best").read_text()), odds


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_as_published(tokenizer, tmp_path, version_2, seed):
    rng = np.random.default_rng(seed)
    # Words that come once, so that the published way of finding a text again cannot go astray.
    contexts = [rng.permutation(WORDS)[: rng.integers(1, 40)].tolist() for _ in range(5)]
    examples = made(contexts)
    features = windows_of(tokenizer, examples)
    logits = random_logits(features, seed, spread=3.0)
    flags = options(int(rng.integers(1, 8)), int(rng.integers(1, 6)), version_2, 0.5)
    answers, n_best, odds = published(examples, features, logits, flags, tmp_path)
    predictions = predict_answers(examples, features, *logits, flags)
    for example in examples:
        # Where no pair of the best starts and ends can be an answer, the published n best says "empty".
        if not any(candidate.text for candidate in predictions.n_best[example.id]):
            assert answers[example.id] in ("", "empty")
            continue
        assert predictions.answers[example.id] == answers[example.id]
        assert predictions.null_odds.get(example.id) == pytest.approx(odds.get(example.id))
        ours = predictions.n_best[example.id]
        assert [c.text for c in ours] == [c["text"] for c in n_best[example.id] if c["text"] != "empty"]
        if len(ours) == len(n_best[example.id]):
            assert [c.probability for c in ours] == pytest.approx([c["probability"] for c in n_best[example.id]])


def test_ties_go_to_the_first(tokenizer):
    examples = made([WORDS[:6]])
    features = windows_of(tokenizer, examples)
    logits = np.zeros((2, int(features.offsets[-1])), dtype=np.float32)
    assert predict_answers(examples, features, *logits, SquadFlags()).answers == {"0": WORDS[0]}


@pytest.mark.parametrize("version_2", [False, True])
def test_a_context_without_a_token_has_no_answer(tokenizer, version_2):
    examples = [*made([WORDS[:6]]), SquadExample("blank", WORDS[0], " \u200b\n")]
    features = windows_of(tokenizer, examples)
    logits = random_logits(features, 0)
    predictions = predict_answers(examples, features, *logits, SquadFlags(version_2_with_negative=version_2))
    assert predictions.answers["blank"] == predictions.best_answers["blank"] == ""
    (none,) = predictions.n_best["blank"]
    assert (none.text, none.start_logit, none.end_logit, none.probability) == ("", 0, 0, 1)
    json.loads(json.dumps(predictions.null_odds, allow_nan=False))


@pytest.mark.parametrize("version_2", [False, True])
def test_best_tokens_that_make_no_pair_are_no_answer(tokenizer, version_2):
    examples = made([WORDS[:6]])
    features = windows_of(tokenizer, examples)
    tokens = np.flatnonzero(features.char_starts >= 0)
    logits = random_logits(features, 0)
    logits[0, tokens[3]] = logits[1, tokens[2]] = 50.0  # the end before the start
    flags = SquadFlags(n_best_size=1, version_2_with_negative=version_2)
    predictions = predict_answers(examples, features, *logits, flags)
    assert predictions.answers == {"0": ""}
    (none,) = predictions.n_best["0"]
    assert (none.text, none.probability) == ("", 1)
    assert (none.start_logit, none.end_logit) == tuple(logits[:, 0].tolist())  # those of [CLS]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(tokenizer, value):
    examples = made([WORDS[:6]])
    features = windows_of(tokenizer, examples)
    logits = random_logits(features, 0)
    logits[1, 3] = value
    with pytest.raises(UserError, match=r"scores of 1 of \d+ tokens are infinite or not numbers"):
        predict_answers(examples, features, *logits, SquadFlags())


def test_the_order_is_that_of_the_exact_sums(tokenizer):
    examples = made([WORDS[:4]])
    features = windows_of(tokenizer, examples)
    tokens = np.flatnonzero(features.char_starts >= 0)
    logits = np.full((2, int(features.offsets[-1])), -50, dtype=np.float32)
    # 1 + 2^-26 against 1 + 2^-25: both are 1 in fp32, where the higher start would win.
    logits[0, tokens[0]], logits[1, tokens[1]] = 1, 2.0**-26
    logits[0, tokens[2]], logits[1, tokens[3]] = 1 - 2.0**-24, 2.0**-24 + 2.0**-25
    (best, second, *_) = predict_answers(examples, features, *logits, SquadFlags(max_answer_length=2)).n_best["0"]
    assert (best.text, second.text) == (" ".join(WORDS[2:4]), " ".join(WORDS[:2]))


def test_files(tokenizer, tmp_path):
    examples = [SquadExample("1", WORDS[0], "Émile ba")]
    features = windows_of(tokenizer, examples)
    logits = random_logits(features, 0)
    predictions = predict_answers(examples, features, *logits, SquadFlags(version_2_with_negative=True))
    written = write_predictions(tmp_path / "out", predictions, True)
    assert json.loads(written.read_text(encoding="utf-8")) == predictions.answers
    n_best = json.loads((tmp_path / "out" / "nbest_predictions.json").read_text(encoding="utf-8"))
    assert [entry["text"] for entry in n_best["1"]] == [candidate.text for candidate in predictions.n_best["1"]]
    assert all(
        (tmp_path / "out" / name).read_bytes().isascii() for name in ("predictions.json", "nbest_predictions.json")
    )
    assert set(n_best["1"][0]) == {"text", "probability", "start_logit", "end_logit", "answer_start"}
    assert json.loads((tmp_path / "out" / "null_odds.json").read_text()) == predictions.null_odds
    write_predictions(tmp_path / "v1", predictions, False)
    assert not (tmp_path / "v1" / "null_odds.json").exists()


def test_how_an_answer_came_about_is_told(tokenizer, capsys):
    examples = made([WORDS[:6]])
    features = windows_of(tokenizer, examples)
    flags = SquadFlags(version_2_with_negative=True, verbose_logging=True)
    predictions = predict_answers(examples, features, *random_logits(features, 0), flags)
    sentence = capsys.readouterr().out
    assert sentence.startswith(f"0 {WORDS[0]!r}: {predictions.answers['0']!r}, of ")
    assert f"no answer above the best by {predictions.null_odds['0']:.2f}" in sentence
