"""GPU memory in segments that grow.

Batches of several token counts want blocks of several sizes. PyTorch's allocator by default asks CUDA for a new segment
for each size that fits none it has, and so reserves up to twice what is in use; every such request also stops the
device for a moment. An expandable segment is a range of addresses behind which memory is put as it is needed: what is
reserved is then what is in use. Figures are in docs/performance-log.md, section 18.

Known to fail with it are NCCL's reductions within CUDA graphs, and ours have none (https://github.com/pytorch/pytorch/
issues/158029).

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf.
"""

import os
from collections.abc import MutableMapping

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def use_expandable_segments(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the allocator up so, unless one of `VARIABLES` already sets it up; before CUDA's first use in a process."""
    if not any(name in environment for name in VARIABLES):
        environment[VARIABLES[0]] = "expandable_segments:True"
