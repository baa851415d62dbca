"""Sentence pairs with masked words, out of tokenized documents: the published algorithm, over arrays.

A shard's tokens are one array, and every segment of every pair is a run of it. So choosing pairs, the only step that
goes one by one, handles five integers per pair and no token; truncating, assembling and masking are numpy over
thousands of pairs at a time. The results are the published algorithm's in distribution, not number by number.
Which positions are masked is chosen in masking.py.

Source: google-research/bert, create_pretraining_data.py; Devlin et al. 2018, appendix A.2 (80/10/10 masking).
"""

import random
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from common.tokenizer_files import CLS, MASK, SEP
from data.masked_lm.masking import (
    MASKING_RULES,
    N_SPECIAL,
    Rows,
    becomes_random,
    candidates,
    n_to_mask,
    recorded_rule,
    replace_chosen,
)

PIECES_PER_ROW = 4  # of what a long sentence is cut into: pieces much like sentences, so that both segments hold some
ROWS_PER_BLOCK = 4096  # pairs assembled at a time: a few MB per intermediate array
WIDE = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids")
# Name in the file -> number of dimensions: (rows,), (rows, sequence length) or (rows, predictions).
DATASETS = MappingProxyType({**dict.fromkeys(WIDE, 2), "next_sentence_labels": 1})


@dataclass(frozen=True)
class InstanceOptions:
    """What shapes the training instances; names as on the command line."""

    max_seq_length: int
    max_predictions_per_seq: int
    masked_lm_prob: float
    short_seq_prob: float
    dupe_factor: int
    masking: str = "tokens"  # a key of MASKING_RULES

    def parameters(self) -> dict[str, object]:
        """As a manifest records them."""
        return {name: value for name, value in vars(self).items() if name != "masking"} | recorded_rule(self.masking)


