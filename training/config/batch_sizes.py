"""Global batch, share of a process, micro-batch: four flags, any of which may be given, and what they come to.

`--train_batch_size` is per process and optimizer step, as in NVIDIA's script, and so the global batch follows the
number of GPUs. `--global_batch_size` fixes that instead, which is what a recipe states and what a restart on fewer GPUs
wants.
"""

import argparse
import dataclasses
from collections.abc import Callable

from common.errors import Problems

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
    args: argparse.Namespace, world_size: int, fitting: Callable[[int], int | None], problems: Problems
) -> BatchSizes | None:
    """What the flags come to; None, with a problem noted, where they come to nothing.

    Args:
        args: `train_batch_size`, `global_batch_size`, `gradient_accumulation_steps` and `micro_batch_size`, each None
            where it was not given; values below 1 were complained of before.
        fitting: from the sequences of a process to a micro-batch that divides them and fits the device; None where not
            even one sequence does.
    """
    given = (args.train_batch_size, args.global_batch_size, args.gradient_accumulation_steps, args.micro_batch_size)
    if any(value is not None and value < 1 for value in given):
        return None
    per_process = _per_process(args, world_size, problems)
    if per_process is None:
        return None
    accumulation, micro = args.gradient_accumulation_steps, args.micro_batch_size
    flag = f"--train_batch_size {per_process}" if args.global_batch_size is None else f"a process's share {per_process}"
    if accumulation is not None and micro is not None and accumulation * micro != per_process:
        problems.add(
            f"--micro_batch_size {micro} times --gradient_accumulation_steps {accumulation} is {micro * accumulation}, "
            f"not {flag} of the batch",
            "leave one of them out",
        )
    elif accumulation is not None and per_process % accumulation:
        problems.add(
            f"{flag} is not a multiple of --gradient_accumulation_steps {accumulation}", "choose one that divides it"
        )
    elif micro is not None and per_process % micro:
        problems.add(f"{flag} is not a multiple of --micro_batch_size {micro}", "choose one that divides it")
    else:
        micro = micro or (per_process // accumulation if accumulation else fitting(per_process))
        if micro is not None:
            return BatchSizes(world_size, micro, per_process // micro)
        problems.add(
            "not even one sequence fits the memory of this device by our estimate",
            "use a smaller model, a shorter "
            "--max_seq_length or --checkpoint_activations, or try it with --micro_batch_size 1",
        )
    return None


def _per_process(args: argparse.Namespace, world_size: int, problems: Problems) -> int | None:
    if args.global_batch_size is None:
        return args.train_batch_size or DEFAULT_TRAIN_BATCH_SIZE
    if args.train_batch_size is not None:
        problems.add(
            "--train_batch_size is per process and --global_batch_size over all of them", "give one of the two"
        )
        return None
    if args.global_batch_size % world_size:
        problems.add(
            f"--global_batch_size {args.global_batch_size} cannot be divided among {world_size} processes",
            "use a number of processes that divides it",
        )
        return None
    return args.global_batch_size // world_size
