"""The published algorithm (google-research/bert, create_pretraining_data.py), written from its description.

Over Python lists, one token at a time; with it, what tests need to compare rows.
"""

import random
from itertools import pairwise

import numpy as np
from corpora import SPECIAL

from data.masked_lm.instances import Instances, make_instances


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
