"""The work that batches hold: the data states it and training adds it up, and neither may import the other."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Work:
    """Exact integers, known on the host; padding does not count."""

    n_sequences: int = 0
    sum_lengths: int = 0
    """Real tokens."""
    sum_squared_lengths: int = 0
    """Sum over sequences of the squared length, which attention costs."""
    n_masked: int = 0
    """Masked positions that the MLM head sees."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))
