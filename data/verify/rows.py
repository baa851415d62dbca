"""What must hold in every HDF5 shard of pre-training data, checked from the rows alone, and what is counted on the way.

A row has to read [CLS] a [SEP] b [SEP] and zeros, with the masked words of a and b put back where they were. Checks go
from the plain to the involved, and a row counts only under the first one it fails: after a wrong length, what else
seems wrong with a row says nothing. A shard of any size takes the same memory, but for a hash of each row.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Problems
from data.loading.prepared import check_shards
from data.loading.shard_files import open_shard
from data.masked_lm.instances import DATASETS, SpecialIds
from data.masked_lm.masking import AS_MASK, N_SPECIAL, UNCHANGED, MaskingRule, n_to_mask
from data.masked_lm.shares import exceeds, unknown_problem
from data.verify.report import FAILED, WARNING, Findings, Offence

STRUCTURE, FURTHER_SPECIAL = "datasets", "further special tokens"
UNIT, REPEATED = "rows", "rows repeated"
REPLACEMENT, BALANCE, UNKNOWN = "80/10/10 replacement", "next-sentence balance", "unknown tokens"
OF_VALUES = ("special tokens", FURTHER_SPECIAL, REPLACEMENT, BALANCE, UNKNOWN, REPEATED)
CHECKS = tuple(itertools.chain([STRUCTURE], DATASETS, OF_VALUES))

TOKENS_PER_BLOCK = 2**20  # a few MB per array: much larger ones are slower, and smaller ones reread NVIDIA's chunks
# Bytes per dataset: NVIDIA's chunks are narrower than a row; side by side they fit, and none is decompressed twice.
CHUNK_CACHE = 2**26
SHORTEST = N_SPECIAL + 2
STANDARD_ERRORS = 6  # by which a share may be off by chance: less than once in 10 ** 8 shards
# Half of the next sentences are random, and all those after a single sentence. So fewer than half cannot be, but with
# very few documents; more than the upper bound only where most sentences fill a row alone, which is worth a look, and
# nearly all means that the label says nothing.
RANDOM_NEXT_BOUNDS = (0.45, 0.65)
RANDOM_NEXT_LIMIT = 0.95
# Texts about BERT hold [SEP] and [MASK] as words, and tokenizers leave them whole.
FURTHER_SPECIAL_SHARE = 1e-3
HISTOGRAM_BINS = 8


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the rows of a folder are compared with."""

    special: SpecialIds
    seq_length: int
    n_positions: int
    masked_lm_prob: float
    masking: MaskingRule
    unknown: int | None = None  # the id of [UNK]; None: not known
    do_lower_case: bool | None = None  # likewise


