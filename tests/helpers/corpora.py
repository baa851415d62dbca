"""Texts, vocabularies and tokenized documents for the tests of the data preparation."""

import random

import h5py
import numpy as np
from paths import ROOT

from data.masked_lm.instances import SpecialIds, TokenizedDocuments
from tokenization import SPECIAL_TOKENS

SAMPLE = ROOT / "data" / "sample"

# Below every token of `tokenized`, so that a random replacement is never the word that was there.
SPECIAL = SpecialIds(cls=2, sep=3, mask=4, vocab_size=1000)
WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("la", "ne", "ri", "so")]


def tokenized(sizes):
    """Documents given as lists of the lengths of their sentences; every token differs, so that each tells its place.

    Token i of the corpus has the id SPECIAL.vocab_size + i.
    """
    lengths = [length for sentences in sizes for length in sentences]
    return TokenizedDocuments(
        ids=np.arange(sum(lengths), dtype=np.int32) + SPECIAL.vocab_size,
        sentence_offsets=np.cumsum([0, *lengths]),
        document_offsets=np.cumsum([0, *map(len, sizes)]),
    )


def document_of_token(documents):
    """(tokens,) int64: the document that each token is in."""
    starts = documents.sentence_offsets[documents.document_offsets[1:]]
    return np.searchsorted(starts, np.arange(len(documents.ids)), side="right")


def write_vocab(path):
    """A vocabulary that knows WORDS and nothing else; returns the path."""
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS, "."]) + "\n", encoding="utf-8")
    return path


def random_sentences(n_sentences, rng):
    """Sentences of 1 to 20 words, each of which is one token."""
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))).capitalize() + " ." for _ in range(n_sentences)]


def write_text_shard(path, n_documents=12, seed=0):
    """A text shard of documents of 1 to 20 sentences; returns the path."""
    rng = random.Random(seed)
    documents = [random_sentences(rng.randint(1, 20), rng) for _ in range(n_documents)]
    path.write_text("".join("\n".join(document) + "\n\n" for document in documents), encoding="utf-8")
    return path


def tree(folder):
    """Every file under a folder, hidden ones too, except locks: its relative path and its bytes."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def read_as_nvidia(path):
    """What NVIDIA's pretraining_dataset makes of a file: arrays in the order of its keys, int64."""
    keys = (
        *("input_ids", "input_mask", "segment_ids"),
        *("masked_lm_positions", "masked_lm_ids", "next_sentence_labels"),
    )
    with h5py.File(path, "r") as file:
        return [np.asarray(file[key][:]).astype(np.int64) for key in keys]
