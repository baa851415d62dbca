"""Rows of NVIDIA's shards for MLPerf: each of its own length, and in packed ones a few samples one after the other."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import UserError
from data.loading.shard_files import PACKED, RAGGED, open_shard
from data.loading.token_rows import TokenRows, starts_of
from data.loading.varlen.heap import REMAKE_VARLEN, read_entries, read_heap


class Limits(NamedTuple):
    """What rows may hold."""

    max_seq_length: int  # S
    max_predictions_per_seq: int  # P
    vocab_size: int


def read_rows(path: Path, wanted: Mapping[str, int], limits: Limits) -> TokenRows:
    """All samples of a file, in their order there.

    Args:
        wanted: its datasets, VARLEN or PACKED.

    Raises:
        UserError: the file cannot be read, or a row is damaged or holds more than `limits`.
    """
    lengths, flat = _read_datasets(path, wanted, wanted)
    return _File(path, flat, lengths, is_packed=wanted is PACKED).token_rows(limits)


def read_lengths(path: Path, wanted: Mapping[str, int]) -> np.ndarray:
    """(samples,) int64: their tokens, which are not checked yet; raises UserError where the file cannot be read."""
    if wanted is not PACKED:
        return _read_datasets(path, wanted, ["input_ids"], with_rows=False)[0]["input_ids"]
    _, flat = _read_datasets(path, wanted, ["packed_input_len"])
    return flat["packed_input_len"].astype(np.int64)


def _read_datasets(
    path: Path, wanted: Mapping[str, int], names: Iterable[str], with_rows: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of some datasets the lengths of the rows, int64, where they differ, and all numbers one row after the other."""
    ragged = [name for name in names if wanted[name] == RAGGED]
    try:
        with open_shard(path, wanted) as datasets:
            check_same_rows(path, datasets)
            entries = ragged_entries(path, datasets, ragged)
            kinds = {name: h5py.check_vlen_dtype(datasets[name].dtype) for name in ragged}
            flat = {name: datasets[name][:] for name in names if name not in ragged}
        content = path.read_bytes() if with_rows else b""
    except UserError:
        raise
    except Exception as error:  # there is hardly one that no damaged file makes h5py raise
        raise UserError(f"{path} cannot be read ({error})", REMAKE_VARLEN) from error
    if with_rows:
        flat |= {name: read_heap(content, entries[name], kinds[name], name, path) for name in ragged}
    return {name: each["length"].astype(np.int64) for name, each in entries.items()}, flat


def check_same_rows(path: Path, datasets: Mapping[str, h5py.Dataset]) -> None:
    """Raises UserError where they have different numbers of rows."""
    if len({len(values) for values in datasets.values()}) > 1:
        raise UserError(f"{path} has datasets with different numbers of rows", REMAKE_VARLEN)


def ragged_entries(path: Path, datasets: Mapping[str, h5py.Dataset], names: Iterable[str]) -> dict[str, np.ndarray]:
    """`read_entries` of these datasets; raises UserError where rows would be longer than their file."""
    entries = {name: read_entries(datasets[name], path) for name in names}
    itemsizes = {name: h5py.check_vlen_dtype(datasets[name].dtype).itemsize for name in entries}
    n_bytes = sum(int(each["length"].sum(dtype=np.int64)) * itemsizes[name] for name, each in entries.items())
    if n_bytes > path.stat().st_size:
        raise UserError(f"{path} declares longer rows than a file of its size holds", REMAKE_VARLEN)
    return entries


