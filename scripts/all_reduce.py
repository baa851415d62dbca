"""Has the processes of a world add up numbers: whether they reach each other, and how fast.

    torchrun --standalone --nproc_per_node 8 scripts/all_reduce.py

One GPU per process, or the CPU. They meet as those of a training do, so what keeps these apart would keep those apart
too. The rate is what nccl-tests calls bus bandwidth: 2 (n - 1) / n times the bytes of the tensor, over the time.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from common.command_line import CommandLine
from common.errors import UserError, run_main
from training.distributed.world import connected, read_world
from training.metrics.measured_peak import mean_seconds

REPETITIONS = 5


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--megabytes", type=int, default=64, help="of the tensor that is added up (default: 64)")
    parser.add_argument("--startup_timeout", type=float, default=60, help="seconds to wait for all (default: 60)")
    args = parser.parse_args(argv)
    if args.megabytes < 1:
        parser.error(f"--megabytes is {args.megabytes}; give a whole number from 1 on.")
    return args


def main(argv: list[str] | None = None) -> None:
    """Add up, check the sum, time it; rank 0 prints a line."""
    args = parse_arguments(argv)
    n_gpus = torch.cuda.device_count()
    world = read_world(n_gpus=n_gpus)
    device = torch.device("cuda", world.local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        torch.cuda.set_device(device)
    with connected(world, device, args.startup_timeout, f"{args.megabytes} MB") as world:
        if world.size == 1:
            print("1 process, which has nobody to add up with")
            return
        values = torch.full((args.megabytes * 250_000,), float(world.rank + 1), device=device)
        world.sum_(values)
        expected = world.size * (world.size + 1) / 2
        if not bool((values == expected).all()):
            raise UserError(
                f"rank {world.rank}: the sum is not {expected} everywhere", "see what NCCL_DEBUG=INFO prints"
            )
        seconds = mean_seconds(lambda: world.sum_(values), REPETITIONS, device)
        rate = 2 * (world.size - 1) / world.size * values.nbytes / seconds / 1e9
        if world.is_first:
            backend = "NCCL" if n_gpus else "gloo"
            print(f"{world.size} processes added up {args.megabytes} MB by {backend}: right, {rate:,.1f} GB/s")


if __name__ == "__main__":
    run_main(main)
