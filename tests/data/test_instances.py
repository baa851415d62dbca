"""Pairs and masks: exact invariants on every corpus, and the published algorithm's distributions.

The reference is the published algorithm (google-research/bert, create_pretraining_data.py) written here from its
description, over Python lists, one token at a time.
"""

import random
from itertools import pairwise

import numpy as np
import pytest
from corpora import SPECIAL, document_of_token, tokenized
from hypothesis import example, given, settings
from hypothesis import strategies as st

import data.instances
from data.instances import InstanceOptions, Instances, choose_pairs, make_instances, truncate_pairs

# Statistical bounds are in standard errors. Seeds are fixed, so a test passes always or never; at 4.5 a right
# implementation fails with a chance of 7e-6 per number compared. The corpora are so large that the bugs worth finding
# lie far outside: 0.7 for 0.8, no random words, 0.6 for 0.5, no short sequences, a target per pair, cutting in front.
SIGMAS = 4.5


def all_instances(documents, options, seed=0):
    n_rows, blocks = make_instances(documents, options, SPECIAL, np.random.SeedSequence(seed))
    blocks = list(blocks)
    rows = Instances(*(np.concatenate(parts) for parts in zip(*(vars(b).values() for b in blocks), strict=True)))
    assert len(rows.input_ids) == n_rows
    return rows


def unmasked(rows):
    """(n, S): the ids before masking."""
    ids = rows.input_ids.copy()
    real = rows.masked_lm_positions > 0
    row = np.broadcast_to(np.arange(len(ids))[:, None], real.shape)[real]
    ids[row, rows.masked_lm_positions[real]] = rows.masked_lm_ids[real]
    return ids


# --- the reference ---


def published_truncation(a, b, max_tokens, rng):
    while len(a) + len(b) > max_tokens:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            del longer[-1]


def published_pairs(texts, index, options, rng):
    """Yields (a, b, is_random) of one document in one pass."""
    text = texts[index]
    max_tokens = options.max_seq_length - 3
    target = max_tokens
    if rng.random() < options.short_seq_prob:
        target = rng.randint(2, max_tokens)
    chunk = []
    place = 0
    while place < len(text):
        chunk.append(text[place])
        if place == len(text) - 1 or sum(map(len, chunk)) >= target:
            n_in_a = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a = [token for sentence in chunk[:n_in_a] for token in sentence]
            is_random = len(chunk) == 1 or rng.random() < 0.5
            if is_random:
                other = index
                while other == index:
                    other = rng.randint(0, len(texts) - 1)
                b = []
                for sentence in texts[other][rng.randint(0, len(texts[other]) - 1) :]:
                    b += sentence
                    if len(b) >= target - len(a):
                        break
                place -= len(chunk) - n_in_a
            else:
                b = [token for sentence in chunk[n_in_a:] for token in sentence]
            published_truncation(a, b, max_tokens, rng)
            yield a, b, is_random
            chunk = []
        place += 1


def published_masking(tokens, options, rng):
    """Masks a list of tokens in place; returns positions and the tokens that were there."""
    candidates = [i for i, token in enumerate(tokens) if token not in (SPECIAL.cls, SPECIAL.sep)]
    rng.shuffle(candidates)
    n = min(options.max_predictions_per_seq, max(1, round(len(tokens) * options.masked_lm_prob)))
    positions = sorted(candidates[:n])
    labels = [tokens[i] for i in positions]
    for i in positions:
        if rng.random() < 0.8:
            tokens[i] = SPECIAL.mask
        elif rng.random() < 0.5:
            tokens[i] = rng.randint(0, SPECIAL.vocab_size - 1)
    return positions, labels


def published_instances(documents, options, seed):
    rng = random.Random(seed)
    bounds = documents.sentence_offsets.tolist()
    sentences = [documents.ids[start:end].tolist() for start, end in pairwise(bounds)]
    texts = [sentences[start:end] for start, end in pairwise(documents.document_offsets.tolist())]
    rows = []
    for _ in range(options.dupe_factor):
        for index in range(len(texts)):
            for a, b, is_random in published_pairs(texts, index, options, rng):
                tokens = [SPECIAL.cls, *a, SPECIAL.sep, *b, SPECIAL.sep]
                segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
                rows.append((tokens, [1] * len(tokens), segments, *published_masking(tokens, options, rng), is_random))
    widths = (options.max_seq_length,) * 3 + (options.max_predictions_per_seq,) * 2
    padded = [
        np.array([[*row[column], *[0] * (width - len(row[column]))] for row in rows])
        for column, width in enumerate(widths)
    ]
    return Instances(*padded, np.array([row[5] for row in rows], dtype=np.int8))