@dataclass(frozen=True)
class SpecialIds:
    """What instances need to know of the vocabulary."""

    cls: int
    sep: int
    mask: int
    vocab_size: int
    is_continuation: np.ndarray | None = field(default=None, compare=False)  # (vocab_size,) bool: continues a word (##)

    @classmethod
    def of(cls, vocabulary: Mapping[str, int]) -> "SpecialIds":
        """From each token's id, in the order of the ids, as `tokenization.load_vocab` gives them."""
        is_continuation = np.array([token.startswith("##") for token in vocabulary])
        return cls(vocabulary[CLS], vocabulary[SEP], vocabulary[MASK], len(vocabulary), is_continuation)


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents of at least one sentence, sentences of at least one token."""

    ids: np.ndarray  # (tokens,) int32, all sentences one after the other
    sentence_offsets: np.ndarray  # (sentences + 1,) int64: where in `ids` each one begins, and the last one ends
    document_offsets: np.ndarray  # (documents + 1,) int64: which sentence each one begins with; all of them last


@dataclass(frozen=True)
class Instances:
    """n rows of the HDF5 datasets of the same names; S tokens, P masked positions, zero-padded."""

    input_ids: np.ndarray  # (n, S) int32
    input_mask: np.ndarray  # (n, S) int8
    segment_ids: np.ndarray  # (n, S) int8
    masked_lm_positions: np.ndarray  # (n, P) int32
    masked_lm_ids: np.ndarray  # (n, P) int32
    next_sentence_labels: np.ndarray  # (n,) int8, 1: the second segment is random


def cut_long_sentences(documents: TokenizedDocuments, longest: int) -> TokenizedDocuments:
    """The same with every sentence of more than `longest` tokens cut, so that all of it comes into rows.

    Segments are whole sentences, and of one that no row can hold a row keeps what fits: all else would be lost.
    """
    offsets = documents.sentence_offsets
    lengths, piece = np.diff(offsets), -(-longest // PIECES_PER_ROW)
    n_pieces = np.where(lengths > longest, -(-lengths // piece), 1)
    before = np.concatenate([[0], np.cumsum(n_pieces)])
    starts = np.repeat(offsets[:-1] - piece * before[:-1], n_pieces) + piece * np.arange(before[-1])
    return TokenizedDocuments(documents.ids, np.append(starts, offsets[-1]), before[documents.document_offsets])


def choose_pairs(documents: TokenizedDocuments, options: InstanceOptions, seed: int) -> np.ndarray:
    """Segments of every pair of one pass over the documents.

    A document's sentences are gathered up to a target length, drawn once per document: the longest possible or, with
    `short_seq_prob`, a random one. The first of them are segment a. Segment b is the rest or, half of the time and
    always after a single sentence, a run of sentences of another document; the sentences it replaces are used again.

    Returns:
        (pairs, 5) int64: first and end token of a, first and end token of b, 1 if b is random. Not yet truncated.

    Raises:
        ValueError: there are fewer than two documents, so none to take a random segment from.
    """
    n_documents = len(documents.document_offsets) - 1
    if n_documents < 2:
        raise ValueError("a random next sentence needs a second document")
    # Plain lists and `random`: numpy would spend more on each of these single numbers than the rest of the loop.
    offsets, document_starts = documents.sentence_offsets.tolist(), documents.document_offsets.tolist()
    draw = random.Random(seed).random
    longest = options.max_seq_length - N_SPECIAL
    pairs = array("q")  # a list of tuples takes five times the memory
    for document in range(n_documents):
        sentence, last = document_starts[document], document_starts[document + 1]
        target = 2 + int(draw() * (longest - 1)) if draw() < options.short_seq_prob else longest
        while sentence < last:
            end = bisect_left(offsets, offsets[sentence] + target, sentence + 1, last)
            n_sentences = end - sentence
            a_end = sentence + 1 + (int(draw() * (n_sentences - 1)) if n_sentences > 1 else 0)
            a_start_token, a_end_token = offsets[sentence], offsets[a_end]
            if n_sentences > 1 and draw() >= 0.5:
                pairs.extend((a_start_token, a_end_token, a_end_token, offsets[end], 0))
                sentence = end
                continue
            other = int(draw() * (n_documents - 1))
            other += other >= document
            first, stop = document_starts[other], document_starts[other + 1]
            start = first + int(draw() * (stop - first))
            b_length = target - (a_end_token - a_start_token)
            b_end = bisect_left(offsets, offsets[start] + b_length, start + 1, stop)
            pairs.extend((a_start_token, a_end_token, offsets[start], offsets[b_end], 1))
            sentence = a_end
    return np.frombuffer(pairs, dtype=np.int64).reshape(-1, 5)


def truncate_pairs(pairs: np.ndarray, max_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Shorten pairs to `max_tokens` tokens of a and b together: (pairs, 5), as `choose_pairs` gives them.

    The published loop takes one token at a time from the longer segment, from b when both are equally long, and each
    time from the front or the back at random. How many each loses follows from the lengths; how many of these in front
    is binomial.
    """
    a_start, a_end, b_start, b_end, is_random = pairs.T
    a_length, b_length = a_end - a_start, b_end - b_start
    excess = np.maximum(0, a_length + b_length - max_tokens)
    to_level = np.minimum(excess, np.abs(a_length - b_length))
    alternating = excess - to_level
    from_a = np.where(a_length > b_length, to_level, 0) + alternating // 2
    from_b = excess - from_a
    front_a, front_b = rng.binomial(from_a, 0.5), rng.binomial(from_b, 0.5)
    columns = a_start + front_a, a_end - (from_a - front_a), b_start + front_b, b_end - (from_b - front_b), is_random
    return np.stack(columns, axis=1)


