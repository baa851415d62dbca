"""Averages over the GPUs of one host by copy engines, which leave all multiprocessors to the backward pass.

NCCL's all-reduce is kernels. They hold multiprocessors, and a matmul whose thread blocks fill the GPU waits for those
that found no place (docs/performance-log.md, section 21). Copy engines cannot add, so each rank averages a share of a
bucket: it fetches the share from all others, averages it, and puts it back into their buckets. That moves what NCCL
moves, and only the averaging takes multiprocessors. Each share is averaged on one rank, so all ranks get the same bits.

Ranks meet without a kernel, too: a stream writes a number into the others' memory, and waits for theirs in its own.

Sources: https://docs.pytorch.org/docs/stable/symmetric_memory.html;
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEMOP.html, through cuda-bindings, which PyTorch's wheels for
CUDA 13 require.
"""

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed.bucket_reduction import ALIGNMENT
from training.distributed.world import World, ending_after

TRIAL_SECONDS = 60.0  # where copy engines work, it takes one


class CopyEngines:
    """Memory that all ranks reach, and the averages of what they have in it.

    Args:
        world: several ranks on one host, for which `work_between` has been asked.
        device: this rank's GPU.
    """

    def __init__(self, world: World, device: torch.device):
        self._rank, self._others, self._device = world.rank, others(world.rank, world.size), device
        self._buffers: list[Tensor] = []
        self._numbers = self._shared(world.size, torch.int32)
        self._n_meetings = 0

    def allocate(self, n_elements: int, dtype: torch.dtype) -> Tensor:
        """Zeros (n,) on this rank; all ranks call it alike, once."""
        self._buffers = self._shared(n_elements, dtype)
        return self._buffers[self._rank]

    def average(self, bucket: Tensor) -> None:
        """Replace a slice of what `allocate` gave by its average over the ranks. It is only queued."""
        average_in_shares(bucket, self._buffers, self._rank, self._meet)

    def _meet(self) -> None:
        """What is queued next begins when what the other ranks' streams had queued so far is done."""
        from cuda.bindings import driver

        stream = torch.cuda.current_stream().cuda_stream
        self._n_meetings += 1
        for rank in self._others:
            _check(driver.cuStreamWriteValue32(stream, self._number(of=self._rank, on=rank), self._n_meetings, 0))
        at_least = driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ
        for rank in self._others:
            _check(driver.cuStreamWaitValue32(stream, self._number(of=rank, on=self._rank), self._n_meetings, at_least))

    def _number(self, of: int, on: int) -> int:
        """The address of the number of meetings that a rank has come to, in the memory of a rank."""
        return self._numbers[on][of].data_ptr()

    def _shared(self, n_elements: int, dtype: torch.dtype) -> list[Tensor]:
        """Zeros (n,) of each rank's, all of which this rank reads and writes."""
        from torch.distributed import _symmetric_memory as symmetric_memory

        memory = symmetric_memory.empty(n_elements, dtype=dtype, device=self._device).zero_()
        torch.cuda.synchronize(self._device)  # zeros, before others write
        handle = symmetric_memory.rendezvous(memory, dist.group.WORLD.group_name)
        buffers = [handle.get_buffer(rank, (n_elements,), dtype) for rank in range(handle.world_size)]
        buffers[self._rank] = memory
        return buffers


def others(rank: int, size: int) -> list[int]:
    """All ranks but one, the next first, so that no two begin with the same GPU."""
    return [(rank + step) % size for step in range(1, size)]


def average_in_shares(bucket: Tensor, buffers: Sequence[Tensor], rank: int, meet: Callable[[], None]) -> None:
    """This rank's part in replacing a slice of each rank's memory by the average.

    Args:
        bucket: (n,), a slice of this rank's buffer; the others' are at the same place.
        buffers: (m,), one per rank.
        meet: returns, or lets the stream go on, when all ranks have called it.
    """
    meet()
    one_block_each = len(buffers) * ALIGNMENT
    shares = bucket.split(-(-bucket.numel() // one_block_each) * ALIGNMENT)
    if rank < len(shares):  # a short bucket has none for the last ranks
        share = shares[rank]
        here = slice(share.storage_offset(), share.storage_offset() + share.numel())
        places = [buffers[other][here] for other in others(rank, len(buffers))]
        received = share.new_empty(len(places), share.numel())
        for copy, place in zip(received, places, strict=True):
            copy.copy_(place)
        for n_averaged, copy in enumerate(received, start=2):
            share.lerp_(copy, 1 / n_averaged)
        for place in places:
            place.copy_(share)
    meet()


def work_between(world: World, device: torch.device) -> bool:
    """Whether copy engines can average, and average right, between these ranks' GPUs; all ask together."""
    if not all(world.gather(_reaches_all(world, device))):
        return False
    sentence = (
        f"rank {world.rank} could not reach the other GPUs' memory within {TRIAL_SECONDS:g} seconds; start "
        "without --overlap_reduction"
    )
    with ending_after(TRIAL_SECONDS, sentence):
        return all(world.gather(_is_right(world, device)))


def _reaches_all(world: World, device: torch.device) -> bool:
    if world.local_size < world.size or torch.cuda.device_count() < world.size or not _has_bindings():
        return False
    peers = (other for other in range(world.size) if other != device.index)
    return all(torch.cuda.can_device_access_peer(device.index, other) for other in peers)


def _has_bindings() -> bool:
    try:
        return importlib.util.find_spec("cuda.bindings.driver") is not None
    except ImportError:  # of the packages around it
        return False


def _is_right(world: World, device: torch.device) -> bool:
    try:
        engines = CopyEngines(world, device)
        pattern = torch.arange(world.size * ALIGNMENT, device=device)  # a share for each
        memory = engines.allocate(len(pattern), torch.float32)
        memory.copy_(pattern + world.rank)
        engines.average(memory)
        return torch.allclose(memory, pattern + (world.size - 1) / 2)
    except Exception:  # a driver, a container or a package may forbid it in any way, and NCCL has others
        return False


def _check(result: tuple) -> None:
    if error := int(result[0]):
        raise RuntimeError(f"CUDA's driver could not queue a stream memory operation: {result[0].name} ({error})")
