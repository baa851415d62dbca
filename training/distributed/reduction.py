"""Which reduction a run takes: an all-reduce by NCCL, or by gloo on the CPU, unless copy engines are asked for.

The all-reduce is the default until copy engines have run on GPUs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from training.distributed import copy_engines
from training.distributed.bucket_reduction import BucketReduction
from training.distributed.data_parallel import average
from training.distributed.world import World


class Reduction(NamedTuple):
    """A reduction, and what a user is told of it."""

    buckets: BucketReduction
    by: str
    """What moves gradients between ranks, in a word or two."""
    warning: str | None = None


def choose_reduction(
    parameters: Sequence[Tensor],
    begin: Callable[[], None],
    world: World,
    device: torch.device,
    way: str,
    reduce_dtype: str,
) -> Reduction:
    """The same choice on all ranks, which all call it.

    Args:
        parameters, begin: as `BucketReduction` takes them.
        way: `nccl`, `copy_engines`, or `auto`: these where they can.
        reduce_dtype: one of `data_parallel.REDUCE_DTYPES`.

    Raises:
        UserError: copy engines are asked for, and cannot.
    """
    by, warning = "NCCL" if device.type == "cuda" else "gloo", None
    if way != "nccl":
        try:
            copy_engines.check(world, device, reduce_dtype)
            buckets = copy_engines.reduction_by_copy_engines(parameters, begin, world, device)
            return Reduction(buckets, "copy engines")
        except copy_engines.CopyEnginesError as error:
            if way == "copy_engines":
                given = "--reduction is copy_engines, and copy engines cannot average gradients"
                raise UserError(f"{given}: {error}", "leave it out") from error
            warning = f"copy engines cannot average gradients, so {by} does: {error}"
    by_all_reduce = functools.partial(average, reduce_dtype=reduce_dtype)
    return Reduction(BucketReduction(parameters, by_all_reduce, begin), by, warning)
