"""Which tokens of each row are to be predicted: single tokens, or all pieces of whole words.

Both draw without replacement, for thousands of rows at a time.

Source: google-research/bert, create_pretraining_data.py (create_masked_lm_predictions, do_whole_word_mask).
"""

import numpy as np


def choose_tokens(is_candidate: np.ndarray, n_wanted: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Of each row, `n_wanted` candidates, all of them equally likely.

    Args:
        is_candidate: (n, S) bool: what may be chosen.
        n_wanted: (n,) int, at most `width` and at most the row's candidates.

    Returns:
        (n, min(width, S)) int64: the places, ascending, then S where there is none.
    """
    n_rows, seq_length = is_candidate.shape
    # The positions with the smallest of random keys are a uniform choice without replacement.
    keys = rng.random((n_rows, seq_length), dtype=np.float32)
    keys[~is_candidate] = 2
    n_sorted = min(width, seq_length)
    smallest = np.argpartition(keys, n_sorted - 1, axis=1)[:, :n_sorted]
    order = np.argsort(np.take_along_axis(keys, smallest, 1), axis=1)
    positions = np.take_along_axis(smallest, order, 1)
    return np.sort(np.where(np.arange(n_sorted) < n_wanted[:, None], positions, seq_length), axis=1)


def choose_words(
    is_candidate: np.ndarray,
    is_continuation: np.ndarray,
    n_wanted: np.ndarray,
    width: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Of each row, whole words in random order, as long as they fit: at most `n_wanted` tokens.

    A word is a candidate and the continuations after it. As published, a word that is longer than what is still wanted
    is left out and the next one tried, so a row can end with fewer tokens than wanted, even with none. As published
    too, a segment that was cut inside a word begins with pieces of the candidate before them: in segment b that is the
    last word of segment a; at the beginning of the row there is none, so the first piece stands for a word.

    Args:
        is_candidate: (n, S) bool: what may be chosen.
        is_continuation: (n, S) bool: what is a later piece of a word.
        n_wanted: (n,) int, at most `width`.

    Returns:
        as `choose_tokens`.
    """
    n_rows, seq_length = is_candidate.shape
    rows = np.arange(n_rows)[:, None]
    begins = is_candidate & ~is_continuation
    begins[rows[:, 0], is_candidate.argmax(axis=1)] = True
    word_of_token = np.cumsum(begins, axis=1, dtype=np.int32) - 1  # of special tokens too; it is not used
    cells = (rows * seq_length + word_of_token)[is_candidate]
    sizes = np.bincount(cells, minlength=n_rows * seq_length).reshape(n_rows, seq_length)
    most_words = int(word_of_token[:, -1].max()) + 1

    # Random keys with the word's number in the lower bits: numpy sorts numbers much faster than it argsorts them.
    bits = seq_length.bit_length()
    words = np.arange(most_words, dtype=np.uint64)
    keys = rng.integers(2**64, size=(n_rows, most_words), dtype=np.uint64) >> np.uint64(bits) << np.uint64(bits) | words
    keys[words > word_of_token[:, -1:]] |= ~np.uint64(2**bits - 1)  # rows with fewer words have none there
    keys.sort(axis=1)
    order = (keys & np.uint64(2**bits - 1)).astype(np.int64)

    # From word to word in their random order, all rows at once.
    left = n_wanted.astype(np.int64)
    is_chosen = np.zeros((n_rows, seq_length), dtype=bool)
    for place in range(most_words):
        size = sizes[rows[:, 0], order[:, place]]
        fits = (size > 0) & (size <= left)
        left -= size * fits
        is_chosen[rows[fits, 0], order[fits, place]] = True
        if not left.any():
            break

    chosen_row, chosen = np.nonzero(np.take_along_axis(is_chosen, np.maximum(word_of_token, 0), 1) & is_candidate)
    n_chosen = np.bincount(chosen_row, minlength=n_rows)
    positions = np.full((n_rows, min(width, seq_length)), seq_length)
    positions[chosen_row, np.arange(len(chosen)) - (np.cumsum(n_chosen) - n_chosen)[chosen_row]] = chosen
    return positions
