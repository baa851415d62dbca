"""Texts, alone or in pairs, to sequences and to flat batches with a label each: what classification trains on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.loading.flat_batch import FlatBatch
from data.loading.in_memory import InMemoryStream
from data.loading.synthetic import spread_lengths
from tokenization import BertTokenizer


@dataclass(frozen=True)
class LabelledSequences:
    """N sequences with T tokens in all; see `InMemoryStream`."""

    input_ids: np.ndarray  # (T,) int32
    offsets: np.ndarray  # (N + 1,) int64
    first_lengths: np.ndarray  # (N,) int64: tokens of type 0, [CLS] and the first [SEP] included
    labels: np.ndarray  # (N,) int64 classes, or fp32 numbers


@dataclass(frozen=True)
class LabelledBatch(FlatBatch):
    """B sequences and what is said of them."""

    labels: torch.Tensor  # (B,) int64 classes, or fp32 numbers
    indices: torch.Tensor  # (B,) int64: which of all sequences these are


class LabelledDataset(InMemoryStream[LabelledBatch]):
    """Micro-batches of sequences for one rank; see `InMemoryStream`."""

    def __init__(
        self,
        sequences: LabelledSequences,
        micro_batch_size: int,
        max_seq_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        tokens = sequences.input_ids, sequences.offsets, sequences.first_lengths
        super().__init__(*tokens, micro_batch_size, max_seq_length, seed, rank, world_size)
        self.labels = sequences.labels

    def _with_labels(self, indices: np.ndarray, **encoder_fields: Any) -> LabelledBatch:
        labels = torch.from_numpy(self.labels[indices])
        return LabelledBatch(**encoder_fields, labels=labels, indices=torch.from_numpy(indices))


def tokenized(
    texts: Sequence[Sequence[str]], labels: np.ndarray, tokenizer: BertTokenizer, max_seq_length: int
) -> LabelledSequences:
    """[CLS] a [SEP], or [CLS] a [SEP] b [SEP]. What is too long is cut as in google-research/bert: a token at a time
    from the end of the longer text, of the second where both are as long.

    Args:
        texts: the first texts of all N sequences, and where they are pairs the second ones.
        labels: (N,).
    """
    cls, sep = (np.array([token], dtype=np.int32) for token in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    pieces, lengths, first_lengths = [], [], []
    for first, *others in zip(*(_encoded(column, tokenizer) for column in texts), strict=True):
        room = max_seq_length - 2 - len(others)
        seconds = [second[: max(room // 2, room - len(first))] for second in others]
        first = first[: room - sum(map(len, seconds))]
        sequence = [cls, first, sep, *(piece for second in seconds for piece in (second, sep))]
        pieces += sequence
        lengths.append(sum(map(len, sequence)))
        first_lengths.append(len(first) + 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return LabelledSequences(np.concatenate(pieces), offsets, np.array(first_lengths), labels)


def synthetic_sequences(
    n_sequences: int, max_seq_length: int, vocab_size: int, n_texts: int, n_classes: int, mean_length: float | None
) -> LabelledSequences:
    """Sequences of random ids, of one text or of two of about the same length, and labels.

    Args:
        n_classes: each has as many sequences; 1: labels are numbers from 0 to 5.
        mean_length: as in `spread_lengths`.
    """
    rng = np.random.default_rng(n_sequences)
    lengths = spread_lengths(rng, n_sequences, max_seq_length, mean_length)
    input_ids = rng.integers(vocab_size, size=int(lengths.sum()), dtype=np.int32)
    labels = np.arange(n_sequences) % n_classes
    if n_classes == 1:
        labels = np.linspace(0, 5, n_sequences, dtype=np.float32)
    return LabelledSequences(input_ids, np.concatenate([[0], np.cumsum(lengths)]), lengths // n_texts, labels)


def _encoded(texts: Sequence[str], tokenizer: BertTokenizer) -> list[np.ndarray]:
    """The ids of each text."""
    ids, offsets = tokenizer.encode_batch(texts)
    return np.split(ids, offsets[1:-1])
