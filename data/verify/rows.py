"""What must hold in every HDF5 shard of pre-training data, checked from the rows alone, and what is counted on the way.

A row has to read [CLS] a [SEP] b [SEP] and zeros, with the masked words of a put back where they were. Checks go from
the plain to the involved, and a row counts only under the first one it fails: after a wrong length, what else seems
wrong with a row says nothing. Rows are read and checked in blocks, so that a shard of any size takes the same memory,
but for eight bytes per row: a hash of the whole row, by which rows are compared within a shard and between shards.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from data.masked_lm.instances import DATASETS, SpecialIds
from data.masked_lm.masking import N_SPECIAL, MaskingRule, n_to_mask

TOKENS_PER_BLOCK = 2**20  # a few MB per array: much larger ones are slower, and smaller ones reread NVIDIA's chunks
# Bytes per dataset: NVIDIA's chunks are narrower than a row; side by side they fit, and none is decompressed twice.
CHUNK_CACHE = 2**26
LARGEST_ID = 2**31 - 1
OUR_TYPES = ("int32", "int8", "int8", "int32", "int32", "int8")  # of DATASETS, in their order


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the rows of a folder are held against."""

    special: SpecialIds
    """vocab_size is LARGEST_ID + 1 where the vocabulary is unknown."""
    seq_length: int
    n_positions: int
    masked_lm_prob: float
    masking: MaskingRule
    our_types: bool = False
    """Exactly the types that this project writes; else any integers."""


@dataclasses.dataclass(frozen=True)
class Offence:
    """How a file fails a check: in how many rows (0: as a whole), in which one first, and how."""

    n_rows: int
    row: int | None
    what: str


