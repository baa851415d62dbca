"""Masking as rows are read: against a plain loop over Python integers, row by row, and by statistics."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.loading.flat_batch import PaddedSamples, flatten
from data.loading.masking import DynamicMasking, RowDraws, output, unmasked
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import MASKING_RULES

SIGMAS = 4.5
CLS, SEP, MASK, FIRST_WORD, VOCAB_SIZE = 2, 3, 4, 5, 60
CONTINUES = np.arange(VOCAB_SIZE) % 3 == 0  # padding and a special token too, which are no words
SPECIAL = SpecialIds(CLS, SEP, MASK, VOCAB_SIZE, CONTINUES)
FIELDS = ("input_ids", "masked_lm_positions", "masked_lm_ids", "n_masked")
BITS = 2**64 - 1


def make_masking(rule="tokens", probability=0.15, most=20, seed=7):
    return DynamicMasking(rule, probability, most, SPECIAL, seed)


def make_rows(pairs, width):
    """Rows of [CLS] a [SEP] b [SEP]; without a second segment where b is None."""
    n = len(pairs)
    ids, segments = np.zeros((n, width), np.int32), np.zeros((n, width), np.int8)
    lengths = np.zeros(n, np.int32)
    for i, (a, b) in enumerate(pairs):
        row = [CLS, *a, SEP] + ([*b, SEP] if b is not None else [])
        ids[i, : len(row)], lengths[i] = row, len(row)
        segments[i, len(a) + 2 : len(row)] = 1
    nothing = np.zeros((n, 0), np.int32)
    return PaddedSamples(ids, segments, lengths, nothing, nothing, np.zeros(n, np.int32), np.arange(n, dtype=np.int8))


def in_stream(rows, first=0):
    """One after the other in the stream."""
    return first + np.arange(len(rows.lengths))


def random_rows(n, width=128, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(FIRST_WORD, VOCAB_SIZE, (n, width))
    cuts = rng.integers(1, width - 4, n)
    return make_rows([(row[:cut], row[cut : width - 3]) for row, cut in zip(words, cuts, strict=True)], width)


# The same numbers, and the published description over one row at a time


def mixed(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & BITS
    return z ^ (z >> 31)


def numbers(seed, position, draw):
    golden = 0x9E3779B97F4A7C15
    state = mixed(mixed(mixed(seed & BITS) + position * golden & BITS) ^ draw)
    return (mixed(state + step * golden & BITS) for step in itertools.count(1))


def chosen_tokens(row, n_wanted, keys):
    return sorted(sorted(row, key=dict(zip(range(1000), keys, strict=False)).get)[:n_wanted])


def chosen_words(row, ids, n_wanted, keys, width):
    words = []
    for place in row:
        if CONTINUES[ids[place]] and words:
            words[-1].append(place)
        else:
            words.append([place])
    bits = width.bit_length()
    keyed = sorted((key >> bits, number) for number, key in zip(range(len(words)), keys, strict=False))
    chosen = []
    for _, number in keyed:
        if len(chosen) + len(words[number]) <= n_wanted:
            chosen += words[number]
    return sorted(chosen)


def mask_naively(pair, width, masking, position):
    """Ids, and (place, original) pairs."""
    a, b = pair
    ids = [CLS, *a, SEP] + ([*b, SEP] if b is not None else [])
    row = [place for place in range(1, len(ids) - 1) if place != len(a) + 1]
    wanted = min(max(1, round(len(ids) * masking.masked_lm_prob)), masking.max_predictions_per_seq, len(ids) - 3)
    draws = [numbers(masking.seed, position, draw) for draw in (1, 2, 3)]
    if masking.rule == "tokens":
        chosen = chosen_tokens(row, wanted, [number >> 11 for number in itertools.islice(draws[0], width)])
    else:
        chosen = chosen_words(row, ids, wanted, itertools.islice(draws[0], width), width)
    masked = [(place, ids[place]) for place in chosen]
    for place, fate, word in zip(chosen, draws[1], draws[2], strict=False):
        if fate / 2**64 < 0.8:
            ids[place] = MASK
        elif fate / 2**64 >= 0.9:
            ids[place] = (word >> 32) * VOCAB_SIZE >> 32
    return ids, masked


def unpacked(samples):
    return [
        (ids[:length].tolist(), list(zip(places[:n].tolist(), originals[:n].tolist(), strict=True)))
        for ids, length, places, originals, n in zip(
            samples.input_ids,
            samples.lengths,
            samples.masked_lm_positions,
            samples.masked_lm_ids,
            samples.n_masked,
            strict=True,
        )
    ]


words = st.lists(st.integers(FIRST_WORD, VOCAB_SIZE - 1), min_size=1, max_size=12)
some_pairs = st.lists(st.tuples(words, st.none() | words), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(
    some_pairs,
    st.sampled_from(sorted(MASKING_RULES)),
    st.floats(0.01, 0.99),
    st.integers(1, 30),
    st.integers(0, 2**70),
    st.integers(0, 2**45),
    st.integers(27, 40),
)
def test_equals_a_plain_loop(pairs, rule, probability, most, seed, first, width):
    masking = make_masking(rule, probability, most, seed)
    rows = make_rows(pairs, width)
    before = rows.input_ids.copy()
    masked = masking.mask(rows, in_stream(rows, first))
    expected = [mask_naively(pair, width, masking, first + i) for i, pair in enumerate(pairs)]
    assert unpacked(masked) == expected
    assert (rows.input_ids == before).all()
    assert masked.masked_lm_positions.shape == masked.masked_lm_ids.shape == (len(pairs), most)
    for name in ("segment_ids", "lengths", "next_sentence_labels"):
        assert getattr(masked, name) is getattr(rows, name)
    restored = unmasked(masked)
    assert (restored.input_ids == before).all()
    assert unpacked(masking.mask(masked, in_stream(masked, first))) == expected  # whatever masks were there before
    assert restored.masked_lm_ids.shape == (len(pairs), 0)


@pytest.mark.parametrize("rule", MASKING_RULES)
def test_a_row_is_masked_alike_in_any_batch(rule):
    """Among others that are longer and of more words, at any place, and padded to another width."""
    masking, rows = make_masking(rule), random_rows(50)
    whole = masking.mask(rows, in_stream(rows, 1000))
    for i in (0, 17, 49):
        alone = masking.mask(rows[np.array([i])], np.array([1000 + i]))
        for name in FIELDS:
            assert (getattr(alone, name)[0] == getattr(whole, name)[i]).all()
    shorter = make_rows([([10, 11, 13], [14])], 9)
    beside = make_rows([([10, 11, 13], [14]), (range(20, 50), range(20, 50))], 90)
    assert (
        unpacked(masking.mask(shorter, in_stream(shorter, 5)))
        == unpacked(masking.mask(beside, in_stream(beside, 5)))[:1]
    )


def test_rows_that_hold_hardly_a_token():
    """Of special tokens alone nothing is predicted; others' shards may hold rows without [SEP] too."""
    rows = make_rows([([], None), ([], []), ([9], None), ([9], [10])], 8)
    rows.lengths[0] = 1
    for rule in MASKING_RULES:
        masked = make_masking(rule).mask(rows, in_stream(rows))
        assert masked.n_masked[:3].tolist() == [0, 0, 0]
        assert (masked.input_ids[:3] == rows.input_ids[:3]).all()
    assert make_masking().mask(rows, in_stream(rows)).n_masked[3] == 1
    flatten(make_masking().mask(rows, in_stream(rows)))


