"""What ranks that train on samples of their own share: weights at the start, and the average of their gradients.

In 16 bits the average sends half the bytes, and rounds. Gradients in fp32 are divided before they are rounded, so that
sums do not overflow, and fp16 does not lose the smallest. Gradients in bf16 are sent as they are.
"""

import itertools
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn

REDUCE_DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})


def send_weights(model: nn.Module) -> None:
    """Make a model's weights and buffers those of rank 0 on all ranks."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        dist.broadcast(tensor.detach(), 0)


def average(gradients: Tensor, reduce_dtype: str) -> None:
    """Replace gradients (n,) by their average over the ranks; on a GPU it is only queued.

    Args:
        gradients: in fp32, or in the dtype that is sent.
        reduce_dtype: one of `REDUCE_DTYPES`: what is sent and added.
    """
    dtype = REDUCE_DTYPES[reduce_dtype]
    if gradients.is_cuda and dtype == gradients.dtype:
        dist.all_reduce(gradients, dist.ReduceOp.AVG)  # NCCL divides on the way, which saves a pass over memory
        return
    sent = gradients if dtype == gradients.dtype else torch.empty_like(gradients, dtype=dtype)
    torch.div(gradients, dist.get_world_size(), out=sent)
    dist.all_reduce(sent)
    gradients.copy_(sent)
