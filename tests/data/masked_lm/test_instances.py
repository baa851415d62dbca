"""Pairs and masks: exact invariants on every corpus."""

import math
import random

import numpy as np
import pytest
from corpora import SPECIAL, document_of_token, tokenized
from hypothesis import example, given, settings
from hypothesis import strategies as st
from published_instances import all_instances, published_truncation, unmasked

import data.masked_lm.instances
from data.masked_lm.instances import (
    InstanceOptions,
    Instances,
    choose_pairs,
    cut_long_sentences,
    make_instances,
    truncate_pairs,
)


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


@given(corpora, st.integers(5, 12))
def test_only_long_sentences_are_cut(sizes, longest):
    """Against a loop over lists."""
    documents = cut_long_sentences(tokenized(sizes), longest)
    piece = math.ceil(longest / 4)
    expected = []
    for sentences in sizes:
        expected.append([])
        for size in sentences:
            whole, rest = divmod(size, piece)
            expected[-1] += [size] if size <= longest else [piece] * whole + [rest] * (rest > 0)
    wanted = tokenized(expected)
    assert documents.sentence_offsets.tolist() == wanted.sentence_offsets.tolist()
    assert documents.document_offsets.tolist() == wanted.document_offsets.tolist()


@pytest.mark.parametrize("seq_length", [128, 512])
def test_what_no_row_can_hold_is_in_several(seq_length):
    """Of documents that are one sentence each, nearly all is in the rows of a single pass, and half of them go on."""
    documents = tokenized([[n] for n in (900, 6000, 2, 40_000, 500, 130, 513, 1000)])
    options = InstanceOptions(seq_length, 20, 0.15, 0.1, 1)
    in_a_row = np.zeros(len(documents.ids), dtype=bool)
    _, blocks = make_instances(documents, options, SPECIAL, np.random.SeedSequence(0), in_a_row)
    rows = Instances(*(np.concatenate(parts) for parts in zip(*(vars(b).values() for b in blocks), strict=True)))
    words = np.unique(unmasked(rows))
    np.testing.assert_array_equal(np.flatnonzero(in_a_row) + SPECIAL.vocab_size, words[words >= SPECIAL.vocab_size])
    assert in_a_row.mean() > 0.9
    assert 0.4 < rows.next_sentence_labels.mean() < 0.65


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


def test_blocks_change_no_invariant(monkeypatch):
    """More rows than a block holds, the last block not full."""
    monkeypatch.setattr(data.masked_lm.instances, "ROWS_PER_BLOCK", 7)
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