# Random numbers


def test_numbers_are_those_of_the_published_generator():
    """SplitMix64 from the state 0, as its authors' and others' implementations give them."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    found = output(np.arange(1, 4, dtype=np.uint64) * golden)
    assert found.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_a_row_draws_the_same_whatever_the_others_draw():
    one, several = RowDraws(3, np.array([11])), RowDraws(3, np.arange(10, 14))
    one.random((1, 5))
    several.random((4, 500))
    assert one.integers(2**64, size=(1, 8), dtype=np.uint64)[0].tolist() == (
        several.integers(2**64, size=(4, 90), dtype=np.uint64)[1, :8].tolist()
    )


def test_neither_rows_nor_draws_nor_seeds_are_alike():
    n, width = 2000, 64
    draws = [RowDraws(seed, first + np.arange(n)) for seed, first in ((1, 0), (2, 0), (1, n))]
    values = [each.random((n, width)) for each in draws for _ in range(2)]
    for one, other in itertools.combinations([values[0][1:], *(value[:-1] for value in values)], 2):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < SIGMAS / math.sqrt(one.size)
    counts, _ = np.histogram(values[0], bins=50, range=(0, 1))
    expected = n * width / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + SIGMAS * math.sqrt(2 * 49)


# Statistics


@pytest.fixture(scope="module")
def epochs():
    """The same rows, masked in five epochs, and as they were."""
    rows = random_rows(3000)
    return rows, [make_masking("tokens").mask(rows, in_stream(rows, epoch * 3000)) for epoch in range(5)]


def within(n_found, n, share):
    return abs(n_found - n * share) <= SIGMAS * math.sqrt(n * share * (1 - share))


def test_eighty_ten_ten(epochs):
    rows, (masked, *_) = epochs
    places = masked.masked_lm_positions[:, :19]  # round(0.15 * 128)
    assert (masked.n_masked == 19).all()
    now, before = (np.take_along_axis(each.input_ids, places, 1) for each in (masked, rows))
    n, as_mask, same = now.size, int((now == MASK).sum()), int((now == before).sum())
    by_chance = 0.1 / VOCAB_SIZE  # a random word is [MASK], or the word that was there
    assert within(as_mask, n, 0.8 + by_chance)
    assert within(same, n, 0.1 + by_chance)
    counts = np.bincount(now[(now != MASK) & (now != before)], minlength=VOCAB_SIZE)
    assert within(counts.sum(), n, 0.1 - 2 * by_chance)
    assert counts[[0, CLS, SEP]].min() > 0  # any token of the vocabulary, as published
    words = counts[FIRST_WORD:]
    assert ((words - words.mean()) ** 2 / words.mean()).sum() < len(words) + SIGMAS * math.sqrt(2 * len(words))


def test_every_token_is_masked_equally_often_and_anew_in_each_epoch(epochs):
    rows, of_epochs = epochs
    is_masked = [np.zeros(rows.input_ids.shape, bool) for _ in of_epochs]
    for places, masked in zip(is_masked, of_epochs, strict=True):
        np.put_along_axis(places, masked.masked_lm_positions[:, :19], True, 1)
    candidates = (rows.input_ids >= FIRST_WORD).sum(axis=0)
    found = np.mean(is_masked, axis=0).sum(axis=0)
    for column in range(1, 127):
        assert within(5 * found[column], 5 * candidates[column], 19 / 125), column
    assert not found[[0, 127]].any()
    # Two epochs share as many masked tokens as chance has it: 19 * 19 / 125 of each row.
    shared = [int((one & other).sum()) for one, other in itertools.combinations(is_masked, 2)]
    variance = 3000 * 19 * (19 / 125) * (106 / 125) * (106 / 124)  # hypergeometric
    assert all(abs(number - 3000 * 19 * 19 / 125) < SIGMAS * math.sqrt(variance) for number in shared)


def test_words_are_masked_as_a_whole():
    rows = random_rows(500)
    masked = make_masking("whole_words").mask(rows, in_stream(rows))
    n_cut = 0
    for (ids, _), (_, pairs) in zip(unpacked(rows), unpacked(masked), strict=True):
        places = {place for place, _ in pairs}
        for place in places:
            after = place + 1
            if after not in places and ids[after] >= FIRST_WORD:
                n_cut += CONTINUES[ids[after]]
    assert n_cut == 0
    assert 17 < masked.n_masked.mean() <= 19
