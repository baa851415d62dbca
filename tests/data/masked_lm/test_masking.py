"""Which positions are chosen: whole words against the published loop, exactly where it can be and in distribution.

The loop is written here from the published description (google-research/bert, create_masked_lm_predictions with
do_whole_word_mask): over a row's words in random order, one row at a time.
"""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.masked_lm.masking import MASKING_RULES, Rows, choose_tokens, choose_words, recorded_rule, rule_in

SIGMAS = 4.5
SPECIAL, BEGIN, PIECE, PADDING = "s", "w", "p", " "


def published_words(row):
    """Lists of places."""
    words = []
    for place, kind in enumerate(row):
        if kind == PIECE and words:
            words[-1].append(place)
        elif kind in (BEGIN, PIECE):
            words.append([place])
    return words


def published_choice(row, n_wanted, rng):
    words = published_words(row)
    rng.shuffle(words)
    chosen = []
    for word in words:
        if len(chosen) >= n_wanted:
            break
        if len(chosen) + len(word) <= n_wanted:
            chosen += word
    return sorted(chosen)


def our_choices(rows, n_wanted, width, seed):
    kinds = np.array([list(row) for row in rows])
    is_candidate = (kinds == BEGIN) | (kinds == PIECE)
    # Padding has the id 0, and may be a continuation as far as the table of the vocabulary goes; specials may not.
    is_continuation = (kinds == PIECE) | (kinds == PADDING)
    rows_to_mask = Rows(is_continuation.astype(np.int32), is_candidate, np.array([False, True]))
    positions = choose_words(rows_to_mask, np.array(n_wanted), width, np.random.default_rng(seed))
    assert positions.shape == (len(rows), min(width, len(rows[0])))
    return [[place for place in row if place < len(rows[0])] for row in positions.tolist()]


segments = st.text(BEGIN + PIECE, min_size=1, max_size=9)
padded_rows = st.lists(st.tuples(segments, segments), min_size=1, max_size=6).map(
    lambda pairs: [f"{SPECIAL}{a}{SPECIAL}{b}{SPECIAL}".ljust(24) for a, b in pairs]
)


@settings(max_examples=300, deadline=None)
@given(padded_rows, st.data(), st.integers(0, 2**32))
def test_every_choice_is_one_that_the_loop_can_make(rows, data, seed):
    n_wanted = [data.draw(st.integers(1, len(row.strip()) - 3)) for row in rows]
    for row, wanted, chosen in zip(rows, n_wanted, our_choices(rows, n_wanted, 20, seed), strict=True):
        assert chosen == sorted(set(chosen))
        assert len(chosen) <= wanted
        for word in published_words(row):
            taken = set(word) & set(chosen)
            assert taken in (set(), set(word))
            # What was left out did not fit any more, not even at the end.
            assert taken or len(chosen) + len(word) > wanted


@pytest.mark.parametrize(
    ("row", "n_wanted"),
    [
        ("swwwwwswwwws   ", 3),
        ("swppwswpwwpps  ", 3),  # words of 3, 1, 2, 1 and 3 pieces
        ("swppwpswwpppps ", 2),  # words that never fit
        ("sppwsppws      ", 4),  # both segments begin inside a word
        ("swpppswppps    ", 2),  # nothing fits
        ("sppppsppps     ", 5),
    ],
)
def test_choices_are_as_frequent_as_the_loops(row, n_wanted):
    n = 6000
    ours = Counter(map(tuple, our_choices([row] * n, [n_wanted] * n, 6, seed=1)))
    rng = random.Random(2)
    published = Counter(tuple(published_choice(row, n_wanted, rng)) for _ in range(n))
    for chosen in ours.keys() | published.keys():
        share = (ours[chosen] + published[chosen]) / (2 * n)
        # Of the difference of two independent shares; choices that come now and then are compared by their bound.
        bound = SIGMAS * np.sqrt(2 * share * (1 - share) / n)
        assert abs(ours[chosen] - published[chosen]) / n <= bound, (chosen, ours[chosen], published[chosen])


def test_words_across_segments_as_published():
    """Pieces at the beginning of segment b go with the last word of a; those of a's beginning are one word."""
    row = "sppwsppws"
    assert published_words(row) == [[1, 2], [3, 5, 6], [7]]
    choices = set(map(tuple, our_choices([row] * 300, [3] * 300, 3, seed=0)))
    assert choices == {(1, 2, 7), (3, 5, 6)}


def test_rows_do_not_depend_on_their_neighbours_words():
    """A row of one word beside a row of many, and rows that differ in what they want."""
    rows = ["swwwwwwwwwswwwwwwws", "swswps             ", "swpswppppps        "]
    for seed in range(50):
        many, few, long = our_choices(rows, [12, 1, 2], 12, seed)
        assert len(many) == 12
        assert few == [1]
        assert long == [1, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=5), st.integers(1, 12), st.data())
@example([[True] * 8], 12, None)
def test_single_tokens(rows, width, data):
    is_candidate = np.array(rows)
    most = np.minimum(is_candidate.sum(axis=1), width)
    n_wanted = most if data is None else np.array([data.draw(st.integers(0, int(number))) for number in most])
    positions = choose_tokens(
        Rows(np.zeros((len(rows), 8), int), is_candidate), n_wanted, width, np.random.default_rng(0)
    )
    assert positions.shape == (len(rows), min(width, 8))
    for row, wanted, candidates in zip(positions, n_wanted, is_candidate, strict=True):
        assert (row[wanted:] == 8).all()
        assert (np.diff(row[:wanted]) > 0).all()
        assert candidates[row[:wanted]].all()


def test_a_manifest_records_every_rule():
    """The published two by a flag, as manifests did when there were no others."""
    assert recorded_rule("tokens") == {"whole_word_masking": False}
    assert recorded_rule("whole_words") == {"whole_word_masking": True}
    for name in MASKING_RULES:
        assert rule_in(recorded_rule(name)) == name
    assert rule_in({}) == "tokens"