# --- distributions ---


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


# --- exact ---


@given(st.integers(1, 60), st.integers(1, 60), st.integers(5, 60), st.integers(0, 2**32))
def test_truncated_lengths_are_those_of_the_published_loop(a_length, b_length, max_tokens, seed):
    a, b = list(range(a_length)), list(range(b_length))
    published_truncation(a, b, max_tokens, random.Random(seed))
    pair = np.array([[7, 7 + a_length, 200, 200 + b_length, 1]])
    ((a_start, a_end, b_start, b_end, label),) = truncate_pairs(pair, max_tokens, np.random.default_rng(seed)).tolist()
    assert (a_end - a_start, b_end - b_start, label) == (len(a), len(b), 1)
    assert 7 <= a_start < a_end <= 7 + a_length
    assert 200 <= b_start < b_end <= 200 + b_length


corpora = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=2, max_size=6)
seeds = st.integers(0, 2**32)
MANY = settings(max_examples=150, deadline=None)


@MANY
@given(corpora, st.integers(8, 40), st.sampled_from([0.0, 0.5, 1.0]), seeds)
@example([[5], [70]], 8, 0.0, 0)  # one sentence each, one longer than a sequence
@example([[1] * 8, [1]], 40, 1.0, 0)
def test_pairs_of_a_pass(sizes, seq_length, short_seq_prob, seed):
    documents = tokenized(sizes)
    offsets, of_token = documents.sentence_offsets.tolist(), document_of_token(documents)
    document_ends = {offsets[end] for end in documents.document_offsets[1:].tolist()}
    longest = seq_length - 3
    pairs = choose_pairs(documents, InstanceOptions(seq_length, 5, 0.15, short_seq_prob, 1), seed)
    used = []
    targets = dict.fromkeys(range(len(sizes)), (2, longest))
    for a_start, a_end, b_start, b_end, is_random in pairs.tolist():
        assert {a_start, a_end, b_start, b_end} <= set(offsets)
        document, other = of_token[a_start], of_token[b_start]
        assert of_token[a_end - 1] == document
        assert of_token[b_end - 1] == other
        used.append((a_start, a_end))
        sentences_of_a = offsets.index(a_end) - offsets.index(a_start)
        before_b_ends = offsets[offsets.index(b_end) - 1]
        low, high = targets[document]
        if is_random:
            assert other != document
            a_length = a_end - a_start
            if sentences_of_a > 1:  # a sentence of the same chunk followed, so the target was not reached
                low = max(low, a_length + 1)
            if before_b_ends > b_start:
                low = max(low, a_length + before_b_ends - b_start + 1)
            if b_end not in document_ends:
                high = min(high, a_length + b_end - b_start)
        else:
            assert b_start == a_end
            assert other == document
            used.append((b_start, b_end))
            low = max(low, before_b_ends - a_start + 1)
            if b_end not in document_ends:
                high = min(high, b_end - a_start)
        targets[document] = low, high
    # Every sentence is used once, in order, as segment a or as the actual next one.
    assert [start for start, _ in used] == [0, *(end for _, end in used[:-1])]
    assert used[-1][1] == len(documents.ids)
    # One target explains all pairs of a document; it is the longest where short ones are not asked for.
    assert all(low <= high for low, high in targets.values())
    if short_seq_prob == 0:
        assert all(high == longest for _, high in targets.values())


@MANY
@given(corpora, st.integers(8, 40), st.integers(1, 50), st.sampled_from([0.01, 0.15, 0.9]), st.integers(1, 3), seeds)
@example([[1], [1]], 8, 50, 0.9, 1, 0)  # more predictions than tokens
@example([[5], [200]], 8, 1, 0.15, 2, 0)
def test_rows(sizes, seq_length, n_predictions, masked_lm_prob, dupe_factor, seed):
    documents = tokenized(sizes)
    of_token = document_of_token(documents)
    options = InstanceOptions(seq_length, n_predictions, masked_lm_prob, 0.3, dupe_factor)
    rows = all_instances(documents, options, seed)
    before = unmasked(rows)
    for row in range(len(before)):
        length = int(rows.input_mask[row].sum())
        is_token = np.arange(seq_length) < length
        segments, label = rows.segment_ids[row], rows.next_sentence_labels[row]
        first_sep = length - int(segments.sum()) - 1
        np.testing.assert_array_equal(rows.input_mask[row], is_token)
        np.testing.assert_array_equal(segments, is_token & (np.arange(seq_length) > first_sep))
        np.testing.assert_array_equal(rows.input_ids[row, length:], 0)
        specials = [0, first_sep, length - 1]
        assert rows.input_ids[row, specials].tolist() == [SPECIAL.cls, SPECIAL.sep, SPECIAL.sep]

        n_masked = min(n_predictions, max(1, round(length * masked_lm_prob)), length - 3)
        positions = rows.masked_lm_positions[row]
        assert (np.diff(positions[:n_masked], prepend=0) > 0).all()
        assert positions[n_masked - 1] < length - 1
        assert first_sep not in positions[:n_masked]
        assert not positions[n_masked:].any()
        assert not rows.masked_lm_ids[row, n_masked:].any()
        unchosen = np.delete(np.arange(seq_length), positions[:n_masked])
        np.testing.assert_array_equal(rows.input_ids[row, unchosen], before[row, unchosen])

        a, b = (
            before[row, s].astype(int) - SPECIAL.vocab_size
            for s in (slice(1, first_sep), slice(first_sep + 1, length - 1))
        )
        for segment in (a, b):
            assert len(segment) >= 1
            assert (np.diff(segment) == 1).all()
            assert of_token[segment[0]] == of_token[segment[-1]]
        assert (of_token[a[0]] != of_token[b[0]]) == (label == 1)
        if label == 0:
            assert a[-1] < b[0]
            if length < seq_length:  # nothing was truncated between them
                assert b[0] == a[-1] + 1


