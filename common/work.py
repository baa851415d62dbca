"""The work of a training step, which data and models state and training adds up: none of them may import another."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Work:
    """What batches hold, in exact integers that the host knows; padding does not count."""

    n_sequences: int = 0
    sum_lengths: int = 0  # real tokens
    sum_squared_lengths: int = 0  # over sequences, which attention costs
    n_masked: int = 0  # positions that the MLM head sees

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


class Matmul(NamedTuple):
    """A matmul (m, k) x (k, n), of which a training step makes `count`."""

    name: str
    m: int
    n: int
    k: int
    count: int = 1
    left_transposed: bool = False  # it lies in memory as (k, m)
    right_transposed: bool = False  # it lies in memory as (n, k)

    @property
    def flops(self) -> int:
        """Floating-point operations of one."""
        return 2 * self.m * self.n * self.k