def check_shard(path: Path, expected: Expected) -> Findings:
    """Reads a whole shard. Raises what h5py does for damaged ones: OSError, RuntimeError, KeyError or ValueError."""
    findings, problems = Findings(), Problems()
    n_positions = range(expected.n_positions, expected.n_positions + 1)
    n_rows = int(check_shards([path], expected.seq_length, n_positions, problems)[0])
    if problems.found or not n_rows:
        what = problems.found[0].problem.replace(str(path), "it", 1) if problems.found else "it has no rows"
        findings.offend(STRUCTURE, Offence(what))
        return findings
    step = max(1, TOKENS_PER_BLOCK // expected.seq_length)
    with open_shard(path, rdcc_nbytes=CHUNK_CACHE, rdcc_nslots=10007) as datasets:
        blocks = (
            (start, {name: dataset[start : start + step] for name, dataset in datasets.items()})
            for start in range(0, n_rows, step)
        )
        check_rows(blocks, expected, findings)
    return findings


def check_rows(blocks: Iterable[tuple[int, dict[str, np.ndarray]]], expected: Expected, findings: Findings) -> None:
    """Adds to `findings` what all rows of a file fail: its datasets a block at a time, after the block's first row."""
    comparable, hashes = comparable_lengths(expected), []
    for start, values in blocks:
        sound = np.ones(len(values["input_ids"]), dtype=bool)
        for check, what, is_right in _row_checks(values, expected):
            if (wrong := sound & ~is_right).any():
                offence = Offence(what, int(np.count_nonzero(wrong)), start + int(np.argmax(wrong)))
                findings.offend(check, offence)
                sound &= is_right
        findings.count(rows=len(sound))
        if not sound.all():
            values = {name: array[sound] for name, array in values.items()}
        lengths = _count(values, expected, findings)
        hashes.append(_hash_rows(values)[comparable[lengths]])
    joined = np.concatenate(hashes)
    findings.hashes = np.unique(joined)
    if n_repeated := len(joined) - len(findings.hashes):
        what = f"{n_repeated:,} of its rows are there before, the same masks included"
        findings.offend(REPEATED, Offence(what, n_repeated))
    further = findings.offences.get(FURTHER_SPECIAL)
    if further and further.n_rows <= FURTHER_SPECIAL_SHARE * findings.counts["rows"]:
        findings.offences[FURTHER_SPECIAL] = dataclasses.replace(further, status=WARNING)
    _check_replacement(findings, expected)
    check_shares(findings, expected)


def _row_checks(values: dict[str, np.ndarray], expected: Expected) -> Iterator[tuple[str, str, np.ndarray]]:
    """Check, what is wrong, and (rows,) bool which rows are right; turns `values` into int32 and int8.

    S tokens, P masked positions. A later check may take the earlier ones for granted.
    """
    special, seq_length = expected.special, expected.seq_length
    limits = {"input_ids": special.vocab_size, "masked_lm_ids": special.vocab_size, "masked_lm_positions": seq_length}
    for name, array in values.items():
        below = limits.get(name, 2)
        # Most blocks are sound, and two extremes are found faster than the rows that hold them.
        if array.min(initial=0) < 0 or array.max(initial=0) >= below:
            is_right = ((array >= 0) & (array < below)).reshape(len(array), -1).all(axis=1)
            yield name, f"{name} has a value outside 0 to {below - 1}", is_right
        values[name] = array.astype(np.int8 if below == 2 else np.int32, copy=False)
    ids, mask, segments, positions, masked_ids, _ = (values[name] for name in DATASETS)

    columns = np.arange(seq_length, dtype=np.int32)
    lengths = np.clip(mask.sum(axis=1, dtype=np.int32), 0, seq_length)
    is_token = columns < lengths[:, None]
    yield "input_mask", "input_mask is not ones, then zeros", ((mask != 0) == is_token).all(axis=1)
    yield "input_mask", f"input_mask has fewer than {SHORTEST} ones", lengths >= SHORTEST
    yield "input_ids", "input_ids is not zero after the row's end", ((ids == 0) | is_token).all(axis=1)

    n_second = np.clip(segments.sum(axis=1, dtype=np.int32), 0, lengths)
    first_sep = lengths - n_second - 1
    # Shifted by one, ones are exactly the tokens after the first [SEP].
    wanted = is_token & (columns > first_sep[:, None])
    yield "segment_ids", "segment_ids is not zeros, ones, zeros", ((segments != 0) == wanted).all(axis=1)
    yield "segment_ids", "segment_ids leaves a segment without a token", (first_sep >= 2) & (n_second >= 2)

    n_masked = np.count_nonzero(positions, axis=1)
    used = np.arange(positions.shape[1]) < n_masked[:, None]
    name = "masked_lm_positions"
    yield name, f"{name} has a zero before a position", ((positions != 0) == used).all(axis=1)
    yield name, f"{name} has one after the row's end", (positions < lengths[:, None]).all(axis=1)
    ascending = (positions[:, 1:] > positions[:, :-1]) | ~used[:, 1:]
    yield name, f"{name} is not strictly ascending", ascending.all(axis=1)
    structural = ((positions == first_sep[:, None]) & used) | (positions == lengths[:, None] - 1)
    yield name, f"{name} has that of a [SEP]", ~structural.any(axis=1)
    n_wanted = n_to_mask(lengths, expected.masked_lm_prob, expected.n_positions)
    as_many = n_masked <= n_wanted if expected.masking.may_choose_fewer else n_masked == n_wanted
    yield name, f"{name} holds not {expected.masked_lm_prob} of the row's length", as_many
    unused_are_zero = ((masked_ids == 0) | (positions != 0)).all(axis=1)
    yield "masked_lm_ids", "masked_lm_ids is not zero where nothing is masked", unused_are_zero

    original = ids.copy()
    places = np.clip(positions, 0, seq_length - 1)
    # Position 0 is never masked: there, the unused ones put back what is there.
    np.put_along_axis(original, places, np.where(places > 0, masked_ids, ids[:, :1]), axis=1)
    rows = np.arange(len(original))
    for place, token, what in (
        (0, special.cls, "does not start with [CLS]"),
        (np.clip(lengths - 1, 0, None), special.sep, "does not end with [SEP]"),
        (np.clip(first_sep, 0, None), special.sep, "has no [SEP] where segment_ids changes"),
    ):
        yield "special tokens", f"input_ids {what}", original[rows, place] == token
    is_special = (original == special.cls) | (original == special.sep) | (original == special.mask)
    exactly = np.count_nonzero(is_special & is_token, axis=1) == N_SPECIAL
    yield FURTHER_SPECIAL, "input_ids has a further [CLS], [SEP] or [MASK]", exactly


def _count(values: Mapping[str, np.ndarray], expected: Expected, findings: Findings) -> np.ndarray:
    """Counts what the statistics need of sound rows; returns their lengths, (rows,)."""
    used = values["masked_lm_positions"] > 0
    now = np.take_along_axis(values["input_ids"], values["masked_lm_positions"], axis=1)[used]
    labels = values["masked_lm_ids"][used]
    lengths = values["input_mask"].sum(axis=1)
    findings.count(
        lengths=np.bincount(lengths, minlength=expected.seq_length + 1),
        masked=len(now),
        as_mask=int(np.count_nonzero(now == expected.special.mask)),
        kept=int(np.count_nonzero(now == labels)),
        random_next=int(np.count_nonzero(values["next_sentence_labels"])),
    )
    if (unknown := expected.unknown) is not None:
        in_text = np.count_nonzero((values["input_ids"] == unknown) & (values["input_mask"] != 0))
        masked_since = np.count_nonzero(labels == unknown) - np.count_nonzero(now == unknown)
        findings.count(unknown=int(in_text + masked_since), words=int(lengths.sum()) - N_SPECIAL * len(lengths))
    return lengths


def comparable_lengths(expected: Expected) -> np.ndarray:
    """(S + 1,) bool: the lengths at which two equal rows are no coincidence.

    A text is masked several times over, and a short one has few masks to draw: a row of 5 tokens is bound to come
    again. Which words are masked can be drawn in C(words, masked) ways, and what becomes of each adds 0.92 bits.
    """
    lengths = np.arange(SHORTEST, expected.seq_length + 1)
    chosen = n_to_mask(lengths, expected.masked_lm_prob, expected.n_positions)
    pairs = zip((lengths - N_SPECIAL).tolist(), chosen.tolist(), strict=True)
    bits = [0] * SHORTEST + [math.log2(math.comb(n, k)) + 0.92 * k for n, k in pairs]
    return np.array(bits) >= expected.masking.comparable_bits


def _hash_rows(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """(rows,) uint64: equal for equal rows, and for different ones with a probability of about 2 ** -48."""
    rng = np.random.default_rng(0)
    total = np.zeros(len(values["input_ids"]), dtype=np.uint64)
    for name, array in values.items():
        if name == "input_mask":  # it follows from the ids
            continue
        rows = array.reshape(len(total), math.prod(array.shape[1:]))
        # Odd, fixed and arbitrary. As uint64 the products wrap around, as their sum should.
        weights = rng.integers(2**63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
        total += np.einsum("ns,s->n", rows.astype(np.uint64), weights)
    total ^= total >> np.uint64(32)  # the low bits of such sums are poor, and the smallest hashes are compared
    return total * np.uint64(0x9E3779B97F4A7C15)


def _check_replacement(findings: Findings, expected: Expected) -> None:
    """What became of masked tokens, within the error of so many draws."""
    counts = findings.counts
    n = counts["masked"]
    # A tenth is replaced by any token, which now and then is [MASK], or the token that was there.
    by_chance = (1 - AS_MASK - UNCHANGED) / expected.special.vocab_size
    shares = {
        "[MASK]": (counts["as_mask"], AS_MASK + by_chance),
        "kept": (counts["kept"], UNCHANGED + by_chance),
        "random": (n - counts["as_mask"] - counts["kept"], 1 - AS_MASK - UNCHANGED - 2 * by_chance),
    }
    if n and any(abs(number - n * share) > 1 + n * _margin(share, n) for number, share in shares.values()):
        numbers = ", ".join(f"{number / n:.2%} {what}" for what, (number, _) in shares.items())
        findings.offend(REPLACEMENT, Offence(f"of {n:,} masked tokens are {numbers}"))


def check_shares(findings: Findings, expected: Expected) -> None:
    """How many next sentences are random and tokens [UNK], beyond chance; of one file or of several."""
    counts, (low, high) = findings.counts, RANDOM_NEXT_BOUNDS
    n, n_random = int(np.sum(counts.get("lengths", 0))), counts.get("random_next", 0)
    if exceeds(n_random, n, high) or exceeds(n - n_random, n, 1 - low):
        share = n_random / n
        what = f"{share:.1%} of {n:,} next sentences are random, not {low:.0%} to {high:.0%}"
        findings.offend(BALANCE, Offence(what, status=WARNING if high < share < RANDOM_NEXT_LIMIT else FAILED))
    if problem := unknown_problem(counts.get("unknown", 0), counts.get("words", 0), expected.do_lower_case):
        findings.offend(UNKNOWN, Offence(str(problem), status=WARNING))


def _margin(share: float, n: int) -> float:
    return STANDARD_ERRORS * (share * (1 - share) / n) ** 0.5


def statistics(counts: Mapping[str, Any]) -> dict[str, Any]:
    """For the report, from the sums of the files' counts; shares are of the rows that passed."""
    rows_of_length = counts.get("lengths", np.zeros(1, dtype=np.int64))
    longest = len(rows_of_length) - 1
    n_rows, n_tokens = max(1, int(rows_of_length.sum())), int(np.arange(longest + 1) @ rows_of_length)
    masked, as_mask, kept, random_next = (counts.get(name, 0) for name in ("masked", "as_mask", "kept", "random_next"))
    edges = np.unique(np.linspace(0, longest, HISTOGRAM_BINS + 1).astype(int))
    return {
        "files": counts["files"],
        "rows": counts.get("rows", 0),
        "mean length": n_tokens / n_rows,
        "share of full rows": int(rows_of_length[-1]) / n_rows,
        "share masked": masked / max(1, n_tokens),
        "of these [MASK]": as_mask / max(1, masked),
        "of these random": (masked - as_mask - kept) / max(1, masked),
        "of these kept": kept / max(1, masked),
        "share of random next sentences": random_next / n_rows,
        **({"share of [UNK]": counts["unknown"] / max(1, counts["words"])} if "unknown" in counts else {}),
        "lengths": {f"{a + 1}-{b}": int(rows_of_length[a + 1 : b + 1].sum()) for a, b in itertools.pairwise(edges)},
    }