def test_types_and_shapes():
    rows = all_instances(tokenized([[3, 4], [5]]), InstanceOptions(16, 4, 0.15, 0.1, 2))
    n_rows = len(rows.input_ids)
    assert {name: (values.dtype.name, values.shape) for name, values in vars(rows).items()} == {
        "input_ids": ("int32", (n_rows, 16)),
        "input_mask": ("int8", (n_rows, 16)),
        "segment_ids": ("int8", (n_rows, 16)),
        "masked_lm_positions": ("int32", (n_rows, 4)),
        "masked_lm_ids": ("int32", (n_rows, 4)),
        "next_sentence_labels": ("int8", (n_rows,)),
    }


def test_no_two_duplicates_are_masked_alike():
    """Documents of two sentences give the same actual-next pair in every pass; of C(57, 9) masks none comes twice."""
    documents = tokenized([[20, 37]] * 40)
    rows = all_instances(documents, InstanceOptions(64, 10, 0.15, 0.0, 5))
    actual = rows.next_sentence_labels == 0
    texts = [row.tobytes() for row in unmasked(rows)[actual]]
    masks = [row.tobytes() for row in rows.masked_lm_positions[actual]]
    assert len(texts) - len(set(texts)) > 30
    assert len(set(zip(texts, masks, strict=True))) == len(texts)


def test_passes_differ_in_their_pairs():
    rows = all_instances(tokenized([[3] * 10] * 20), InstanceOptions(16, 2, 0.15, 0.0, 5))
    texts = {row.tobytes() for row in unmasked(rows)}
    # Five equal passes would leave a fifth; an actual next pair comes again by chance at times.
    assert len(texts) > 0.6 * len(rows.input_ids)


def test_rows_are_shuffled_over_documents_and_passes():
    documents = tokenized([[5]] * 100)
    rows = all_instances(documents, InstanceOptions(16, 2, 0.15, 0.0, 10))
    order = document_of_token(documents)[unmasked(rows)[:, 1] - SPECIAL.vocab_size]
    assert len(order) == 1000
    # 100 of 1000 rows drawn without order hold 65 different documents of 100, in order of passes all of them.
    assert 50 < len(set(order[:100])) < 80
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < SIGMAS / np.sqrt(1000)


def test_blocks_change_no_invariant(monkeypatch):
    """More rows than a block holds, the last block not full."""
    monkeypatch.setattr(data.instances, "ROWS_PER_BLOCK", 7)
    documents = tokenized([[5, 6]] * 10)
    n_rows, blocks = make_instances(documents, InstanceOptions(16, 2, 0.15, 0.0, 2), SPECIAL, np.random.SeedSequence(0))
    sizes = [len(block.input_ids) for block in blocks]
    assert sum(sizes) == n_rows
    assert set(sizes[:-1]) == {7}
    assert 0 < sizes[-1] <= 7


def test_follows_the_seed():
    documents = tokenized([[5, 6, 7]] * 10)
    options = InstanceOptions(16, 2, 0.15, 0.1, 2)
    first, again, other = (all_instances(documents, options, seed) for seed in (0, 0, 1))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(again, name))
    assert not np.array_equal(first.input_ids[:5], other.input_ids[:5])


def test_one_document_has_no_random_next():
    with pytest.raises(ValueError, match="second document"):
        choose_pairs(tokenized([[5, 6]]), InstanceOptions(16, 2, 0.15, 0.1, 1), 0)
