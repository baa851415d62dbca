"""How a batch is divided among processes and micro-batches, from the four flags that say so.

`--train_batch_size` is per process and optimizer step, as in NVIDIA's script, and so the global batch follows the
number of GPUs. `--global_batch_size` fixes that instead, as a recipe states it and a restart on fewer GPUs wants it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from common.errors import UserError
from common.words import counted


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Sequences per optimizer step: `micro` is what a device takes at once."""

    world_size: int
    micro: int
    accumulation_steps: int

    @property
    def per_step(self) -> int:
        """Micro-batches of an optimizer step, over all processes."""
        return self.accumulation_steps * self.world_size

    @property
    def overall(self) -> int:
        return self.micro * self.per_step

    def __str__(self) -> str:
        return (
            f"global batch {self.overall:,} = micro-batch {self.micro:,} x {self.accumulation_steps:,} accumulated x "
            f"{counted(self.world_size, 'process', 'processes')}"
        )


def resolve_batch_sizes(flags: Any, world_size: int, fitting: Callable[[int], int | None]) -> BatchSizes | None:
    """The batch sizes that the flags state; None where one of them is below 1, which is a problem of its own.

    Args:
        flags: the group `Optimization` of config/settings.py.
        fitting: from the sequences of a process to a micro-batch that divides them and fits the device, if any.
    """
    per_process, overall = flags.train_batch_size, flags.global_batch_size
    accumulation, micro = flags.gradient_accumulation_steps, flags.micro_batch_size
    if any(value is not None and value < 1 for value in (per_process, overall, accumulation, micro)):
        return None
    if overall is None:
        per_process = per_process or 32
        share = f"--train_batch_size {per_process}"
    elif per_process is not None:
        raise UserError(
            "--train_batch_size is per process and --global_batch_size over all of them", "give one of the two"
        )
    elif overall % world_size:
        raise UserError(
            f"--global_batch_size {overall} cannot be divided among {world_size} processes",
            "use a number of processes that divides it",
        )
    else:
        per_process = overall // world_size
        share = f"a process's share {per_process}"
    if accumulation and micro and accumulation * micro != per_process:
        raise UserError(
            f"--micro_batch_size {micro} times --gradient_accumulation_steps {accumulation} is {micro * accumulation}, "
            f"not {share} of the batch",
            "leave one of them out",
        )
    for name, divisor in (("gradient_accumulation_steps", accumulation), ("micro_batch_size", micro)):
        if divisor and per_process % divisor:
            raise UserError(f"{share} is not a multiple of --{name} {divisor}", "choose one that divides it")
    micro = micro or (per_process // accumulation if accumulation else fitting(per_process))
    if micro is None:
        raise UserError(
            "not even one sequence fits the memory of this device by our estimate",
            "use a smaller model, a shorter --max_seq_length or --checkpoint_activations, or try it with "
            "--micro_batch_size 1",
        )
    return BatchSizes(world_size, micro, per_process // micro)
