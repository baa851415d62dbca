#!/usr/bin/env python3
"""What to expect of many GPUs: a step's seconds, by arithmetic on bytes, on links, and on measurements of few GPUs.

  python3 benchmark/scaling_model.py
  python3 benchmark/scaling_model.py --num_gpus 1024 --gigabytes 0.67 --loader_rate 1e9

A ring or two trees, whichever is faster, reduce each bucket of gradients: within a node after the last backward pass.
Between nodes, at best, all but one bucket hides behind that pass, and no host is behind its GPU. At worst nothing
hides, NCCL's kernels slow the backward pass too, and a micro-batch takes its host --launch_ms. No step is faster than
the loader. docs/distributed.md has the table, where the defaults come from, and the doubts.

Sources: Patarasuk and Yuan 2009 (ring); Sanders, Speck and Träff 2009 (two trees); NCCL, src/graph/tuning.cc (hops and
their latencies).
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import parser_of
from benchmark.tables import Table
from common.errors import Problems, run_main

BACKWARD_SHARE = 2 / 3  # of forward and backward pass


def _of(default: float, about: str) -> float:
    return dataclasses.field(default=default, metadata={"help": about})


@dataclasses.dataclass(frozen=True)
class Model:
    """A training run on nodes of GPUs; the defaults are phase 1 of BERT-large on H100 or H200. Each field is a flag."""

    global_batch: int = _of(65536, "sequences of an optimizer step")
    micro_batch: int = _of(512, "the most sequences that a GPU takes at once")
    steps: int = _of(7038, "optimizer steps of the run")
    rate: float = _of(2090.0, "sequences/s of one GPU, without the update")
    update_ms: float = _of(5.0, "of the optimizer, in a step")
    launch_ms: float = _of(68.0, "that a host takes for a micro-batch without CUDA graphs")
    slowdown_ms: float = _of(12.5, "of a backward pass that shares its GPU with NCCL's kernels")
    loader_rate: float = _of(550000.0, "sequences/s of a process, which reads those of all GPUs")
    gigabytes: float = _of(1.345, "of gradients that are reduced; in 16 bits half as many")
    buckets: int = _of(25, "reductions of a step, a bucket of gradients each")
    gpus_per_node: int = _of(8, "joined by NVLink")
    nvlink: float = _of(450.0, "GB/s of a GPU in each direction")
    network: float = _of(50.0, "GB/s of a GPU's adapter in each direction")
    nvlink_us: float = _of(4.0, "of a hop within a node")
    network_us: float = _of(14.0, "of a hop between nodes")

    def ring(self, n_gpus: int) -> float:
        """Seconds of a reduction in 2 (n - 1) hops, in each of which each link carries an nth of the bytes.

        There is a ring for each GPU of a node, so that each adapter carries one.
        """
        hops, between = 2 * (n_gpus - 1), 2 * (self._nodes(n_gpus) - 1)
        latency = 1e-6 * (between * self.network_us + (hops - between) * self.nvlink_us)
        return hops / n_gpus * self._transfer(n_gpus) + self.buckets * latency

    def tree(self, n_gpus: int) -> float:
        """Seconds of a reduction by two trees over the nodes, each of half the bytes, and a chain within each node."""
        within, depth = min(n_gpus, self.gpus_per_node) - 1, math.ceil(math.log2(self._nodes(n_gpus)))
        latency = 2e-6 * (depth * self.network_us + within * self.nvlink_us)
        return 2 * self._transfer(n_gpus) + self.buckets * latency

    def loader(self) -> float:
        """Seconds in which a process has read a step's samples."""
        return self.global_batch / self.loader_rate

    def micro_batches(self, n_gpus: int) -> int:
        """Those of a GPU in a step."""
        return math.ceil(self.global_batch / n_gpus / self.micro_batch)

    def step(self, n_gpus: int) -> tuple[float, float]:
        """Seconds of a step, at best and at worst; one GPU records graphs, and reduces nothing."""
        compute, update = self.global_batch / n_gpus / self.rate, self.update_ms / 1e3
        if n_gpus == 1:
            return (max(compute + update, self.loader()),) * 2
        reduction, n_micro = min(self.ring(n_gpus), self.tree(n_gpus)), self.micro_batches(n_gpus)
        hidden = BACKWARD_SHARE * compute / n_micro if self._nodes(n_gpus) > 1 else 0.0
        left = max(reduction - hidden, reduction / self.buckets)
        launched = max(compute, n_micro * self.launch_ms / 1e3)
        worst = launched + update + reduction + self.slowdown_ms / 1e3
        return max(compute + update + left, self.loader()), max(worst, self.loader())

    def _nodes(self, n_gpus: int) -> int:
        return math.ceil(n_gpus / self.gpus_per_node)

    def _transfer(self, n_gpus: int) -> float:
        """Seconds in which a GPU sends all its gradients once."""
        between_nodes = min(self.nvlink, self.gpus_per_node * self.network)
        return self.gigabytes / (self.nvlink if self._nodes(n_gpus) == 1 else between_nodes)


def table(model: Model, counts: Sequence[int]) -> Table:
    """A row for each number of GPUs."""
    rows, (alone, _) = [], model.step(1)
    for n_gpus in counts:
        best, worst = model.step(n_gpus)
        rows.append(
            {
                "GPUs": f"{n_gpus:,}",
                "micro-batches": f"{model.micro_batches(n_gpus):,}",
                "ring, ms": f"{1e3 * model.ring(n_gpus):,.1f}",
                "tree, ms": f"{1e3 * model.tree(n_gpus):,.1f}",
                "loader, ms": f"{1e3 * model.loader():,.0f}",
                "step, ms": f"{1e3 * best:,.1f} to {1e3 * worst:,.1f}",
                "of linear": f"{alone / n_gpus / best:.1%} to {alone / n_gpus / worst:.1%}",
                "hours": f"{model.steps * best / 3600:,.2f} to {model.steps * worst / 3600:,.2f}",
            }
        )
    return Table("Expected, not measured", rows)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--num_gpus", type=int, nargs="+", default=[8, 64, 1024], help="numbers of GPUs")
    for each in dataclasses.fields(Model):
        parser.add_argument(f"--{each.name}", type=each.type, default=each.default, help=each.metadata["help"])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    flags = vars(parse_arguments(arguments))
    problems = Problems()
    for name, value in flags.items():
        least = min(value) if isinstance(value, list) else value
        problems.check(least > 0, f"--{name} is {least}", "it must be greater than zero")
    problems.raise_if_any()
    counts = flags.pop("num_gpus")
    print(table(Model(**flags), counts).plain())


if __name__ == "__main__":
    run_main(main)
