"""Masks rows as they are read, anew each time: other tokens are predicted in every epoch, from one copy of the text.

A row's masks follow from the run's seed and the row's position in the stream of samples alone. So a resumed run draws
what an uninterrupted one draws, and N ranks what one draws, and a checkpoint keeps nothing more for it.

The random numbers are SplitMix64's, one stream for each row, as plain arithmetic on unsigned integers: one of numpy's
generators per row would take a Python loop, and what one of them gives for a whole batch would depend on the batch.
Numpy promises the bits of its bit generators, not what `Generator` makes of them; these numbers are the same in every
version and on every machine.

Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (SplitMix64).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.json_files import mismatch
from common.tokenizer_files import MASK
from data.artifacts.manifest import FILE_NAME
from data.loading.flat_batch import PaddedSamples
from data.loading.prepared import masked_lm_prob_of, read_manifest
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import (
    MASKING_RULES,
    Rows,
    becomes_random,
    candidates,
    n_to_mask,
    replace_chosen,
    rule_in,
)
from data.masked_lm.shares import exceeds
from tokenization import load_vocab

MAX_NOT_MASK = 0.5  # of masked tokens; a fifth are published, and with another vocabulary's [MASK] nearly all
IN_MANIFEST = ("cls", "sep", "mask", "size")
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class DynamicMasking:
    """How rows are masked: by the rules of the preparation, with random numbers of their own."""

    rule: str  # a key of MASKING_RULES
    masked_lm_prob: float
    max_predictions_per_seq: int  # P
    special: SpecialIds  # `is_continuation` is asked for by rules that need words
    seed: int

    def __str__(self) -> str:
        return (
            f"masked anew at each reading (--masking dynamic, --masking_rule {self.rule}, --masked_lm_prob "
            f"{self.masked_lm_prob:g}, --max_predictions_per_seq {self.max_predictions_per_seq})"
        )

    def check(self, samples: PaddedSamples, file: Path) -> None:
        """Raises UserError if so few masked tokens of a file's rows are [MASK] that it is another vocabulary's."""
        _, masked = _masked_tokens(samples)
        n_others = int(np.count_nonzero(samples.input_ids[masked] != self.special.mask))
        if exceeds(n_others, len(masked[0]), MAX_NOT_MASK):
            raise UserError(
                f"Of {len(masked[0]):,} masked tokens in {file}, {n_others:,} are not the token {self.special.mask}, "
                f"which should be {MASK}",
                "give the --vocab_file that the shards were made with",
            )

    def mask(self, samples: PaddedSamples, places: np.ndarray) -> PaddedSamples:
        """Copies of n rows, the samples at `places` (n,) of the stream, with new masks and none of those before.

        As many tokens are predicted as in a shard: `masked_lm_prob` of the row's length, rounded, from 1 to P, and none
        of a row that holds special tokens only. Those are the first, the last and the last one of the first segment.
        """
        samples = unmasked(samples)
        ids, lengths = samples.input_ids, samples.lengths.astype(np.int64)
        draws = RowDraws(self.seed, places)
        is_candidate = candidates(lengths, _ends_of_first_segment(samples), ids.shape[1])
        rows = Rows(ids, is_candidate, self.special.is_continuation)
        n_wanted = np.maximum(n_to_mask(lengths, self.masked_lm_prob, self.max_predictions_per_seq), 0)
        chosen = MASKING_RULES[self.rule].choose(rows, n_wanted, self.max_predictions_per_seq, draws)
        is_chosen = chosen < ids.shape[1]
        fate = draws.random(chosen.shape)[is_chosen]
        random_ids = draws.integers(self.special.vocab_size, size=chosen.shape)[is_chosen][becomes_random(fate)]
        positions, originals = replace_chosen(
            ids, chosen, self.max_predictions_per_seq, fate, random_ids, self.special.mask
        )
        n_masked = np.count_nonzero(is_chosen, axis=1).astype(np.int32)
        return dataclasses.replace(
            samples, input_ids=ids, masked_lm_positions=positions, masked_lm_ids=originals, n_masked=n_masked
        )


def unmasked(samples: PaddedSamples) -> PaddedSamples:
    """The rows as they were before they were masked: the original tokens in their places, and P = 0."""
    is_masked, masked = _masked_tokens(samples)
    ids, nothing = samples.input_ids.copy(), np.zeros((len(samples.input_ids), 0), dtype=np.int32)
    ids[masked] = samples.masked_lm_ids[is_masked]
    n_masked = np.zeros_like(samples.n_masked)
    return dataclasses.replace(
        samples, input_ids=ids, masked_lm_positions=nothing, masked_lm_ids=nothing, n_masked=n_masked
    )


def _masked_tokens(samples: PaddedSamples) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(n, P) bool: which of the masked positions are real; their rows and columns, (masked,) each."""
    is_masked = np.arange(samples.masked_lm_positions.shape[1]) < samples.n_masked[:, None]
    return is_masked, (np.nonzero(is_masked)[0], samples.masked_lm_positions[is_masked])


