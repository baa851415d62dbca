"""MLPerf's evaluation rows, bit for bit, which needs the reference's random numbers in the reference's order.

The reference is one process with one generator, from which documents, pairs, cuts and masks are drawn in turn, so every
draw shifts all that follow. That is why this is a loop over rows, and not the arrays of data/masked_lm/. Training rows
need the same distribution only, and are made there.

Source: mlcommons/training, retired_benchmarks/bert/cleanup_scripts: create_pretraining_data.py, pick_eval_samples.py.
"""

import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from data.masked_lm.instances import InstanceOptions, Instances, SpecialIds
from data.masked_lm.masking import AS_MASK, N_SPECIAL
from tokenization import BertTokenizer

N_ROWS = 10_000
SEED = 12345
DRAWS_OF_ANOTHER_DOCUMENT = 10
CHARACTERS_AT_A_TIME = 2**22

Document = Sequence[array]  # sentences, each with the ids of its tokens


class Row(NamedTuple):
    """One example; arrays, as a list of integers takes many times the memory and there are 30 rows for each kept."""

    input_ids: array  # [CLS] a [SEP] b [SEP], masked
    n_first: int  # tokens of segment a, [CLS] and [SEP] included
    positions: array  # ascending
    labels: array  # the ids that were there
    is_random: bool  # whether b is from elsewhere


def published_options() -> InstanceOptions:
    """What shapes MLPerf's examples, those for training too."""
    return InstanceOptions(512, 76, masked_lm_prob=0.15, short_seq_prob=0.1, dupe_factor=10)


def read_documents(text: Path, tokenizer: BertTokenizer) -> list[Document]:
    """A sentence a line, an empty line between documents; those without a token are left out.

    Raises:
        UserError: it cannot be read, or holds no document.
    """
    documents: list[list[array]] = [[]]
    try:
        with open(text, encoding="utf-8", errors="ignore", newline="\n") as file:
            while lines := [line.strip() for line in file.readlines(CHARACTERS_AT_A_TIME)]:
                ids, offsets = tokenizer.encode_batch(lines)
                for line, sentence in zip(lines, np.split(ids, offsets[1:-1]), strict=True):
                    if not line:
                        documents.append([])
                    if len(sentence):
                        documents[-1].append(array("i", sentence.tobytes()))
    except OSError as error:
        raise UserError(f"The text {text} cannot be read ({error.strerror})", "check the path") from error
    found = [document for document in documents if document]
    if not found:
        raise UserError(f"{text} holds no document", "give a text with a sentence a line")
    return found


def make_rows(
    documents: Iterable[Document], options: InstanceOptions, special: SpecialIds, seed: int = SEED
) -> list[Row]:
    """All examples of the documents, in the reference's order."""
    return _Reference(list(documents), options, special, random.Random(seed)).rows()


def pick_rows(rows: Sequence[Row], n_rows: int = N_ROWS) -> list[Row]:
    """`n_rows` at even distances, as the reference picks them; all, where there are fewer."""
    distance = max(
        1.0, len(rows) / n_rows
    )  # divided first, as the reference does: the rounding decides which row it is
    return [rows[int(i * distance)] for i in range(min(n_rows, len(rows)))]


def checksum(rows: Iterable[Row]) -> str:
    """The MD5 of the rows' ids as NVIDIA's hdf5_md5.py defines it: of a list of MD5s, all as Python prints lists."""
    of_rows = [hashlib.md5(str(row.input_ids.tolist()).encode()).hexdigest() for row in rows]
    return hashlib.md5(str(of_rows).encode()).hexdigest()


def as_instances(rows: Sequence[Row], options: InstanceOptions) -> Instances:
    """The rows padded, as a shard holds them."""
    seq_length, n_positions = options.max_seq_length, options.max_predictions_per_seq
    lengths = np.array([len(row.input_ids) for row in rows])
    n_masked = np.array([len(row.positions) for row in rows])
    columns = np.arange(seq_length)
    is_token, is_masked = columns < lengths[:, None], np.arange(n_positions) < n_masked[:, None]
    is_second = is_token & (columns >= np.array([row.n_first for row in rows])[:, None])

    def padded(is_there: np.ndarray, values: Iterator[array]) -> np.ndarray:
        result = np.zeros(is_there.shape, dtype=np.int32)
        result[is_there] = np.concatenate(list(map(np.asarray, values)))
        return result

    return Instances(
        input_ids=padded(is_token, (row.input_ids for row in rows)),
        input_mask=is_token.astype(np.int8),
        segment_ids=is_second.astype(np.int8),
        masked_lm_positions=padded(is_masked, (row.positions for row in rows)),
        masked_lm_ids=padded(is_masked, (row.labels for row in rows)),
        next_sentence_labels=np.array([row.is_random for row in rows], dtype=np.int8),
    )


