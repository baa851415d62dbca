"""The shape of a matmul: models say which ones they make, benchmarks time them."""

from typing import NamedTuple


class Matmul(NamedTuple):
    """A matmul (m, k) x (k, n), of which a training step makes `count`."""

    name: str
    m: int
    n: int
    k: int
    count: int = 1
    left_transposed: bool = False
    """The left factor lies in memory as (k, m)."""
    right_transposed: bool = False
    """The right factor lies in memory as (n, k)."""

    @property
    def flops(self) -> int:
        """Floating-point operations of one."""
        return 2 * self.m * self.n * self.k