def _ends_of_first_segment(samples: PaddedSamples) -> np.ndarray:
    """(n,) int64: the last token of the first segment, which is the row's last where there is no second one."""
    in_second = samples.segment_ids != 0
    return np.where(in_second.any(axis=1), in_second.argmax(axis=1) - 1, samples.lengths - 1)


def masking_of(
    folder: Path,
    max_predictions_per_seq: int,
    seed: int,
    *,
    rule: str | None = None,
    masked_lm_prob: float | None = None,
    vocab_file: str | Path | None = None,
) -> DynamicMasking:
    """How to mask the rows of a folder of shards: what is not given is as they were made, or else as published.

    Raises:
        UserError: what has to be known of the vocabulary is not; the manifest cannot be read, or says what cannot be.
    """
    manifest = read_manifest(folder)
    parameters = manifest.parameters if manifest else {}
    rule = rule or rule_in(parameters)
    if masked_lm_prob is None:
        masked_lm_prob, source = masked_lm_prob_of(folder, parameters)
        if mismatch(masked_lm_prob, float) or not 0 < masked_lm_prob < 1:
            what = f"{source} of {folder}: masked_lm_prob {masked_lm_prob!r} is no share of tokens"
            raise UserError(what, "give --masked_lm_prob")
    special = _special_ids(folder, parameters, vocab_file, rule)
    return DynamicMasking(rule, masked_lm_prob, max_predictions_per_seq, special, seed)


def _special_ids(folder: Path, parameters: Mapping[str, Any], vocab_file: str | Path | None, rule: str) -> SpecialIds:
    if vocab_file:
        return SpecialIds.of(load_vocab(vocab_file))
    vocabulary = parameters.get("vocabulary")
    if MASKING_RULES[rule].needs_words:
        missing = f"The shards in {folder} do not say which tokens continue a word"
    elif mismatch(vocabulary, dict.fromkeys(IN_MANIFEST, int)):
        missing = f"No {FILE_NAME} in {folder} says which token is {MASK}"
    else:
        return SpecialIds(*(vocabulary[name] for name in IN_MANIFEST))
    raise UserError(
        f"{missing}, which the masking rule {rule} must know", "give the --vocab_file that they were made with"
    )


class RowDraws:
    """Random numbers of n rows: each row's follow from the seed and its position alone.

    Stands in for numpy's generator. A row's numbers are those of a wider draw up to its width, and the k-th draws of
    two objects are alike where seed and position are, whatever the widths of the draws before.
    """

    def __init__(self, seed: int, positions: np.ndarray) -> None:
        start = np.array([seed % 2**64], dtype=np.uint64)
        self._states = output(output(start) + positions.astype(np.uint64) * np.uint64(_GOLDEN))
        self._n_draws = 0

    def _bits(self, size: tuple[int, int]) -> np.ndarray:
        """(n, m) uint64: the next m numbers of each row's stream for this draw."""
        self._n_draws += 1
        states = output(self._states ^ np.uint64(self._n_draws))
        steps = np.arange(1, size[1] + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        return output(states[:, None] + steps)

    def random(self, size: tuple[int, int], dtype: type = np.float64) -> np.ndarray:
        """(n, m) float64 in [0, 1), whatever the dtype.

        In single precision two numbers of a row would be equal now and then, and which of them comes first would
        depend on how the machine sorts.
        """
        return (self._bits(size) >> np.uint64(11)) * 2.0**-53

    def integers(self, high: int, *, size: tuple[int, int], dtype: type = np.int64) -> np.ndarray:
        """(n, m) integers in [0, high); `high` is 2**64 or at most 2**32."""
        bits = self._bits(size)
        return (bits if high == 2**64 else (bits >> np.uint64(32)) * np.uint64(high) >> np.uint64(32)).astype(dtype)


def output(states: np.ndarray) -> np.ndarray:
    """What SplitMix64 makes of states, of any shape, uint64."""
    values = states ^ (states >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
