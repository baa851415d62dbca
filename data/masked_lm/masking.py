"""Which tokens of each row are to be predicted: the rules that choose them, in one table, and what becomes of them.

A new rule is a function here and a row in MASKING_RULES; flags, manifests and the verification follow the table. Rules
draw without replacement, for thousands of rows at a time. When shards are made, one generator draws for all rows; when
rows are masked as they are read (data/loading/masking.py), each row has numbers of its own. So whatever a rule draws
has a row for each of its rows, and no row's choice depends on the numbers to the right of those it needs.

Source: google-research/bert, create_pretraining_data.py (create_masked_lm_predictions, do_whole_word_mask); Devlin et
al. 2018, appendix A.2 (80/10/10 masking).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from common.errors import UserError

N_SPECIAL = 3  # [CLS] a [SEP] b [SEP]
# Of the chosen tokens, these shares become [MASK] and stay what they are; the rest becomes any token of the vocabulary.
AS_MASK, UNCHANGED = 0.8, 0.1


class Rows(NamedTuple):
    """n sequences of S tokens, of which some are to be chosen."""

    input_ids: np.ndarray  # (n, S) int32
    is_candidate: np.ndarray  # (n, S) bool: what may be chosen
    continuations: np.ndarray | None = None  # (vocab_size,) bool: whether a token continues a word (##...)


class Draws(Protocol):
    """Where rules take random numbers from: numpy's generator, or anything with these two methods of it."""

    def random(self, size: tuple[int, int], dtype: type) -> np.ndarray:
        """(n, m) floating-point numbers in [0, 1)."""

    def integers(self, high: int, *, size: tuple[int, int], dtype: type) -> np.ndarray:
        """(n, m) integers in [0, high)."""


@dataclass(frozen=True)
class MaskingRule:
    """How tokens are chosen."""

    choose: Callable[[Rows, np.ndarray, int, Draws], np.ndarray]
    """Takes rows, n_wanted (n,) int, the width, which bounds them, and random numbers; returns (n, min(width, S))
    int64: each row's chosen indices, ascending, then S where there is none."""
    what: str  # what is chosen, for people
    needs_words: bool = False  # `Rows.continuations` must be there
    may_choose_fewer: bool = False  # fewer than wanted, because what does not fit is passed over
    comparable_bits: int = 40  # two rows whose masks can be drawn in fewer than 2 ** this ways may be equal by chance


def n_to_mask(lengths: np.ndarray, masked_lm_prob: float, max_predictions_per_seq: int) -> np.ndarray:
    """(n,) int64: how many tokens are wanted of rows of these lengths, which count special tokens; never those."""
    wanted = np.clip(np.rint(lengths * masked_lm_prob), 1, max_predictions_per_seq)
    return np.minimum(wanted, lengths - N_SPECIAL).astype(np.int64)


def candidates(lengths: np.ndarray, first_sep: np.ndarray, seq_length: int) -> np.ndarray:
    """(n, S) bool: all tokens of rows of these lengths but the first, the last and the one at `first_sep`."""
    is_candidate = np.arange(seq_length) < lengths[:, None] - 1
    is_candidate[:, 0] = False
    is_candidate[np.arange(len(lengths)), first_sep] = False
    return is_candidate


def becomes_random(fate: np.ndarray) -> np.ndarray:
    """Of numbers in [0, 1), one for each chosen token: whether it becomes any token of the vocabulary."""
    return fate >= AS_MASK + UNCHANGED


