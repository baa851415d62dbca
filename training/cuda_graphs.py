"""Forward and backward passes recorded as CUDA graphs, for steps whose kernels run faster than a host can launch them.

A graph works on the same memory each time: a micro-batch is copied into its inputs, and all graphs leave the gradients
in the same buffers. Shapes must repeat, for which batches are padded to buckets (data/loading/flat_batch.py). Each
shape's first micro-batch runs as it would without graphs, for torch.compile to make its code, which is why the peak of
memory is up to twice that of a step; the second is recorded, and replayed from then on. The random numbers of a replay
are those of a run without graphs, as seeds are read when it starts. With several ranks the gradients are left in the
buckets of a reduction, which is queued behind the graph and not recorded.

Nobody may hold an output of the model that is not detached while a graph is recorded: it keeps nodes of autograd alive
that belong to the stream in which it was computed, and CUDA refuses a recording that another stream waits for.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from training.distributed.bucket_reduction import BucketReduction


class GradientGraphs:
    """Computes the gradients of micro-batches, of repeated shapes by CUDA graphs.

    Args:
        loss_function: returns scalars, the first of which is trained on.
        parameters: what to leave gradients in; the loss depends on all of them.
        reduction: of the gradients over the ranks, where there are several.
        record: calls a function once, which queues nothing but is recorded, and returns what runs the recording.
    """

    def __init__(
        self,
        loss_function: Callable[[Any], tuple[Tensor, ...]],
        parameters: Iterable[Tensor],
        reduction: BucketReduction | None = None,
        record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ):
        self._loss_function = loss_function
        self._parameters = list(parameters)
        self._reduction = reduction
        self._gradients: list[Tensor] = []  # on one rank; with several they are the reduction's
        self._scale = torch.ones((), device=self._parameters[0].device)
        self._record = record or CudaRecorder()
        self._met: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recording] = {}

    def __call__(self, micro_batch: Any, scale: float, accumulates: bool, reduces: bool = True) -> Tensor:
        """Compute the gradients of the first loss; return the losses (n,), the caller's own.

        The gradients are left in the parameters' `grad`, by several ranks once they are averaged.

        Args:
            micro_batch: a dataclass of tensors on the device and of numbers. It has `max_seqlen`, the one number that a
                loss may use: a graph keeps those it was recorded with.
            scale: of the gradients, not of the losses that are returned.
            accumulates: add to the gradients that the last call left, and do not replace them.
            reduces: average the gradients over the ranks.
        """
        self._scale.fill_(scale)
        shape = micro_batch.max_seqlen, tuple(tensor.shape for tensor in _tensors(micro_batch).values())
        if shape not in self._met:
            self._met.add(shape)
            losses = self._compute(micro_batch, accumulates)
        else:
            if (key := (shape, accumulates)) not in self._recorded:
                if not self._recorded and not accumulates:
                    self._gradients = []  # no graph writes to these yet, and the first may have its own
                self._recorded[key] = _Recording(micro_batch, self._record, self._compute, accumulates)
            losses = self._recorded[key](micro_batch)
        if self._reduction is None:
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
        elif reduces:
            self._reduction.reduce()
        return losses

    def _compute(self, micro_batch: Any, accumulates: bool) -> Tensor:
        losses = self._loss_function(micro_batch)
        scaled = losses[0] * self._scale
        if self._reduction:
            self._reduction.fill(scaled, accumulates)
        else:
            self._leave_gradients(scaled, accumulates)
        return torch.stack([loss.detach() for loss in losses])

    def _leave_gradients(self, loss: Tensor, accumulates: bool) -> None:
        """In what backward of the first graph makes, which saves a copy: nothing else needs them elsewhere."""
        # Not backward(), whose accumulation belongs to the stream in which it first ran.
        gradients = torch.autograd.grad(loss, self._parameters)
        if not self._gradients:
            self._gradients = [gradient.contiguous() for gradient in gradients]
        elif accumulates:
            torch._foreach_add_(self._gradients, gradients)
        else:
            torch._foreach_copy_(self._gradients, gradients)


class _Recording:
    """One shape's inputs and outputs, and how to get from these to those."""

    def __init__(self, micro_batch: Any, record: Callable, compute: Callable[[Any, bool], Tensor], accumulates: bool):
        self._inputs = {name: tensor.clone() for name, tensor in _tensors(micro_batch).items()}
        static = dataclasses.replace(micro_batch, **self._inputs)

        def run() -> None:
            self._losses = compute(static, accumulates)

        self._replay = record(run)

    def __call__(self, micro_batch: Any) -> Tensor:
        for name, tensor in _tensors(micro_batch).items():
            self._inputs[name].copy_(tensor)
        self._replay()
        return self._losses.clone()


class CudaRecorder:
    """Records CUDA graphs that share their memory, as they run one after the other."""

    def __init__(self):
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Threads that load data may call CUDA meanwhile.
        recording = torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local")
        with no_garbage_collection(), recording:
            function()
        return graph.replay


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collects garbage first, and none inside.

    Graphs of an earlier run in this process may be part of a reference cycle. CUDA fails a recording during which it
    has to free one ("operation failed due to a previous error during capture").
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tensors(micro_batch: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(micro_batch).items() if isinstance(value, Tensor)}
