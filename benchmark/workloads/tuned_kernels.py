"""What a search for settings runs: each kernel of kernels/tuning.py on inputs of a training step, and what to try.

A pass draws its inputs when it is made, always the same, and may overwrite them when it runs: what settings compute is
compared by new passes, and a pass that is timed may run on what it has left.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.cross_entropy import linear_cross_entropy
from modeling import BertForPreTraining
from models.config import BertConfig

Pass = Callable[[], Sequence[Tensor]]
MASKED_SHARE = 20 / 128  # of tokens, in phase 1
PARTIAL_ROWS = 528  # that the kernels before `column_sums` leave: four thread blocks on each of an H200's 132 SMs


class Step(NamedTuple):
    """The training step that kernels are given parts of."""

    config: BertConfig
    n_tokens: int
    dtype: torch.dtype
    """Of activations."""
    device: torch.device

    def draw(self, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> Tensor:
        """Normal random numbers, in the dtype of activations or another."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=generator, device=self.device, dtype=dtype or self.dtype)


class Workload(NamedTuple):
    """What a kernel's settings are tried on."""

    make: Callable[[Step], Pass]
    grid: Mapping[str, Sequence[int]]
    """The values of each setting that are tried, with each other."""


def workloads() -> dict[str, Workload]:
    """By the kernel's entry in kernels/tuning.py."""
    adam = {"chunk": (4096, 8192, 16384), "tile": (512, 1024, 2048), "num_warps": (4, 8), "maxnreg": (48, 64, 128)}
    sums = {"block_rows": (128, 256, 512), "block_columns": (8, 16, 32), "num_warps": (4, 8), "maxnreg": (64, 96, 128)}
    return {
        "adam_pass": Workload(_optimizers, adam),
        "lamb_second_pass": Workload(_optimizers, {"tile": (512, 1024, 2048, 4096), "num_warps": (2, 4, 8)}),
        "column_sums": Workload(_column_sums, sums),
        "cross_entropy": Workload(_cross_entropy, {"rows_per_block": (512, 1024, 2048, 4096)}),
    }


def _optimizers(step: Step) -> Pass:
    from kernels.optimizers import GroupUpdate  # needs Triton

    config = dataclasses.replace(
        step.config, num_hidden_layers=min(4, step.config.num_hidden_layers)
    )  # far above a cache
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in BertForPreTraining(config).parameters()]
    columns = [[step.draw(*shape, dtype=torch.float32, seed=seed) for shape in shapes] for seed in range(4)]
    columns[3] = [squares.square_() for squares in columns[3]]
    group = {"lr": 1e-6, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "step": 10, "n_blocks": 1}
    divisor = torch.ones((), device=step.device)
    updates = GroupUpdate(takes_ratios=False), GroupUpdate(takes_ratios=True)

    def run() -> list[Tensor]:
        for update in updates:
            update(*columns, group, divisor)
        return [tensor for column in columns for tensor in column]

    return run


def _column_sums(step: Step) -> Pass:
    from kernels.column_sums import column_sums  # needs Triton

    widths = 3 * step.config.hidden_size, step.config.intermediate_size
    matrices = [step.draw(PARTIAL_ROWS, width, dtype=torch.float32) for width in widths]
    return lambda: [column_sums(matrix) for matrix in matrices]


def _cross_entropy(step: Step) -> Pass:
    n_rows, n_classes = max(1, int(step.n_tokens * MASKED_SHARE)), step.config.padded_vocab_size
    hidden = step.draw(n_rows, step.config.hidden_size).requires_grad_()
    weight = step.draw(n_classes, step.config.hidden_size, dtype=torch.float32).mul_(0.02).requires_grad_()
    bias = torch.zeros(n_classes, device=step.device, requires_grad=True)
    labels = torch.arange(n_rows, device=step.device) % n_classes

    def run() -> list[Tensor]:
        loss = linear_cross_entropy(hidden, weight, bias, labels)
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight, bias))]

    return run
