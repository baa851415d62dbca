"""PyTorch's DistributedDataParallel as a run here wants it (Li et al. 2020, https://arxiv.org/abs/2006.15704).

After the reduction gradients live in the buckets they are reduced in, which saves a copy of them. The reduction runs
beside the last backward pass; in 16 bits it sends half the bytes, and rounds. PyTorch's hooks for that divide after
rounding, where fp16 loses the smallest gradients, and refuse bf16 over gloo; ours divides first and runs everywhere. It
also knows when the last gradient is there, so that what remains of the reduction can be timed. CUDA graphs do without
the wrapper (bucket_reduction.py), and use the rest of this file.
"""

import itertools
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

REDUCE_DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})


def data_parallel(
    model: nn.Module, device: torch.device, reduce_dtype: str, begin_last: Callable[[], None] = lambda: None
) -> DistributedDataParallel:
    """Wrap a model on its device; its weights become those of rank 0 on all ranks.

    Args:
        reduce_dtype: one of `REDUCE_DTYPES`: what gradients are averaged over ranks in.
        begin_last: called when all gradients are computed and the last of them are about to be sent.
    """
    device_ids = [device.index] if device.type == "cuda" else None
    parallel = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    parallel.register_comm_hook((REDUCE_DTYPES[reduce_dtype], begin_last), _reduce)
    return parallel


def _reduce(state: tuple[torch.dtype, Callable[[], None]], bucket: dist.GradBucket) -> Future[Tensor]:
    """Average a bucket of fp32 gradients over the ranks in a dtype."""
    dtype, begin_last = state
    if bucket.is_last():
        begin_last()
    gradients = bucket.buffer()
    sent = _share(gradients, dtype)
    reduced = dist.all_reduce(sent, async_op=True).get_future()
    if sent is gradients:
        return reduced.then(lambda future: future.value()[0])
    return reduced.then(lambda future: gradients.copy_(future.value()[0]))


def average(gradients: Tensor, reduce_dtype: str) -> None:
    """Replace fp32 gradients by their average over the ranks, as the reduction above does; a GPU's host waits not."""
    sent = _share(gradients, REDUCE_DTYPES[reduce_dtype])
    dist.all_reduce(sent)
    gradients.copy_(sent)


def _share(gradients: Tensor, dtype: torch.dtype) -> Tensor:
    """What a rank sends of its fp32 gradients, which it divides in place; in fp32 it is they themselves."""
    return gradients.div_(dist.get_world_size()).to(dtype)


def send_weights(model: nn.Module) -> None:
    """Make a model's weights and buffers those of rank 0 on all ranks, as DistributedDataParallel does."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        dist.broadcast(tensor.detach(), 0)