@dataclasses.dataclass
class ShardFindings:
    """What was found in one shard."""

    offences: dict[str, Offence] = dataclasses.field(default_factory=dict)
    """By the name of the check."""
    n_rows: int = 0
    n_random_next: int = 0
    n_masked: int = 0
    n_as_mask: int = 0  # of the masked: now [MASK]
    n_kept: int = 0  # of the masked: still what they were
    max_id: int = 0
    lengths: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(S + 1,) int64: how many rows have each length."""
    row_hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    """(comparable rows,) uint64, ascending; see `comparable_lengths`."""
    content_hash: str = ""
    """Of all rows in their order: equal in two files of the same rows, however they are stored."""

    def offend(self, check: str, what: str, wrong: np.ndarray | None = None, start: int = 0) -> None:
        """Note that rows fail `check`: those where `wrong` is set, the first being row `start`; or the whole file."""
        n_rows = 0 if wrong is None else int(np.count_nonzero(wrong))
        if wrong is not None and not n_rows:
            return
        before = self.offences.get(check)
        row = None if wrong is None else start + int(np.argmax(wrong))
        self.offences[check] = (
            dataclasses.replace(before, n_rows=before.n_rows + n_rows) if before else Offence(n_rows, row, what)
        )


def check_shard(path: Path, expected: Expected) -> ShardFindings:
    """Reads a whole shard; what is wrong with it is in the findings, and nothing is raised."""
    findings = ShardFindings(lengths=np.zeros(expected.seq_length + 1, dtype=np.int64))
    try:
        with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, rdcc_nslots=10007) as file:
            if _check_datasets(file, expected, findings):
                _check_rows(file, expected, findings)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py raises any of them for damaged files
        findings.offend("readable", f"it cannot be read as HDF5 ({error})")
    return findings


def widths_of(path: Path) -> tuple[int, int] | None:
    """Sequence length and masked positions per row of a shard, or None if it is not one."""
    try:
        with h5py.File(path, "r") as file:
            return file["input_ids"].shape[1], file["masked_lm_positions"].shape[1]
    except (OSError, RuntimeError, KeyError, AttributeError, IndexError):
        return None


def first_rows(path: Path, expected: Expected) -> dict[str, np.ndarray] | None:
    """The first rows of a shard, or None if it has none of the expected shapes."""
    try:
        with h5py.File(path, "r") as file:
            return next(_read_blocks(file))[1] if _check_datasets(file, expected, ShardFindings()) else None
    except (OSError, RuntimeError, KeyError, ValueError):
        return None


def _read_blocks(file: h5py.File) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Blocks of rows, each with the number of its first."""
    n_rows, width = file["input_ids"].shape
    step = max(1, TOKENS_PER_BLOCK // max(1, width))
    for start in range(0, n_rows, step):
        yield start, {name: file[name][start : start + step] for name in DATASETS}


def comparable_lengths(expected: Expected) -> np.ndarray:
    """(S + 1,) bool: the lengths at which two equal rows are no coincidence.

    A text is masked several times over, and a short one has few masks to draw: a row of 5 tokens is bound to come
    again. Which words are masked can be drawn in C(words, masked) ways, and what becomes of each adds 0.92 bits.
    """
    lengths = np.arange(expected.seq_length + 1)
    chosen = n_to_mask(np.maximum(lengths, N_SPECIAL + 2), expected.masked_lm_prob, expected.n_positions)
    n_words = np.maximum(lengths - N_SPECIAL, 0)
    bits = [_log2_choices(n, k) + 0.92 * k for n, k in zip(n_words.tolist(), chosen.tolist(), strict=True)]
    return np.array(bits) >= expected.masking.comparable_bits


def _log2_choices(n: int, k: int) -> float:
    return math.log2(math.comb(n, k)) if k <= n else 0.0


def _check_datasets(file: h5py.File, expected: Expected, findings: ShardFindings) -> bool:
    """Whether the datasets are such that their rows can be checked."""
    missing = [name for name in DATASETS if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        findings.offend("datasets", f"it lacks {', '.join(missing)}")
        return False
    for name, ours in zip(DATASETS, OUR_TYPES, strict=True):
        found = file[name].dtype
        if found.kind not in "iu" or (expected.our_types and found != ours):
            findings.offend("types", f"{name} is {found} instead of {ours if expected.our_types else 'integers'}")
            if found.kind not in "iu":
                return False
    widths = {name: (expected.n_positions if name.startswith("masked") else expected.seq_length,) for name in DATASETS}
    widths["next_sentence_labels"] = ()
    for name, width in widths.items():
        shape = file[name].shape
        if not shape or shape[1:] != width:
            wanted = ", ".join(("rows", *map(str, width)))
            findings.offend("shapes", f"{name} has the shape {shape} instead of ({wanted})")
            return False
    rows = {len(file[name]) for name in DATASETS}
    if len(rows) > 1 or rows == {0}:
        findings.offend("shapes", "it has no rows" if rows == {0} else f"its datasets have {sorted(rows)} rows")
        return False
    return True


def _check_rows(file: h5py.File, expected: Expected, findings: ShardFindings) -> None:
    digest, hashes = hashlib.sha256(), []
    comparable = comparable_lengths(expected)
    weights = _weights(expected)
    for start, values in _read_blocks(file):
        block = _Block(values, start, expected, findings)
        block.check()
        row_hashes = _hash_rows(block.values, weights)
        digest.update(row_hashes)
        hashes.append(row_hashes[block.sound & comparable[block.lengths]])
        findings.n_rows += len(row_hashes)
    findings.row_hashes = np.sort(np.concatenate(hashes))
    findings.content_hash = digest.hexdigest()


class _Block:
    """The checks of some rows; S tokens, P masked positions. `sound` marks the rows that failed none so far."""

    def __init__(self, values: dict[str, np.ndarray], start: int, expected: Expected, findings: ShardFindings):
        self.start, self.expected, self.findings = start, expected, findings
        self.sound = np.ones(len(values["input_ids"]), dtype=bool)
        ids_below = expected.special.vocab_size
        for name, what, below in (
            ("input_ids", "input_ids in vocabulary", ids_below),
            ("masked_lm_ids", "masked_lm_ids in vocabulary", ids_below),
            ("masked_lm_positions", "masked positions inside", expected.seq_length),
            ("input_mask", "input_mask", 2),
            ("segment_ids", "segment_ids", 2),
            ("next_sentence_labels", "next_sentence_labels", 2),
        ):
            array = values[name]
            # Most blocks are sound, and two extremes are found faster than the rows that hold them.
            if array.min() < 0 or array.max() >= below:
                outside = ((array < 0) | (array >= below)).reshape(len(array), -1).any(axis=1)
                self._require(what, ~outside, f"{name} has a value outside 0 to {below - 1}")
        # What was out of range is noted above; wrapped around, it only fills the place.
        self.values = {name: array.astype(np.int32, copy=False) for name, array in values.items()}
        self.values["input_mask"], self.values["segment_ids"] = (
            values[name].astype(np.int8, copy=False) for name in ("input_mask", "segment_ids")
        )
        self.rows = np.arange(len(self.sound))
        self.lengths = np.zeros(0, dtype=np.int64)

    def check(self) -> None:
        """All checks, and the counts of the rows that pass them."""
        self._check_input_mask()
        first_sep = self._check_segments()
        used, positions = self._check_positions(first_sep)
        original = self._check_predictions(used, positions)
        self._check_special_tokens(original, first_sep)
        self._count(used, positions)

    def _require(self, check: str, ok: np.ndarray, what: str) -> None:
        wrong = self.sound & ~ok
        if wrong.any():
            self.findings.offend(check, what, wrong, self.start)
            self.sound = self.sound & ok

    def _check_input_mask(self) -> None:
        mask = self.values["input_mask"]
        self.lengths = np.clip(mask.sum(axis=1, dtype=np.int64), 0, mask.shape[1])
        self.is_token = np.arange(mask.shape[1], dtype=np.int32) < self.lengths[:, None].astype(np.int32)
        self._require("input_mask", ((mask != 0) == self.is_token).all(axis=1), "input_mask is not ones, then zeros")
        shortest = N_SPECIAL + 2
        self._require("row length", self.lengths >= shortest, f"a row has fewer than {shortest} tokens")
        padded = ~((self.values["input_ids"] != 0) & ~self.is_token).any(axis=1)
        self._require("padding", padded, "input_ids is not zero after the row's end")

    def _check_segments(self) -> np.ndarray:
        """Returns the place before the second segment, (rows,), where the first [SEP] must be."""
        segments = self.values["segment_ids"]
        n_second = np.clip(segments.sum(axis=1, dtype=np.int64), 0, self.lengths)
        first_sep = self.lengths - n_second - 1
        # Shifted by one, ones are exactly the tokens after the first [SEP].
        columns = np.arange(segments.shape[1], dtype=np.int32)
        wanted = self.is_token & (columns > first_sep[:, None].astype(np.int32))
        self._require("segment_ids", ((segments != 0) == wanted).all(axis=1), "segment_ids is not zeros, ones, zeros")
        both = (first_sep >= 2) & (n_second >= 2)
        self._require("segment_ids", both, "segment_ids leaves a segment without a token")
        return np.clip(first_sep, 0, segments.shape[1] - 1)

    def _check_positions(self, first_sep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which places of the masked positions are used, (rows, P) bool, and the positions, (rows, P)."""
        positions = self.values["masked_lm_positions"]
        n_masked = np.count_nonzero(positions, axis=1)
        used = np.arange(positions.shape[1]) < n_masked[:, None]
        zero_padded = ((positions != 0) == used).all(axis=1)
        self._require("masked positions zero-padded", zero_padded, "masked_lm_positions has a zero before a position")
        inside = (positions < self.lengths[:, None]).all(axis=1)
        self._require("masked positions inside", inside, "masked_lm_positions has one after the row's end")
        ascending = ((positions[:, 1:] > positions[:, :-1]) | ~used[:, 1:]).all(axis=1)
        self._require("masked positions ascending", ascending, "masked_lm_positions is not strictly ascending")
        structural = ((positions == first_sep[:, None]) & used) | (positions == self.lengths[:, None] - 1)
        self._require("[SEP] not masked", ~structural.any(axis=1), "masked_lm_positions has that of a [SEP]")
        wanted = n_to_mask(self.lengths, self.expected.masked_lm_prob, self.expected.n_positions)
        right = n_masked <= wanted if self.expected.masking.may_choose_fewer else n_masked == wanted
        rule = f"masked_lm_positions holds not {self.expected.masked_lm_prob} of the row's length"
        self._require("number masked", right, rule)
        return used & self.sound[:, None], positions

    def _check_predictions(self, used: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the ids before masking, (rows, S)."""
        masked_ids = self.values["masked_lm_ids"]
        unused = self.values["masked_lm_positions"] == 0
        zero = ~((masked_ids != 0) & unused).any(axis=1)
        self._require("masked_lm_ids zero-padded", zero, "masked_lm_ids is not zero where nothing is masked")
        original = self.values["input_ids"].copy()
        rows = np.broadcast_to(self.rows[:, None], used.shape)[used]
        original[rows, positions[used]] = masked_ids[used]
        return original

    def _check_special_tokens(self, original: np.ndarray, first_sep: np.ndarray) -> None:
        special = self.expected.special
        self._require("[CLS] first", original[:, 0] == special.cls, "input_ids does not start with [CLS]")
        last = original[self.rows, np.clip(self.lengths - 1, 0, None)]
        self._require("[SEP] last", last == special.sep, "input_ids does not end with [SEP]")
        between = original[self.rows, first_sep] == special.sep
        self._require("[SEP] between segments", between, "input_ids has no [SEP] where segment_ids changes")
        is_special = (original == special.cls) | (original == special.sep) | (original == special.mask)
        exactly = np.count_nonzero(is_special & self.is_token, axis=1) == N_SPECIAL
        self._require("no other special token", exactly, "input_ids has a further [CLS], [SEP] or [MASK]")

    def _count(self, used: np.ndarray, positions: np.ndarray) -> None:
        findings, sound = self.findings, self.sound
        used = used & sound[:, None]
        rows = np.broadcast_to(self.rows[:, None], used.shape)[used]
        now, before = self.values["input_ids"][rows, positions[used]], self.values["masked_lm_ids"][used]
        findings.n_masked += len(now)
        findings.n_as_mask += int(np.count_nonzero(now == self.expected.special.mask))
        findings.n_kept += int(np.count_nonzero(now == before))
        findings.n_random_next += int(np.count_nonzero(self.values["next_sentence_labels"][sound]))
        findings.max_id = max(findings.max_id, int(self.values["input_ids"].max()))
        findings.lengths += np.bincount(self.lengths[sound], minlength=len(findings.lengths))


def _weights(expected: Expected) -> dict[str, np.ndarray]:
    # Odd, fixed and arbitrary; the masks and segments follow from the ids in rows that passed.
    rng = np.random.default_rng(0)
    sizes = {
        "input_ids": expected.seq_length,
        "masked_lm_positions": expected.n_positions,
        "masked_lm_ids": expected.n_positions,
        "segment_ids": expected.seq_length,
        "next_sentence_labels": 1,
    }
    return {name: rng.integers(2**63, size=size, dtype=np.uint64) * 2 + 1 for name, size in sizes.items()}


def _hash_rows(values: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    """(rows,) uint64: equal for equal rows, and for different ones with a probability of about 2 ** -48."""
    total = np.zeros(len(values["input_ids"]), dtype=np.uint64)
    for name, weight in weights.items():
        rows = values[name].reshape(len(total), -1)
        # Ids are not negative; as uint64 their products wrap around, as the sum should.
        total += np.einsum("ns,s->n", rows.astype(np.uint64), weight)
    total ^= total >> np.uint64(32)  # the low bits of such sums are poor, and the sample of rows is taken by them
    return total * np.uint64(0x9E3779B97F4A7C15)
