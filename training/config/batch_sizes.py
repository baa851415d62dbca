"""How a batch is divided among processes and micro-batches, from the four flags that say so.

`--train_batch_size` is per process and optimizer step, as in NVIDIA's script, and so the global batch follows the
number of GPUs. `--global_batch_size` fixes that instead, which is what a recipe states and what a restart on fewer GPUs
wants.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from training.config.settings import Optimization

DEFAULT_TRAIN_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Sequences per optimizer step, and how they are divided."""

    world_size: int
    micro: int
    """What a device takes at once."""
    accumulation_steps: int

    @property
    def per_process(self) -> int:
        return self.micro * self.accumulation_steps

    @property
    def overall(self) -> int:
        return self.per_process * self.world_size

    def __str__(self) -> str:
        processes = "process" if self.world_size == 1 else "processes"
        return (
            f"global batch {self.overall:,} = micro-batch {self.micro:,} x {self.accumulation_steps:,} accumulated x "
            f"{self.world_size:,} {processes}"
        )


def resolve_batch_sizes(
    flags: "Optimization", world_size: int, fitting: Callable[[int], int | None]
) -> BatchSizes | None:
    """The batch sizes that the flags state; None where one of them is below 1, which is a problem of its own.

    Args:
        flags: `train_batch_size`, `global_batch_size`, `gradient_accumulation_steps` and `micro_batch_size`, each None
            where it was not given.
        world_size: processes.
        fitting: from the sequences of a process to a micro-batch that divides them and fits the device; None where not
            even one sequence does.

    Raises:
        UserError: they cannot be divided so.
    """
    accumulation, micro = flags.gradient_accumulation_steps, flags.micro_batch_size
    given = (flags.train_batch_size, flags.global_batch_size, accumulation, micro)
    if any(value is not None and value < 1 for value in given):
        return None
    per_process = _per_process(flags, world_size)
    flag = (
        f"--train_batch_size {per_process}" if flags.global_batch_size is None else f"a process's share {per_process}"
    )
    if accumulation is not None and micro is not None and accumulation * micro != per_process:
        raise UserError(
            f"--micro_batch_size {micro} times --gradient_accumulation_steps {accumulation} is {micro * accumulation}, "
            f"not {flag} of the batch",
            "leave one of them out",
        )
    if accumulation is not None and per_process % accumulation:
        raise UserError(
            f"{flag} is not a multiple of --gradient_accumulation_steps {accumulation}", "choose one that divides it"
        )
    if micro is not None and per_process % micro:
        raise UserError(f"{flag} is not a multiple of --micro_batch_size {micro}", "choose one that divides it")
    micro = micro or (per_process // accumulation if accumulation else fitting(per_process))
    if micro is None:
        raise UserError(
            "not even one sequence fits the memory of this device by our estimate",
            "use a smaller model, a shorter --max_seq_length or --checkpoint_activations, or try it with "
            "--micro_batch_size 1",
        )
    return BatchSizes(world_size, micro, per_process // micro)


def _per_process(flags: "Optimization", world_size: int) -> int:
    if flags.global_batch_size is None:
        return flags.train_batch_size or DEFAULT_TRAIN_BATCH_SIZE
    if flags.train_batch_size is not None:
        raise UserError(
            "--train_batch_size is per process and --global_batch_size over all of them", "give one of the two"
        )
    if flags.global_batch_size % world_size:
        raise UserError(
            f"--global_batch_size {flags.global_batch_size} cannot be divided among {world_size} processes",
            "use a number of processes that divides it",
        )
    return flags.global_batch_size // world_size