class _File:
    """The numbers of a file on their way to samples; whatever is wrong raises UserError with the row.

    Attributes:
        rows: (samples,) the row that each is in.
        n_tokens, n_masked: (samples,) int64.
        shifts: (samples,) int64: the tokens before it in its row, from whose beginning positions count.
    """

    def __init__(
        self, path: Path, flat: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray], is_packed: bool
    ) -> None:
        self.path, self.flat, self.lengths = path, flat, lengths
        self._check_same_lengths("input_ids", "segment_ids")
        self._check_same_lengths("masked_lm_positions", "masked_lm_ids")
        of_row, masked_of_row = lengths["input_ids"], lengths["masked_lm_positions"]
        if not is_packed:
            self.rows = np.arange(len(of_row))
            self.n_tokens, self.n_masked, self.shifts = of_row, masked_of_row, np.zeros_like(of_row)
            return
        for other in ("packed_masked_lm_len", "next_sentence_labels"):
            self._check_same_lengths("packed_input_len", other)
        self.rows = np.repeat(np.arange(len(of_row)), lengths["packed_input_len"])
        self.n_tokens = flat["packed_input_len"].astype(np.int64)
        self.n_masked = flat["packed_masked_lm_len"].astype(np.int64)
        for name, of in (("packed_input_len", "input_ids"), ("packed_masked_lm_len", "masked_lm_positions")):
            sums, whole = np.bincount(self.rows, flat[name], len(of_row)).astype(np.int64), lengths[of]
            self._refuse(
                sums != whole,
                lambda row, name=name, of=of, sums=sums, whole=whole: (
                    f"has {whole[row]} {of}, and its {name} come to {sums[row]}"
                ),
            )
        self.shifts = starts_of(self.n_tokens) - starts_of(of_row)[self.rows]

    def token_rows(self, limits: Limits) -> TokenRows:
        """The samples."""
        self._check_counts(limits)
        self._check_values(limits)
        samples = np.repeat(np.arange(len(self.n_masked)), self.n_masked)
        positions = self.flat["masked_lm_positions"] - self.shifts[samples]
        is_outside = (positions < 1) | (positions >= self.n_tokens[samples])
        self._refuse(self.rows[samples[is_outside]], lambda _: "has masked_lm_positions outside of their sample")
        return TokenRows(
            (limits.max_seq_length, limits.max_predictions_per_seq),
            self.flat["input_ids"],
            self.n_tokens.astype(np.int32),
            self._first_lengths().astype(np.int32),
            positions.astype(np.int32),
            self.flat["masked_lm_ids"],
            self.n_masked.astype(np.int32),
            self.flat["next_sentence_labels"].astype(np.int8),
        )

    def _first_lengths(self) -> np.ndarray:
        """(samples,) int64: the tokens of the first segments."""
        is_second, starts = self.flat["segment_ids"] != 0, starts_of(self.n_tokens)
        begins_again = is_second[:-1] & ~is_second[1:]
        begins_again[starts[1:] - 1] = False  # with the next sample
        wrong = np.searchsorted(starts, np.flatnonzero(begins_again), "right") - 1
        self._refuse(self.rows[wrong], lambda _: "has segment_ids that are not zeros followed by ones")
        return self.n_tokens - (np.add.reduceat(is_second, starts, dtype=np.int64) if len(starts) else 0)

    def _check_counts(self, limits: Limits) -> None:
        for counts, most, what, flag in (
            (self.n_tokens, limits.max_seq_length, "tokens", "--max_seq_length"),
            (self.n_masked, limits.max_predictions_per_seq, "masked positions", "--max_predictions_per_seq"),
        ):
            self._refuse(
                self.rows[counts > most],
                lambda _, what=what, flag=flag, most=most: f"has a sample of more {what} than {flag} {most}",
                f"give {flag} {counts.max(initial=0)}, or another folder",
            )
        self._refuse(self.rows[self.n_tokens < 1], lambda _: "has a sample without a token")
        self._refuse(self.rows[self.n_masked < 0], lambda _: "has packed_masked_lm_len below 0")

    def _check_values(self, limits: Limits) -> None:
        n_ids = limits.vocab_size
        for name, limit in (("input_ids", n_ids), ("masked_lm_ids", n_ids), ("segment_ids", 2)):
            values = self.flat[name]
            wrong = np.flatnonzero((values < 0) | (values >= limit))
            self._refuse(
                np.searchsorted(np.cumsum(self.lengths[name]), wrong[:1], "right"),
                lambda _, name=name, limit=limit: f"has {name} that are not from 0 to {limit - 1}",
                REMAKE_VARLEN if limit == 2 else f"give the --config_file it was made with, or {REMAKE_VARLEN}",
            )
        labels = self.flat["next_sentence_labels"]
        self._refuse(self.rows[(labels < 0) | (labels > 1)], lambda _: "has next_sentence_labels that are not 0 or 1")

    def _check_same_lengths(self, one: str, other: str) -> None:
        of_one, of_other = self.lengths[one], self.lengths[other]
        self._refuse(of_one != of_other, lambda row: f"has {of_one[row]} {one} and {of_other[row]} {other}")

    def _refuse(self, wrong: np.ndarray, what: Callable[[int], str], remedy: str = REMAKE_VARLEN) -> None:
        """Raise for the first of the rows that are wrong, if there is one; they are a mask, or indices."""
        found = np.flatnonzero(wrong) if wrong.dtype == bool else wrong
        if len(found):
            raise UserError(f"Row {found[0]} of {self.path} {what(int(found[0]))}", remedy)
