"""Averages over the GPUs of one machine, whose bytes are moved by copy engines while multiprocessors compute gradients.

Why: NCCL's all-reduce runs kernels that hold multiprocessors, and a matmul whose thread blocks fill the GPU takes a
second turn for those that found no place. On two H200 it added 9.25 ms to a step of 121 (BERT-large in bf16, through
DistributedDataParallel). Copy engines ran none of NCCL's kernels and added 4.28 ms to a step of 128; part of that is
power, as both GPUs were at their limit. That was an experiment with the same collectives (docs/performance-log.md,
section 21). This code has not run on GPUs yet.

How: copy engines cannot add. So every rank is sent its share of a bucket by all (all-to-all), averages it in one
kernel, and sends the result to all (all-gather). NCCL leaves both to copy engines in a group of the zero-CTA policy,
where what is sent and received lies in memory that all ranks have mapped (symmetric memory). An older NCCL or driver
takes kernels for them.

A share is averaged by one rank, in the order of ranks, so all ranks get the same bits. Without GPUs the same is done in
ordinary memory.

That memory is ncclMemAlloc's, apart from PyTorch's caching allocator. `torch.distributed._symmetric_memory.empty` would
manage it by a pool of that allocator, so it is asked for below that, which is the way that was measured. NCCL maps it a
second time for the ranks and keeps the mapping until the group is destroyed, so its end and the group's may come in any
order.

Sources: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/usage/bufferreg.html (zero-CTA optimization);
https://docs.pytorch.org/docs/stable/distributed.html (copy engine collectives).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed.bucket_reduction import ALIGNMENT, BUCKET_BYTES, BucketReduction
from training.distributed.rendezvous import first_line
from training.distributed.world import COLLECTIVE_TIMEOUT, World, ending_after

SETUP_SECONDS = 120.0  # seconds for what takes two; a rank whose setup fails may leave others inside a collective

# PyTorch 2.13 has given it a shorter name, and warns of the one before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class CopyEnginesError(Exception):
    """Why copy engines cannot average, by the first rank that found out. It is raised on all ranks."""


class CopyEngines:
    """Memory for buckets of fp32 gradients, and their averages.

    Args:
        device: this rank's. On a GPU, `check` has passed.
    """

    def __init__(self, device: torch.device):
        self._device, self._rank, self._size = device, dist.get_rank(), dist.get_world_size()
        self._buckets: list[Tensor] = []
        self._group: dist.ProcessGroup | None = None
        if device.type == "cuda":
            from torch.distributed import _symmetric_memory as symmetric_memory

            symmetric_memory.set_backend("NCCL")
            options = dist.ProcessGroupNCCL.Options()
            options.config.cta_policy = dist.ProcessGroupNCCL.NCCL_CTA_POLICY_ZERO
            options._timeout = COLLECTIVE_TIMEOUT
            self._group = dist.new_group(backend="nccl", timeout=COLLECTIVE_TIMEOUT, pg_options=options)

    def allocate(self, n_elements: int) -> Tensor:
        """Zeros (n,), n at least `n_elements` and an aligned share for each rank. All ranks call it alike."""
        share = -(-n_elements // (ALIGNMENT * self._size)) * ALIGNMENT
        self._buckets.append(self._empty(share * self._size).zero_())
        return self._buckets[-1]

    def allocate_staging(self) -> None:
        """After the last `allocate`: one for all buckets, of which a stream averages one at a time."""
        self._staging = self._empty(max(bucket.numel() for bucket in self._buckets))

    def connect(self) -> None:
        """After all is allocated: let the ranks reach each other's memory, and try it.

        Raises:
            RuntimeError: an average is wrong.
        """
        if self._group is not None:
            from torch.distributed import _symmetric_memory as symmetric_memory

            dist.all_reduce(torch.ones(1, device=self._device), group=self._group)  # memory joins a group in use
            torch.cuda.synchronize()
            for memory in (*self._buckets, self._staging):
                symmetric_memory.rendezvous(memory, self._group.group_name)
        self._try(min(self._buckets, key=Tensor.numel))

    def average(self, bucket: Tensor) -> None:
        """Replace what `allocate` gave by its average over the ranks. On a GPU it is only queued, in a stream of its
        own: NCCL 2.28 has no copy-engine collectives in the default stream."""
        received = self._staging[: bucket.numel()]
        share = bucket.view(self._size, -1)[self._rank]
        dist.all_to_all_single(received, bucket, group=self._group)
        torch.mean(received.view(self._size, -1), 0, out=share)
        _all_gather(bucket, share, group=self._group)

    def _try(self, bucket: Tensor) -> None:
        on_gpu = self._group is not None
        aside = torch.cuda.stream(torch.cuda.Stream(self._device)) if on_gpu else contextlib.nullcontext()
        with aside:
            pattern = torch.arange(bucket.numel(), device=self._device).remainder_(1000)
            bucket.copy_(pattern + self._rank)
            self.average(bucket)
            is_right = torch.allclose(bucket, pattern + (self._size - 1) / 2)
            bucket.zero_()
        if on_gpu:
            torch.cuda.synchronize()
        if not is_right:
            raise RuntimeError(f"rank {self._rank} received wrong bytes from another GPU")

    def _empty(self, n_elements: int) -> Tensor:
        if self._group is None:
            return torch.empty(n_elements, device=self._device)
        from torch.distributed._symmetric_memory import _SymmetricMemory

        return _SymmetricMemory.empty_strided_p2p((n_elements,), (1,), torch.float32, self._device)


def check(world: World, device: torch.device, reduce_dtype: str) -> None:
    """All ranks call it.

    Raises:
        CopyEnginesError: on all ranks, where copy engines cannot average between them.
    """
    with _agreed(world):
        if problem := _problem_here(world, device, reduce_dtype):
            raise CopyEnginesError(problem)


def _problem_here(world: World, device: torch.device, reduce_dtype: str) -> str | None:
    if device.type != "cuda":
        return "this run uses the CPU, which has none"
    if world.local_size < world.size:
        return f"{world.size} processes run on more than one machine, {world.local_size} of them on rank {world.rank}'s"
    if reduce_dtype != "fp32":
        return f"gradients are averaged in {reduce_dtype}"
    if not hasattr(getattr(dist, "ProcessGroupNCCL", None), "NCCL_CTA_POLICY_ZERO"):
        return f"PyTorch {torch.__version__} does not offer NCCL's zero-CTA policy"
    others = set(range(world.size)) - {device.index}
    if apart := [other for other in others if not torch.cuda.can_device_access_peer(device.index, other)]:
        return f"GPU {device.index} cannot access the memory of GPU {apart[0]}"
    return None


def reduction_by_copy_engines(
    parameters: Sequence[Tensor],
    begin: Callable[[], None],
    world: World,
    device: torch.device,
    bucket_bytes: int = BUCKET_BYTES,
) -> BucketReduction:
    """`BucketReduction` of these arguments whose averages are by copy engines. All ranks call it.

    Raises:
        CopyEnginesError: on all ranks, where one fails.
    """
    sentence = (
        f"rank {world.rank} could not set up copy engines with the others within {SETUP_SECONDS:g} seconds; start with "
        "--reduction nccl"
    )
    with ending_after(SETUP_SECONDS, sentence):
        with _agreed(world):
            engines = CopyEngines(device)
            reduction = BucketReduction(
                parameters,
                engines.average,
                begin,
                bucket_bytes,
                engines.allocate,
                writes_in_place=True,  # only here, as neither has run on GPUs yet
            )
            engines.allocate_staging()
        with _agreed(world):
            engines.connect()
    return reduction


@contextlib.contextmanager
def _agreed(world: World) -> Iterator[None]:
    """A part of the setup: where a rank fails inside, whatever it is, all ranks raise CopyEnginesError behind it."""
    problem = None
    try:
        yield
    except Exception as error:  # gradients can be averaged otherwise
        problem = f"rank {world.rank}: {first_line(error)}"
    if found := next(filter(None, world.gather(problem)), None):
        raise CopyEnginesError(found)
