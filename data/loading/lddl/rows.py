"""Rows of an LDDL shard, which are text, to ids: [CLS] A [SEP] B [SEP], looked up in a vocabulary.

LDDL stores no ids, so another vocabulary than the shards' would train without an error. So every token must be in the
vocabulary, and what a row says twice, its length and its number of predictions, must agree.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from data.loading.lddl.files import (
    IS_RANDOM,
    LABELS,
    N_TOKENS,
    POSITIONS,
    REMAKE_LDDL,
    A,
    B,
    RowGroup,
    open_parquet,
)
from data.loading.lddl.vectors import VectorError, read_vectors
from data.loading.lddl.words import UNKNOWN, Words, bytes_of
from data.loading.token_rows import TokenRows, indices_of_ranges, starts_of
from data.masked_lm.masking import N_SPECIAL

if TYPE_CHECKING:
    import pyarrow

ROWS_PER_BLOCK = 4096  # some MB of text at once, however large a row group is
MASKED_SHARE = 0.15  # LDDL's default, and the recipe's


@dataclass(frozen=True)
class Reading:
    """With which vocabulary rows are read, what they may hold, and what becomes of their masks."""

    words: Words
    vocab_file: str
    max_seq_length: int  # S
    max_predictions_per_seq: int  # P
    has_masks: bool  # whether the shards have them
    keeps_masks: bool  # else the tokens that were there are put back

    @property
    def id_type(self) -> type:
        """The smallest type that holds all ids."""
        return np.uint16 if self.words.size <= 2**16 else np.int32

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of tokens."""
        return (A, B, LABELS) if self.has_masks else (A, B)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.texts, IS_RANDOM, N_TOKENS, *([POSITIONS] if self.has_masks else ())]


class RowError(UserError):
    """A row, by its number in the file, and what is wrong with it, as the end of a sentence."""

    def __init__(self, file: Path, row: int, what: str, remedy: str) -> None:
        super().__init__(f"Row {row} of {file} {what}", remedy)
        self.row, self.what = row, what


def read_rows(file: Path, group: RowGroup, reading: Reading, rows: np.ndarray | None = None) -> TokenRows:
    """Rows of a row group, in their order there: all, or those of these ascending indices.

    Raises:
        RowError: a row is damaged, of another vocabulary, or longer than asked for.
        UserError: the file cannot be read.
    """
    return TokenRows.concatenate([block for _, block in read_blocks(file, group, reading, rows)])


def read_blocks(
    file: Path, group: RowGroup, reading: Reading, rows: np.ndarray | None = None
) -> Iterator[tuple[int, TokenRows]]:
    """The same in blocks of at most ROWS_PER_BLOCK, each with the number in the file of its first row."""
    for numbers, batch in _batches(file, group, reading.columns, rows):
        yield int(numbers[0]), _Block(file, numbers, batch, reading).token_rows()


def read_lengths(file: Path, group: RowGroup) -> np.ndarray:
    """(n,) int64: what a row group says of its rows' tokens, 0 where it says nothing; raises UserError."""
    columns = [batch.column(0).fill_null(0) for _, batch in _batches(file, group, [N_TOKENS], None)]
    return np.concatenate([column.to_numpy(zero_copy_only=False).astype(np.int64) for column in columns])


def read_first_rows(file: Path, group: RowGroup, reading: Reading) -> TokenRows:
    """As many as are read at once, for a look at them before any work; raises UserError as `read_rows` does."""
    blocks = read_blocks(file, group, reading)
    return next(blocks)[1]


def _batches(
    file: Path, group: RowGroup, columns: list[str], rows: np.ndarray | None
) -> Iterator[tuple[np.ndarray, "pyarrow.RecordBatch"]]:
    """Rows with their numbers in the file."""
    first = 0
    with open_parquet(file) as opened:
        for batch in opened.iter_batches(ROWS_PER_BLOCK, [group.index], columns, use_threads=False):
            wanted = np.arange(first, first + len(batch))
            if rows is not None:
                wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(batch))]
            if len(wanted):
                yield group.first_row + wanted, batch if len(wanted) == len(batch) else batch.take(wanted - first)
            first += len(batch)
    if first != group.n_rows:
        raise UserError(f"{file} holds {first:,} rows in place of the {group.n_rows:,} that it declares", REMAKE_LDDL)


