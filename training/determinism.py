"""The same bits every time, for whoever looks for the one change that moved a curve.

On a GPU, some of PyTorch's faster kernels add up in the order in which blocks happen to finish: FlashAttention's
backward, and scattered additions. The kernels in kernels/ need no switch: they add up in one order.
"""

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Context, if `enabled`, in which PyTorch takes kernels whose results repeat themselves bit for bit, or refuses.

    To be entered before the first matmul on a GPU, at which cuBLAS reads its variable.
    """
    if not enabled:
        yield
        return
    import torch._inductor.config as compiler  # takes a second, which others need not wait

    # Eight buffers of 4 MiB: with them, cuBLAS has the same results on all streams. From its documentation.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # of what every kernel here overwrites anyway
    try:
        with compiler.patch(deterministic=True):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before