class _Reference:
    """The reference's loops. No draw may be left out, added or moved."""

    def __init__(
        self, documents: list[Document], options: InstanceOptions, special: SpecialIds, draw: random.Random
    ) -> None:
        self.documents, self.options, self.special, self.draw = documents, options, special, draw
        self.longest = options.max_seq_length - N_SPECIAL
        self.typecode = "H" if special.vocab_size <= 2**16 else "i"

    def rows(self) -> list[Row]:
        self.draw.shuffle(self.documents)
        indices = range(len(self.documents))
        rows = [row for _ in range(self.options.dupe_factor) for i in indices for row in self._rows_of(i)]
        self.draw.shuffle(rows)
        return rows

    def _rows_of(self, index: int) -> Iterator[Row]:
        """The rows of one pass over a document."""
        document, target, begin = self.documents[index], self.longest, 0
        if self.draw.random() < self.options.short_seq_prob:
            target = self.draw.randint(2, self.longest)
        while begin < len(document):
            sentences = _up_to(document, begin, target)
            n_first = self.draw.randint(1, len(sentences) - 1) if len(sentences) > 1 else 1
            a = _joined(sentences[:n_first])
            is_random = len(sentences) == 1 or self.draw.random() < 0.5
            b = self._elsewhere(index, target - len(a)) if is_random else _joined(sentences[n_first:])
            self._truncate(a, b)
            yield self._masked(a, b, is_random)
            begin += n_first if is_random else len(sentences)  # what b replaced is used again

    def _elsewhere(self, index: int, target: int) -> array:
        """Sentences of another document; of the same one where ten draws gave no other."""
        for _ in range(DRAWS_OF_ANOTHER_DOCUMENT):
            other = self.draw.randint(0, len(self.documents) - 1)
            if other != index:
                break
        document = self.documents[other]
        return _joined(_up_to(document, self.draw.randint(0, len(document) - 1), target))

    def _truncate(self, a: array, b: array) -> None:
        """Takes tokens off the longer one, of b where both are as long, in front or behind."""
        while len(a) + len(b) > self.longest:
            longer = a if len(a) > len(b) else b
            longer.pop(0 if self.draw.random() < 0.5 else -1)

    def _masked(self, a: array, b: array, is_random: bool) -> Row:
        special = self.special
        ids = array(self.typecode, [special.cls, *a, special.sep, *b, special.sep])
        first_sep, last_sep = len(a) + 1, len(ids) - 1
        candidates = [*range(1, first_sep), *range(first_sep + 1, last_sep)]
        self.draw.shuffle(candidates)
        wanted = max(1, round(len(ids) * self.options.masked_lm_prob))
        chosen = candidates[: min(self.options.max_predictions_per_seq, wanted)]
        new = [self._replacement(ids[position]) for position in chosen]
        positions = array("H", sorted(chosen))
        labels = array(self.typecode, [ids[position] for position in positions])
        for position, token in zip(chosen, new, strict=True):
            ids[position] = token
        return Row(ids, first_sep + 1, positions, labels, is_random)

    def _replacement(self, token: int) -> int:
        if self.draw.random() < AS_MASK:
            return self.special.mask
        return token if self.draw.random() < 0.5 else self.draw.randint(0, self.special.vocab_size - 1)


def _up_to(document: Document, begin: int, target: int) -> Sequence[array]:
    """Sentences from `begin` on, at least one, until they hold `target` tokens or the document ends."""
    n_tokens, end = 0, begin
    while end < len(document) and (end == begin or n_tokens < target):
        n_tokens += len(document[end])
        end += 1
    return document[begin:end]


def _joined(sentences: Sequence[array]) -> array:
    joined = array("i")
    for sentence in sentences:
        joined.extend(sentence)
    return joined
