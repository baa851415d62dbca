"""Pairs and masks have the published algorithm's distributions."""

import random

import numpy as np
import pytest
from corpora import SPECIAL, document_of_token, tokenized
from published_instances import all_instances, published_instances, unmasked

from data.masked_lm.instances import InstanceOptions, choose_pairs, truncate_pairs

# Statistical bounds are in standard errors. Seeds are fixed, so a test passes always or never; at 4.5 a right
# implementation fails with a chance of 7e-6 per number compared. The corpora are so large that the bugs worth finding
# lie far outside: 0.7 for 0.8, no random words, 0.6 for 0.5, no short sequences, a target per pair, cutting in front.
SIGMAS = 4.5


def features_per_document(rows, documents, options):
    """name -> (documents,) sums over the rows whose segment a is of the document, over all passes."""
    ids = unmasked(rows)
    places = ids.astype(np.int64) - SPECIAL.vocab_size
    lengths = rows.input_mask.sum(axis=1, dtype=np.int64)
    first_sep = lengths - rows.segment_ids.sum(axis=1, dtype=np.int64) - 1
    row = np.arange(len(ids))
    a_first, a_last, b_first, b_last = (
        places[row, c] for c in (0 * row + 1, first_sep - 1, first_sep + 1, lengths - 2)
    )
    n_tokens = len(documents.ids)
    is_start, is_end = np.zeros(n_tokens), np.zeros(n_tokens)
    is_start[documents.sentence_offsets[:-1]] = 1
    is_end[documents.sentence_offsets[1:] - 1] = 1
    of_token = document_of_token(documents)
    is_random = rows.next_sentence_labels == 1
    real = rows.masked_lm_positions > 0
    now = np.take_along_axis(rows.input_ids, rows.masked_lm_positions, axis=1)
    features = {
        "rows": np.ones(len(ids)),
        "length": lengths,
        "length squared": lengths**2,
        "full": lengths == options.max_seq_length,
        "half full": lengths < options.max_seq_length // 2,
        "length of a": first_sep - 1,
        "a shorter than b": first_sep - 1 < lengths - first_sep - 2,
        "random next": is_random,
        "length where next is random": lengths * is_random,
        "a starts with a sentence": is_start[a_first],
        "a ends with a sentence": is_end[a_last],
        "b starts with a sentence": is_start[b_first],
        "b ends with a sentence": is_end[b_last],
        "random b starts with a document": is_random & (np.diff(of_token, prepend=-1)[b_first] > 0),
        "size of the document of a random b": is_random * np.bincount(of_token)[of_token[b_first]],
        "masked": real.sum(axis=1),
        "masked in a": (real & (rows.masked_lm_positions < first_sep[:, None])).sum(axis=1),
        "[MASK]": (real & (now == SPECIAL.mask)).sum(axis=1),
        "kept": (real & (now == rows.masked_lm_ids)).sum(axis=1),
        "replaced": (real & (now < SPECIAL.vocab_size) & (now != SPECIAL.mask)).sum(axis=1),
        "sum of replacements": (real & (now < SPECIAL.vocab_size) & (now != SPECIAL.mask)) * now,
    }
    features["sum of replacements"] = features["sum of replacements"].sum(axis=1)
    n_documents = len(documents.document_offsets) - 1
    return {name: np.bincount(of_token[a_first], values, n_documents) for name, values in features.items()}


@pytest.mark.parametrize("short_seq_prob", [0.1, 0.9])
def test_distributions_are_the_published_ones(short_seq_prob):
    """Paired by document: rows of one document in one pass share a target length, documents are independent."""
    rng = random.Random(0)
    documents = tokenized([[rng.randint(1, 40) for _ in range(rng.randint(1, 24))] for _ in range(600)])
    options = InstanceOptions(64, 10, 0.15, short_seq_prob, dupe_factor=4)
    ours = features_per_document(all_instances(documents, options), documents, options)
    published = features_per_document(published_instances(documents, options, seed=0), documents, options)
    assert ours["rows"].sum() > 5000
    errors = {}
    for name in ours:
        difference = ours[name] - published[name]
        assert difference.any(), name  # or the comparison would be of a thing with itself
        errors[name] = difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference)))
    assert {name: error for name, error in errors.items() if abs(error) > SIGMAS} == {}


def assert_share(count, total, share):
    assert abs(count / total - share) <= SIGMAS * np.sqrt(share * (1 - share) / total), (count, total, share)


def first_pairs(documents, options, seed=0):
    """The first pair of each document, in which segment a is followed by more sentences."""
    pairs = choose_pairs(documents, options, seed)
    document = document_of_token(documents)[pairs[:, 0]]
    return pairs[np.diff(document, prepend=-1) > 0]


def test_half_of_the_next_sentences_are_random():
    documents = tokenized([[1] * 12] * 4000)
    labels = first_pairs(documents, InstanceOptions(16, 2, 0.15, 0.0, 1))[:, 4]
    assert_share(labels.sum(), len(labels), 0.5)


