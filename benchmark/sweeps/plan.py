"""The measurements of a scaling table: the same work per GPU on 1, 2, 4, 8 of them, the most wanted first."""

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from benchmark.sweeps.points import OPTIMIZERS
from benchmark.sweeps.record import all_flags
from common.words import counted

SECONDS_TO_START = 25.0  # of a process of BERT-large on an H200: imports, CUDA, the model, the first steps


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained on, and how much at once."""

    entry: str
    """`pretrain` or `squad`."""
    max_seq_length: int
    synthetic: str
    """Lengths of the random sequences, as the flag."""
    micro_batch: int
    """Of BERT-large on GPUs with 80 GB."""
    rate: float
    """Sequences per second of BERT-large in bf16 on an H200 (docs/performance-log.md, section 19), for estimates."""


WORKLOADS = MappingProxyType(
    {
        "phase1": Workload("pretrain", 128, "full", 256, 2100.0),
        "phase2": Workload("pretrain", 512, "full", 64, 465.0),
        "unpadded": Workload("pretrain", 512, "254", 128, 945.0),
        "squad": Workload("squad", 384, "full", 32, 630.0),
    }
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A measurement of the plan: the workload's name, and the point's configuration."""

    workload: str
    configuration: Mapping[str, Any]

    @property
    def n_gpus(self) -> int:
        return self.configuration["n_gpus"]

    @property
    def estimate(self) -> float:
        """Seconds on an H200."""
        sequences = self.configuration["stop"] * self.configuration["batch_size"]
        return SECONDS_TO_START + sequences / WORKLOADS[self.workload].rate

    @property
    def data(self) -> list[str]:
        """Flags of what to train on."""
        return ["--synthetic", WORKLOADS[self.workload].synthetic]

    @property
    def resources(self) -> str:
        """Processes and micro-batches, in words."""
        accumulated = self.configuration["accumulation_steps"]
        batches = "every micro-batch" if accumulated == 1 else f"every {accumulated} micro-batches"
        return f"{counted(self.n_gpus, 'process', 'processes')}, reduced after {batches}"

    @property
    def folder_name(self) -> str:
        """Of its log; no two jobs of a plan have the same."""
        parts = "{precision} {n_gpus}x{batch_size} {accumulation_steps}".format(**self.configuration)
        return f"{self.workload}_{parts.replace(' ', '_')}"

    def __str__(self) -> str:
        return f"{self.workload}, {self.configuration['precision']}, {self.resources}"


def plan(args: argparse.Namespace, environment: Mapping[str, Any]) -> list[list[Job]]:
    """The jobs, in groups of as many GPUs and micro-batches, the most wanted first.

    One GPU, to which all others are compared, then all GPUs, then what lies between.

    Args:
        args: of benchmark/scaling.py, with `precisions` and `num_gpus`.
        environment: by `describe_machine`.
    """
    counts = sorted(set(args.num_gpus), key=lambda n_gpus: (n_gpus > 1, -n_gpus))
    return [
        [
            Job(workload, _configuration(args, environment, workload, precision, n_gpus, accumulation_steps))
            for precision, workload in itertools.product(_distinct(args.precisions), _distinct(args.workloads))
        ]
        for accumulation_steps, n_gpus in itertools.product(_distinct(args.accumulation_steps), counts)
    ]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _configuration(
    args: argparse.Namespace,
    environment: Mapping[str, Any],
    name: str,
    precision: str,
    n_gpus: int,
    accumulation_steps: int,
) -> dict[str, Any]:
    workload = WORKLOADS[name]
    return {
        "workload": workload.entry,
        "model": args.bert_model,
        "max_seq_length": workload.max_seq_length,
        "precision": precision,
        "compile": bool(args.compile),
        "n_gpus": n_gpus,
        "batch_size": (args.micro_batch or workload.micro_batch) * accumulation_steps,
        "accumulation_steps": accumulation_steps,
        "optimizer": OPTIMIZERS[workload.entry],
        "lengths": "full" if workload.synthetic == "full" else f"evenly around {workload.synthetic}",
        "start": args.start,
        "stop": args.stop,
        "flags": all_flags(environment, precision, args.extra),
    }
