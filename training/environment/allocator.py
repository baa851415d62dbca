"""GPU memory in segments that grow.

Batches of several token counts want blocks of several sizes, and PyTorch's allocator by default asks CUDA for a new
segment for each size that fits none it has: it reserves up to twice what is in use, and each request stops the device.
An expandable segment is a range of addresses behind which memory is put as it is needed
(https://docs.pytorch.org/docs/stable/notes/cuda.html; figures are in docs/performance-log.md, section 18).
"""

import os

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def use_expandable_segments() -> None:
    """Set the allocator up so, unless one of `VARIABLES` already sets it up; before CUDA's first use in a process."""
    if not any(name in os.environ for name in VARIABLES):
        os.environ[VARIABLES[0]] = "expandable_segments:True"
