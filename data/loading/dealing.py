"""Which of a few micro-batches each sample goes to, so that all of these have about as many tokens.

Ranks that compute at the same time wait for the one with the most tokens: of eight with 256 sequences each it has some
per cent more than the mean. Samples are sorted by length and dealt out in turns, there and back, as players are chosen
for teams. The samples of a whole optimizer step could be dealt, whatever its size, but are needed in memory before its
first micro-batch; a few micro-batches at a time are as good, as their means differ little.
"""

import numpy as np

MOST = 64


def n_dealt(batches_per_step: int) -> int:
    """Among how many micro-batches of a step's samples are dealt at once: the largest divisor up to MOST.

    So a step holds whole deals, and a run that resumes at any step deals as one that was never interrupted.
    """
    return next(n for n in range(min(MOST, batches_per_step), 0, -1) if batches_per_step % n == 0)


def deal(lengths: np.ndarray, n_batches: int, batch_size: int) -> np.ndarray:
    """The micro-batch, from 0, of each of as many samples as fill whole deals; the others are left out.

    Args:
        lengths: (n,) integers, the samples' tokens, in the order of the stream.
        n_batches: that a deal fills, with `batch_size` samples each.

    Returns:
        (m,) int64: the k-th deal's are k * n_batches to (k + 1) * n_batches - 1.
    """
    n_deals = len(lengths) // (n_batches * batch_size)
    rows = lengths[: n_deals * n_batches * batch_size].reshape(n_deals, batch_size * n_batches)
    turns = np.tile(np.arange(n_batches), (batch_size, 1))
    turns[1::2] = turns[1::2, ::-1]
    batches = np.empty(rows.shape, dtype=np.int64)
    np.put_along_axis(batches, np.argsort(-rows, axis=1, kind="stable"), turns.reshape(1, -1), axis=1)
    return (batches + np.arange(n_deals)[:, None] * n_batches).ravel()