def replace_chosen(
    input_ids: np.ndarray,
    positions: np.ndarray,
    n_positions: int,
    fate: np.ndarray,
    random_ids: np.ndarray,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Change `input_ids` (n, S) in place at the `positions` that a rule chose, each by its own fate.

    Args:
        n_positions: P, no less than any row has positions.
        fate: (chosen,) numbers in [0, 1), row by row.
        random_ids: what those become that `becomes_random` says.

    Returns:
        positions (n, P) int32, ascending, and the ids that were there (n, P) int32; both zero where there is none.
    """
    is_chosen = positions < input_ids.shape[1]
    rows, chosen = np.nonzero(is_chosen)[0], positions[is_chosen]
    original = input_ids[rows, chosen]
    replaced = np.where(fate < AS_MASK, mask_id, original)
    replaced[becomes_random(fate)] = random_ids
    input_ids[rows, chosen] = replaced
    masked_positions, masked_ids = np.zeros((2, len(input_ids), n_positions), dtype=np.int32)
    masked_positions[:, : positions.shape[1]][is_chosen] = chosen
    masked_ids[:, : positions.shape[1]][is_chosen] = original
    return masked_positions, masked_ids


def choose_tokens(rows: Rows, n_wanted: np.ndarray, width: int, draws: Draws) -> np.ndarray:
    """Single tokens: `n_wanted` of each row's candidates, which are at least as many, all of them equally likely."""
    is_candidate = rows.is_candidate
    n_rows, seq_length = is_candidate.shape
    # The positions with the smallest of random keys are a uniform choice without replacement.
    keys = draws.random((n_rows, seq_length), dtype=np.float32)
    keys[~is_candidate] = 2
    n_sorted = min(width, seq_length)
    smallest = np.argpartition(keys, n_sorted - 1, axis=1)[:, :n_sorted]
    order = np.argsort(np.take_along_axis(keys, smallest, 1), axis=1)
    positions = np.take_along_axis(smallest, order, 1)
    return np.sort(np.where(np.arange(n_sorted) < n_wanted[:, None], positions, seq_length), axis=1)


def choose_words(rows: Rows, n_wanted: np.ndarray, width: int, draws: Draws) -> np.ndarray:
    """Of each row, whole words in random order, as long as they fit: at most `n_wanted` tokens.

    A word is a candidate and the continuations after it. As published, a word that is longer than what is still wanted
    is left out and the next one tried, so a row can end with fewer tokens than wanted, even with none. As published
    too, a segment that was cut inside a word begins with pieces of the candidate before them: in segment b that is the
    last word of segment a; at the beginning of the row there is none, so the first piece stands for a word.
    """
    is_candidate, is_continuation = rows.is_candidate, rows.continuations[rows.input_ids]
    n_rows, seq_length = is_candidate.shape
    row = np.arange(n_rows)
    begins = is_candidate & ~is_continuation
    begins[row, is_candidate.argmax(axis=1)] = True
    word_of_token = np.cumsum(begins, axis=1, dtype=np.int32) - 1  # of special tokens too; it is not used
    first_cell = row[:, None] * seq_length  # of a row in (n * S,), a cell for each of its words
    cell_of_token = first_cell + word_of_token
    sizes = np.bincount(cell_of_token[is_candidate], minlength=n_rows * seq_length)
    most_words = int(word_of_token[:, -1].max()) + 1

    # Random keys with the word's number in the lower bits: numpy sorts numbers much faster than it argsorts them.
    bits = seq_length.bit_length()
    words = np.arange(most_words, dtype=np.uint64)
    keys = draws.integers(2**64, size=(n_rows, most_words), dtype=np.uint64)
    keys = keys >> np.uint64(bits) << np.uint64(bits) | words
    keys[words > word_of_token[:, -1:]] |= ~np.uint64(2**bits - 1)  # rows with fewer words have none there
    keys.sort(axis=1)
    cells = first_cell + (keys & np.uint64(2**bits - 1)).astype(np.int64)

    is_chosen = np.zeros(n_rows * seq_length, dtype=bool)
    is_chosen[cells] = _fitting(sizes[cells], n_wanted)
    chosen_row, chosen = np.nonzero(is_chosen[cell_of_token] & is_candidate)
    n_chosen = np.bincount(chosen_row, minlength=n_rows)
    positions = np.full((n_rows, min(width, seq_length)), seq_length)
    positions[chosen_row, np.arange(len(chosen)) - (np.cumsum(n_chosen) - n_chosen)[chosen_row]] = chosen
    return positions


def _fitting(sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """(n, m) bool: which of each row's things, taken in their order, fit into what those before left of its `room`.

    Args:
        sizes: (n, m) int; 0 is nothing, which does not fit.
        room: (n,) int.
    """
    sizes, left = sizes.astype(np.int32), room.astype(np.int32)
    is_taken = np.zeros(sizes.shape, dtype=bool)
    # All up to the first that does not fit, at once; then the same with what is left, in which it never will. The
    # rounds are as few as the sizes are small.
    while True:
        sizes[sizes > left[:, None]] = 0
        fits = (np.cumsum(sizes, axis=1, dtype=np.int32) <= left[:, None]) & (sizes > 0)
        if not fits.any():
            return is_taken
        is_taken |= fits
        left -= np.where(fits, sizes, 0).sum(axis=1, dtype=np.int32)
        sizes[fits] = 0


MASKING_RULES: Mapping[str, MaskingRule] = MappingProxyType(
    {
        "tokens": MaskingRule(choose_tokens, "single tokens"),
        # Masks of whole words are drawn among fewer, so that rows must be longer to be told apart.
        "whole_words": MaskingRule(choose_words, "all pieces of a word or none", True, True, comparable_bits=80),
    }
)


def recorded_rule(name: str) -> dict[str, object]:
    """How a manifest records a rule: the two published ones by a flag, as before there were others."""
    published = {"whole_word_masking": name == "whole_words"}
    return published if name in ("tokens", "whole_words") else {**published, "masking": name}


def rule_in(parameters: Mapping[str, object]) -> str:
    """The name of the rule that a manifest's parameters record; single tokens where they record none.

    Raises:
        UserError: a rule that is not in the table.
    """
    name = str(parameters.get("masking", "whole_words" if parameters.get("whole_word_masking") else "tokens"))
    if name not in MASKING_RULES:
        raise UserError(f"The manifest names the masking rule {name!r}", f"known are {', '.join(MASKING_RULES)}")
    return name