def test_random_documents_and_starts_are_uniform():
    documents = tokenized([[1] * 8] * 5)
    options = InstanceOptions(8, 2, 0.15, 0.0, 1)
    b_starts = np.concatenate([p[p[:, 4] == 1, 2] for p in (choose_pairs(documents, options, s) for s in range(400))])
    of_first = np.concatenate(
        [p[(p[:, 4] == 1) & (p[:, 0] < 8), 2] for p in (choose_pairs(documents, options, s) for s in range(400))]
    )
    assert set(of_first) == set(range(8, 40))
    for token in range(40):
        assert_share((b_starts == token).sum(), len(b_starts), 1 / 40)


@pytest.mark.parametrize("short_seq_prob", [0.0, 0.1, 1.0])
def test_share_of_short_documents_and_their_targets(short_seq_prob):
    """With sentences of one token, an actual next pair is exactly as long as its document's target."""
    longest, n_documents = 20, 3000
    documents = tokenized([[1] * 100] * n_documents)
    options = InstanceOptions(longest + 3, 3, 0.15, short_seq_prob, 1)
    pairs = choose_pairs(documents, options, seed=1)
    is_whole = (pairs[:, 4] == 0) & (pairs[:, 3] % 100 != 0)  # the last of a document may be shorter
    of_document, first = np.unique(document_of_token(documents)[pairs[is_whole, 0]], return_index=True)
    targets = (pairs[is_whole, 3] - pairs[is_whole, 0])[first]
    assert len(of_document) > 0.97 * n_documents
    n_targets = longest - 1  # 2 to 20
    for target in range(2, longest):
        assert_share((targets == target).sum(), len(targets), short_seq_prob / n_targets)
    assert_share((targets < longest).sum(), len(targets), short_seq_prob * (1 - 1 / n_targets))


def test_masking_is_80_10_10_and_uniform_over_positions_and_words():
    documents = tokenized([[61] * 2, [61] * 2])
    options = InstanceOptions(64, 20, 0.15, 0.0, dupe_factor=2000)
    rows = all_instances(documents, options)
    n_rows = len(rows.input_ids)
    positions = rows.masked_lm_positions
    assert (np.count_nonzero(positions, axis=1) == 10).all()  # round(0.15 * 64 = 9.6)
    positions = positions[:, :10]
    now = np.take_along_axis(rows.input_ids, positions, axis=1)
    is_kept = now == rows.masked_lm_ids[:, :10]
    random_words = now[(now < SPECIAL.vocab_size) & (now != SPECIAL.mask)]
    n_masked = 10 * n_rows
    assert_share((now == SPECIAL.mask).sum(), n_masked, 0.8 + 0.1 / SPECIAL.vocab_size)
    assert_share(is_kept.sum(), n_masked, 0.1)
    assert_share(len(random_words), n_masked, 0.1 - 0.1 / SPECIAL.vocab_size)
    for low in range(0, 1000, 100):
        assert_share(((random_words >= low) & (random_words < low + 100)).sum(), len(random_words), 0.1)
    assert {0, SPECIAL.vocab_size - 1} <= set(random_words.tolist())

    # Each of the 61 words of a row is masked equally often, wherever the row's first [SEP] is.
    first_sep = 63 - rows.segment_ids.sum(axis=1)
    word = positions - 1 - (positions > first_sep[:, None])
    for place in range(61):
        assert_share((word == place).sum(), n_rows, 10 / 61)


@pytest.mark.parametrize(("a_length", "b_length", "max_tokens"), [(30, 10, 25), (10, 30, 25), (20, 20, 21)])
def test_truncation_takes_from_both_ends_alike(a_length, b_length, max_tokens):
    """What a segment loses in front is binomial with 1/2: its mean and its variance are."""
    n = 20_000
    pairs = np.tile([0, a_length, 100, 100 + b_length, 0], (n, 1))
    cut = truncate_pairs(pairs, max_tokens, np.random.default_rng(0))
    for start, end in ((0, 1), (2, 3)):
        lost = (pairs[0, end] - pairs[0, start]) - (cut[0, end] - cut[0, start])
        front = cut[:, start] - pairs[:, start]
        assert np.unique(cut[:, end] - cut[:, start]).size == 1
        assert abs(front.mean() - lost / 2) <= SIGMAS * np.sqrt(lost / 4 / n)
        # The variance of a sample variance is (fourth central moment - variance^2) / n, at most 2 variance^2 / n here.
        assert abs(front.var() - lost / 4) <= SIGMAS * (lost / 4) * np.sqrt(2 / n)


def test_rows_are_shuffled_over_documents_and_passes():
    documents = tokenized([[5]] * 100)
    rows = all_instances(documents, InstanceOptions(16, 2, 0.15, 0.0, 10))
    order = document_of_token(documents)[unmasked(rows)[:, 1] - SPECIAL.vocab_size]
    assert len(order) == 1000
    # 100 of 1000 rows drawn without order hold 65 different documents of 100, in order of passes all of them.
    assert 50 < len(set(order[:100])) < 80
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < SIGMAS / np.sqrt(1000)