def make_instances(
    documents: TokenizedDocuments,
    options: InstanceOptions,
    special: SpecialIds,
    seed: np.random.SeedSequence,
    in_a_row: np.ndarray | None = None,
) -> tuple[int, Iterator[Instances]]:
    """All instances of a shard in random order: how many, and the blocks of them, made one at a time.

    Sets in `in_a_row`, (tokens,) bool, what of `documents.ids` is in any of the rows made.
    """
    documents = cut_long_sentences(documents, options.max_seq_length - N_SPECIAL)
    rng = np.random.default_rng(seed)
    seeds = (int(child.generate_state(2, np.uint64)[0]) for child in seed.spawn(options.dupe_factor))
    pairs = np.concatenate([choose_pairs(documents, options, of_pass) for of_pass in seeds])
    order = rng.permutation(len(pairs))
    blocks = (pairs[order[start : start + ROWS_PER_BLOCK]] for start in range(0, len(pairs), ROWS_PER_BLOCK))
    return len(pairs), (_make_block(documents.ids, block, options, special, rng, in_a_row) for block in blocks)


def _make_block(
    ids: np.ndarray,
    pairs: np.ndarray,
    options: InstanceOptions,
    special: SpecialIds,
    rng: np.random.Generator,
    in_a_row: np.ndarray | None,
) -> Instances:
    """[CLS] a [SEP] b [SEP] and zeros of each pair, masked."""
    pairs = truncate_pairs(pairs, options.max_seq_length - N_SPECIAL, rng)
    a_start, a_end, b_start, b_end, is_random = pairs.T
    if in_a_row is not None:
        for start, end in pairs[:, :4].reshape(-1, 2).tolist():
            in_a_row[start:end] = True
    first_sep = (a_end - a_start + 1).astype(np.int32)
    lengths = (first_sep + b_end - b_start + 2).astype(np.int32)
    columns = np.arange(options.max_seq_length, dtype=np.int32)
    is_token, in_b = columns < lengths[:, None], columns > first_sep[:, None]
    # Column c holds token a_start + c - 1 of the first segment, or b_start + c - first_sep - 1 of the second.
    sources = columns + np.where(in_b, (b_start - first_sep - 1)[:, None], (a_start - 1)[:, None])
    input_ids = ids.take(sources, mode="clip")
    input_ids[~is_token] = 0
    rows = np.arange(len(pairs))
    input_ids[:, 0] = special.cls
    input_ids[rows, first_sep] = special.sep
    input_ids[rows, lengths - 1] = special.sep
    positions, masked_ids = mask(input_ids, lengths, first_sep, options, special, rng)
    return Instances(
        input_ids=input_ids,
        input_mask=is_token.astype(np.int8),
        segment_ids=(is_token & in_b).astype(np.int8),
        masked_lm_positions=positions,
        masked_lm_ids=masked_ids,
        next_sentence_labels=is_random.astype(np.int8),
    )


def mask(
    input_ids: np.ndarray,
    lengths: np.ndarray,
    first_sep: np.ndarray,
    options: InstanceOptions,
    special: SpecialIds,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose positions to predict and change `input_ids` (n, S) there, in place.

    Of each row's length, special tokens counted, `masked_lm_prob` are chosen, at least one and at most
    `max_predictions_per_seq`, among all but the special tokens, by the rule `options.masking`. A chosen token becomes
    [MASK] with probability 0.8, any token of the vocabulary with 0.1, and stays with 0.1, each piece of a word for
    itself.

    Returns:
        positions (n, P) int32, ascending, and the ids that were there (n, P) int32; both zero where there is none.
    """
    n_positions = options.max_predictions_per_seq
    n_wanted = n_to_mask(lengths, options.masked_lm_prob, n_positions)
    maskable = Rows(input_ids, candidates(lengths, first_sep, input_ids.shape[1]), special.is_continuation)
    positions = MASKING_RULES[options.masking].choose(maskable, n_wanted, n_positions, rng)
    fate = rng.random(np.count_nonzero(positions < input_ids.shape[1]), dtype=np.float32)
    random_ids = rng.integers(special.vocab_size, size=int(becomes_random(fate).sum()))
    return replace_chosen(input_ids, positions, n_positions, fate, random_ids, special.mask)