class _Block:
    """Some rows on their way from text to ids; whatever is wrong raises RowError."""

    def __init__(self, file: Path, numbers: np.ndarray, batch: "pyarrow.RecordBatch", reading: Reading) -> None:
        self.file, self.numbers, self.reading = file, numbers, reading
        self.columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, column in self.columns.items():
            if column.null_count:
                self._refuse(column.is_null().to_numpy(zero_copy_only=False), lambda _, name=name: f"has no {name}")

    def token_rows(self) -> TokenRows:
        """The rows; their ids are [CLS] A [SEP] B [SEP]."""
        reading = self.reading
        found = reading.words.look_up([self.columns[name] for name in reading.texts])
        for name, (ids, n_tokens) in zip(reading.texts, found, strict=True):
            self._check_known(name, ids, n_tokens)
        (a_ids, n_a), (b_ids, n_b), *masked = found
        for name, n_tokens in ((A, n_a), (B, n_b)):
            self._refuse(n_tokens == 0, lambda _, name=name: f"has no token in {name}")
        lengths, n_first = n_a + n_b + N_SPECIAL, n_a + 2
        self._check_lengths(lengths)
        starts = starts_of(lengths)
        ids = np.full(int(lengths.sum()), reading.words.sep, dtype=reading.id_type)
        ids[starts] = reading.words.cls
        ids[indices_of_ranges(starts + 1, n_a)] = a_ids
        ids[indices_of_ranges(starts + n_first, n_b)] = b_ids
        positions, labels, n_masked = np.zeros(0), np.zeros(0), np.zeros_like(lengths)
        if reading.has_masks:
            labels, n_masked = masked[0]
            positions = self._positions(n_masked, lengths, n_first)
        is_masked = reading.has_masks and reading.keeps_masks
        if reading.has_masks and not is_masked:
            ids[np.repeat(starts, n_masked) + positions] = labels
            positions, labels, n_masked = positions[:0], labels[:0], np.zeros_like(lengths)
        return TokenRows(
            (reading.max_seq_length, reading.max_predictions_per_seq if is_masked else 0),
            ids,
            lengths.astype(np.int32),
            n_first.astype(np.int32),
            positions.astype(np.int32),
            labels.astype(reading.id_type),
            n_masked.astype(np.int32),
            self.columns[IS_RANDOM].to_numpy(zero_copy_only=False).astype(np.int8),
        )

    def _check_known(self, name: str, ids: np.ndarray, lengths: np.ndarray) -> None:
        if not len(ids) or ids.min() != UNKNOWN:
            return
        place = int(ids.argmin())
        row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        text = self.columns[name].cast("large_binary")[row].as_py()
        token = text.split(b" ")[place - int(lengths[:row].sum())].decode(errors="backslashreplace")
        kind = " (a cased one: its tokens have capitals)" if token != token.lower() else ""
        self._refuse(
            np.array([row]),
            lambda _: f"holds the token {token!r} in {name}, which the vocabulary {self.reading.vocab_file} has not",
            f"give --vocab_file the vocabulary that the shards were made with{kind}, or {REMAKE_LDDL}",
        )

    def _check_lengths(self, lengths: np.ndarray) -> None:
        most, said = self.reading.max_seq_length, self.columns[N_TOKENS].to_numpy()
        self._refuse(
            lengths > most,
            lambda i: f"has {lengths[i]} tokens, more than --max_seq_length {most}",
            f"give --max_seq_length {lengths.max()}, or another folder",
        )
        self._refuse(lengths != said, lambda i: f"has {lengths[i]} tokens, and its {N_TOKENS} is {said[i]}")

    def _positions(self, n_labels: np.ndarray, lengths: np.ndarray, n_first: np.ndarray) -> np.ndarray:
        """The masked positions, within their rows."""
        try:
            positions, n_masked = read_vectors(*bytes_of(self.columns[POSITIONS].cast("large_binary")))
        except VectorError as error:
            self._refuse(np.array([error.index]), lambda _, what=error.what: f"has {POSITIONS} that are {what}")
            raise
        self._refuse(n_masked != n_labels, lambda i: f"has {n_masked[i]} {POSITIONS} and {n_labels[i]} {LABELS}")
        most = self.reading.max_predictions_per_seq
        self._refuse(
            n_masked > most,
            lambda i: f"has {n_masked[i]} masked positions, more than --max_predictions_per_seq {most}",
            f"give --max_predictions_per_seq {max(n_masked.max(), round(MASKED_SHARE * self.reading.max_seq_length))}: "
            "LDDL masks 15 % of each row without such a bound",
        )
        row = np.repeat(np.arange(len(lengths)), n_masked)
        is_special = (positions < 1) | (positions >= lengths[row] - 1) | (positions == n_first[row] - 1)
        self._refuse(row[is_special], lambda _: "masks a position outside of its segments' tokens")
        descends = (positions[1:] <= positions[:-1]) & (row[1:] == row[:-1])
        self._refuse(row[1:][descends], lambda _: f"has {POSITIONS} that do not ascend")
        return positions

    def _refuse(self, wrong: np.ndarray, what: Callable[[int], str], remedy: str = REMAKE_LDDL) -> None:
        """Raise for the first of the rows that are wrong, if there is one; they are a mask, or indices."""
        found = np.flatnonzero(wrong) if wrong.dtype == bool else wrong
        if len(found):
            raise RowError(self.file, int(self.numbers[found[0]]), what(int(found[0])), remedy)
