"""Gradients averaged over the ranks, after the backward pass or beside it, be it recorded as a CUDA graph or not.

Over NVLink the average of all gradients at once takes milliseconds. Beside backward NCCL's costs more than that: its
kernels hold multiprocessors, and matmuls that count on all of them wait for the last (docs/performance-log.md, section
21). Copy engines hold none (copy_engines.py). Over slower links an average takes long, and hides behind backward.

Fused layers' matmuls write a weight's gradient into its bucket (kernels/fused/linear.py), and all other gradients are
copied there. For averages beside it, backward marks each full bucket with an event. Once backward is queued, the host
queues the averages behind these events on another stream, in one order on all ranks; an event may be recorded into a
stream or into a graph. PyTorch's DistributedDataParallel sends a bucket from within backward instead, which a graph
cannot do: NCCL wants a collective that is recorded to be replayed by all ranks at once, and their graphs differ with
the shapes of their micro-batches.

Source: https://docs.pytorch.org/docs/stable/generated/torch.cuda.Event.html (external events).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

BUCKET_BYTES = 64 * 2**20  # a layer of BERT-large: enough for a link's full bandwidth, and there are 20 to overlap
ALIGNMENT = 128  # elements between the starts of gradients; in fp32 512 bytes, as PyTorch aligns tensors of their own


class BucketReduction:
    """Backward passes that leave gradients in buckets, and the average of these over the ranks.

    Args:
        parameters: in the order of the forward pass, fp32, on one device. Backward is thought to reach the last first.
        average: replaces a flat tensor (n,) by its average over the ranks; on a GPU it only queues that.
        begin: called when the gradients are computed, and what is queued from then on waits for other ranks.
        overlaps: average each bucket once it is full, while backward goes on; else all of them at once after it.
        bucket_bytes: the most in a bucket, but for a larger parameter's.
        dtype: of the buckets; in 16 bits `fill` must not accumulate, as each sum would be rounded.
        allocate: returns the memory of all buckets, zeros (n,) of a dtype; by default on the parameters' device.

    Attributes:
        gradients: one per parameter, of its shape, in the memory of the buckets.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        average: Callable[[Tensor], object],
        begin: Callable[[], None] = lambda: None,
        *,
        overlaps: bool = True,
        bucket_bytes: int = BUCKET_BYTES,
        dtype: torch.dtype = torch.float32,
        allocate: Callable[[int, torch.dtype], Tensor] | None = None,
    ):
        self._parameters, self._average, self._begin = list(parameters), average, begin
        sizes, device = [_padded(parameter.numel()) for parameter in self._parameters], self._parameters[0].device
        self._members = divide(sizes, bucket_bytes // dtype.itemsize)
        # Zeros, as what lies between gradients is averaged too.
        memory = allocate(sum(sizes), dtype) if allocate else torch.zeros(sum(sizes), dtype=dtype, device=device)
        places = [index for members in self._members for index in members]
        parts = dict(zip(places, memory.split([sizes[index] for index in places]), strict=True))
        self.gradients = [
            parts[index][: parameter.numel()].view(parameter.shape) for index, parameter in enumerate(self._parameters)
        ]
        if dtype != torch.float32:
            for parameter in self._parameters:
                parameter.grad_dtype = None  # any: PyTorch would cast each by itself
        in_buckets = memory.split([sum(sizes[index] for index in members) for members in self._members])
        self._overlaps, self._averaged = overlaps, in_buckets if overlaps else [memory]
        self._queue = _SideStream(device, len(in_buckets)) if overlaps and device.type == "cuda" else _NoStream()

    def backward(self, loss: Tensor, accumulates: bool, reduces: bool) -> None:
        """In place of `loss.backward()`: `fill`, and `reduce` where the gradients are to be averaged now."""
        self.fill(loss, accumulates)
        if reduces:
            self.reduce()

    def fill(self, loss: Tensor, accumulates: bool) -> None:
        """Compute the gradients of a scalar, into the buckets or, added, onto them.

        Raises:
            RuntimeError: the scalar does not depend on all parameters ("One of the differentiated Tensors appears to
                not have been used in the graph").
        """
        update = torch._foreach_add_ if accumulates else torch._foreach_copy_
        places = contextlib.nullcontext() if accumulates else self._places()
        hooks = self._hooks(update) if self._overlaps else contextlib.nullcontext()
        with places, hooks:
            found = torch.autograd.grad(loss, self._parameters)
        if not self._overlaps:
            self._update(update, range(len(found)), found)

    @contextlib.contextmanager
    def _places(self) -> Iterator[None]:
        """Fused layers' matmuls write into the buckets inside."""
        for parameter, place in zip(self._parameters, self.gradients, strict=True):
            parameter.gradient_place = place
        try:
            yield
        finally:
            for parameter in self._parameters:
                parameter.gradient_place = None

    def _update(self, update: Callable, indices: Iterable[int], found: Iterable[Tensor]) -> None:
        """Copy or add those gradients that do not lie in their buckets."""
        pairs = [(self.gradients[index], gradient) for index, gradient in zip(indices, found, strict=True)]
        if elsewhere := [(place, gradient) for place, gradient in pairs if place.data_ptr() != gradient.data_ptr()]:
            update(*(list(column) for column in zip(*elsewhere, strict=True)))

    @contextlib.contextmanager
    def _hooks(self, update: Callable) -> Iterator[None]:
        """Backward inside fills each bucket, and marks it, once it has its gradients; costs the host milliseconds."""
        with contextlib.ExitStack() as hooks:
            for number, members in enumerate(self._members):
                arrived: dict[int, Tensor] = {}
                for index in members:
                    hook = functools.partial(self._arrive, number, index, arrived, update)
                    hooks.callback(self._parameters[index].register_hook(hook).remove)
            yield

    def _arrive(
        self, number: int, index: int, arrived: dict[int, Tensor], update: Callable, gradient: Tensor
    ) -> Tensor | None:
        """Keep a parameter's gradient, the sum of all its uses, until the last of a bucket fills it.

        Autograd is handed the place in the bucket, as it would hold what it made until the end of the pass. In 16 bits
        it holds vectors and the embeddings, whose gradients come in fp32.
        """
        arrived[index] = gradient
        if len(arrived) == len(self._members[number]):
            self._update(update, arrived.keys(), arrived.values())
            arrived.clear()
            self._queue.mark(number)
        place = self.gradients[index]
        return place if place.dtype == gradient.dtype else None  # a hook may not change it

    def reduce(self) -> None:
        """Average what the last `fill`, or a replay of one, leaves, and hand it to the parameters as their `grad`.

        What is queued next finds all of it averaged.
        """
        self._begin()
        for number, gradients in enumerate(self._averaged):
            with self._queue.behind(number):
                self._average(gradients)
        self._queue.join()
        for parameter, gradient in zip(self._parameters, self.gradients, strict=True):
            parameter.grad = gradient


class _SideStream:
    """A CUDA stream on which a bucket's average waits for the bucket alone, while backward goes on with the next."""

    def __init__(self, device: torch.device, n_buckets: int):
        self._stream = torch.cuda.Stream(device, priority=-1)  # before backward's kernels, as all ranks wait for it
        self._filled = [torch.cuda.Event(external=True) for _ in range(n_buckets)]

    def mark(self, number: int) -> None:
        """The bucket is full, here in the current stream, or in the graph that is recorded."""
        self._filled[number].record()

    @contextlib.contextmanager
    def behind(self, number: int) -> Iterator[None]:
        """What is queued inside runs once the bucket is full."""
        with torch.cuda.stream(self._stream):
            self._filled[number].wait()
            yield

    def join(self) -> None:
        """What the current stream does next waits for all of it."""
        torch.cuda.current_stream().wait_stream(self._stream)


class _NoStream:
    """Nothing beside backward: the current stream, or a CPU, which has done its work when a call returns."""

    def mark(self, number: int) -> None:
        """Nothing waits for it."""

    def behind(self, number: int) -> contextlib.AbstractContextManager:
        """Backward has filled all buckets."""
        return contextlib.nullcontext()

    def join(self) -> None:
        """All is done."""


def divide(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Indices of items, from the last to the first, in runs of at most `most` together, or of one that is larger.

    The run of the last items is the one that may be short. It has more time to be sent than that of the first.
    """
    runs: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not runs or size > room:
            runs.insert(0, [])
            room = most
        runs[0].insert(0, index)
        room -= size
    return runs


def _padded(n_elements: int) -> int:
    return -(-n_elements // ALIGNMENT) * ALIGNMENT
