"""What a search for settings runs: each kernel of kernels/tuning.py on inputs of a training step, and what to try.

A pass draws its inputs when it is made, always the same, and may overwrite them when it runs: what settings compute is
compared by new passes, and a pass that is timed may run on what it has left.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.workloads.attention_inputs import random_inputs
from kernels.cross_entropy import linear_cross_entropy
from modeling import BertForPreTraining
from models.config import BertConfig
from models.encoder import BertEmbeddings

Pass = Callable[[], Sequence[Tensor]]
MASKED_SHARE = 20 / 128  # of tokens, in phase 1
DROPOUT, SEED = 0.1, 1234
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
    in_fp8: bool = False


def workloads() -> dict[str, Workload]:
    """By the kernel's entry in kernels/tuning.py."""
    adam = {"chunk": (4096, 8192, 16384), "tile": (512, 1024, 2048), "num_warps": (4, 8), "maxnreg": (48, 64, 128)}
    second = {"tile": (512, 1024, 2048, 4096), "num_warps": (2, 4, 8)}
    sums = {"block_rows": (128, 256, 512), "block_columns": (8, 16, 32), "num_warps": (4, 8), "maxnreg": (64, 96, 128)}
    return {
        **_encoder_workloads(),
        "adam_pass": Workload(partial(_optimizers, are_lamb=(False, True)), adam),
        "lamb_second_pass": Workload(partial(_optimizers, are_lamb=(True,)), second),
        "column_sums": Workload(_column_sums, sums),
        **_attention_workloads(),
        "softmax": Workload(
            _softmax, {"block_rows": (1, 2, 4), "block_columns": (2048, 4096, 8192), "num_warps": (4, 8, 16)}
        ),
        "cross_entropy": Workload(_cross_entropy, {"rows_per_block": (512, 1024, 2048, 4096)}),
    }


def _encoder_workloads() -> dict[str, Workload]:
    whole_rows = {"elements": (2048, 4096, 8192), "num_warps": (2, 4, 8, 16)}
    several_rows = {"block_rows": (1, 2, 4), "num_warps": (2, 4, 8)}
    tiles = {"block_rows": (32, 64, 128), "block_columns": (32, 64, 128), "num_warps": (4, 8)}
    return {
        "gelu": Workload(partial(_gelu, is_forward=True), whole_rows),
        **_gradients(),
        "dropout_add_norm": Workload(partial(_dropout_add_norm, is_forward=True), several_rows),
        "embeddings": Workload(partial(_embeddings, is_forward=True), several_rows),
        "embeddings_gradient": Workload(
            partial(_embeddings, is_forward=False),
            {
                "block_rows": (1, 2),
                "num_warps": (1, 2, 4),
                "blocks_per_multiprocessor": (3, 4, 6, 8),
                "stages": (1, 2, 3),
            },
        ),
        "quantize_rows": Workload(_quantize_rows, whole_rows, True),
        "quantize_weights": Workload(_quantize_weights, {"tile": (32, 64, 128), "num_warps": (4, 8)}, True),
        "transpose": Workload(_transpose, tiles, True),
    }


def _gradients() -> dict[str, Workload]:
    """By kernels/fused/fp8.py's kinds of results, of which some have columns of their own."""
    gelu = {"elements": (4096, 8192), "num_warps": (4, 8, 16), "blocks_per_multiprocessor": (2, 3, 4, 5)}
    norm = {"block_rows": (1, 2), "num_warps": (1, 2, 4), "blocks_per_multiprocessor": (3, 4, 6, 8)}
    found = {}
    for kernel, make, grid, wide, narrow in (
        ("gelu_gradient", _gelu, gelu, 4096, 3072),
        ("dropout_add_norm_gradients", _dropout_add_norm, norm, 1024, 768),
    ):
        kinds = {
            "": {},
            "/fp8": {"to_fp8": True},
            "/fp8_alone": {"alone": wide},
            "/fp8_alone_narrow": {"alone": narrow},
        }
        for kind, result in kinds.items():
            work = partial(make, is_forward=False, **result)
            found[kernel + kind] = Workload(work, {**grid, "stages": (1, 2, 3)}, in_fp8=bool(kind))
    return found


def _gelu(step: Step, is_forward: bool, to_fp8: bool = False, alone: int = 0) -> Pass:
    """With the result in fp8 beside, or alone, of so many columns."""
    from kernels.fused.gelu import gelu, gelu_backward_  # needs Triton

    shape = step.n_tokens, alone or step.config.intermediate_size
    inputs, gradient = step.draw(*shape), step.draw(*shape, seed=1)
    rows = _result_rows(step, shape[1], to_fp8, bool(alone))

    def run() -> list[Tensor]:
        results = (gelu(inputs, rows),) if is_forward else gelu_backward_(gradient, inputs, rows)
        return [tensor for tensor in (*results, *(rows or ())) if tensor is not None]

    return run


def _dropout_add_norm(step: Step, is_forward: bool, to_fp8: bool = False, alone: int = 0) -> Pass:
    """As `_gelu`."""
    from kernels.fused.dropout_add_norm import dropout_add_norm_, dropout_add_norm_backward  # needs Triton

    shape, seed = (step.n_tokens, alone or step.config.hidden_size), torch.tensor([SEED], device=step.device)
    summed, residual, *gradients = (step.draw(*shape, seed=number) for number in range(4))
    weight, bias = (step.draw(shape[1], dtype=torch.float32, seed=number) for number in range(2))
    forward = partial(dropout_add_norm_, summed, residual, weight, bias, 1e-12, DROPOUT, seed)
    if is_forward:
        return lambda: [*forward()[:3], summed]
    _, mean, scale, *_ = forward()
    rows = _result_rows(step, shape[1], to_fp8, bool(alone))

    def run() -> list[Tensor]:
        results = dropout_add_norm_backward(gradients, summed, mean, scale, weight, DROPOUT, seed, rows)
        return [tensor for tensor in (*results, *(rows or ())) if tensor is not None]

    return run


def _embeddings(step: Step, is_forward: bool) -> Pass:
    module = BertEmbeddings(step.config, "torch").to(step.device)
    module.is_fused = True
    for parameter, number in zip(module.parameters(), range(5), strict=True):
        parameter.data.copy_(step.draw(*parameter.shape, dtype=torch.float32, seed=number))
    tokens = torch.arange(step.n_tokens, device=step.device)
    config = step.config
    ids = [tokens % n for n in (config.vocab_size, config.type_vocab_size, config.max_position_embeddings)]

    def run() -> list[Tensor]:
        torch.manual_seed(SEED)
        states = module(*ids, step.dtype).states
        return [states.detach()] if is_forward else list(torch.autograd.grad(states.sum(), list(module.parameters())))

    return run


def _result_rows(step: Step, n_columns: int, to_fp8: bool, is_alone: bool):
    from kernels.fused.fp8 import empty_rows  # needs Triton

    if not to_fp8 and not is_alone:
        return None
    return empty_rows(step.n_tokens, n_columns, step.device, torch.zeros(1, device=step.device) if is_alone else None)


def _quantize_rows(step: Step) -> Pass:
    from kernels.fused.fp8 import quantize_rows  # needs Triton

    matrix = step.draw(step.n_tokens, step.config.hidden_size)
    return lambda: quantize_rows(matrix)[:2]


def _quantize_weights(step: Step) -> Pass:
    from kernels.fused.fp8 import quantize_weights  # needs Triton

    shape = step.config.intermediate_size, step.config.hidden_size
    weights = [step.draw(*shape, dtype=torch.float32, seed=seed) for seed in range(step.config.num_hidden_layers)]
    return lambda: [part for weight in quantize_weights(weights) for part in weight]


def _transpose(step: Step) -> Pass:
    from kernels.fused.fp8 import empty_rows, quantize_rows, transposed  # needs Triton

    shape = step.n_tokens, step.config.intermediate_size
    rows = quantize_rows(step.draw(*shape), empty_rows(*shape, step.device, torch.zeros(1, device=step.device)))
    return lambda: [transposed(rows)]


def _attention_workloads() -> dict[str, Workload]:
    whole = {"num_warps": (4, 8), "maxnreg": (128, 168, 255)}
    compiled = {"num_warps": (4, 8), "num_stages": (1, 2, 3)}
    blocks = {"block_queries": (64, 128), "block_keys": (64, 128), **compiled}
    fp32 = {"block_queries": (32, 64), "block_keys": (32, 64), **compiled}
    found = {}
    for inputs, length in (("", 64), ("/longest", 128)):
        forward, backward = (partial(_attention, lengths=(length,), is_forward=way) for way in (True, False))
        found["attention_forward_whole" + inputs] = Workload(forward, {"block_queries": (32, 64, 128), **whole})
        found["attention_backward_whole" + inputs] = Workload(backward, {"block_keys": (length // 2, length), **whole})
    narrow = "", 64, None, {**blocks, "maxnreg": (128, 255)}
    for inputs, head_size, dtype, grid in (narrow, ("/wide", 128, None, blocks), ("/fp32", 64, torch.float32, fp32)):
        for kernel in ("attention_forward_blocks", "attention_backward_queries", "attention_backward_keys"):
            is_forward = "forward" in kernel
            make = partial(_attention, lengths=(384, 512), is_forward=is_forward, head_size=head_size, dtype=dtype)
            found[kernel + inputs] = Workload(make, grid)
    return found


def _attention(
    step: Step, lengths: Sequence[int], is_forward: bool, head_size: int = 64, dtype: torch.dtype | None = None
) -> Pass:
    """Both of its directions have kernels of their own; backward's two are in one pass."""
    from kernels.attention.short import short_attention, short_attention_backward  # needs Triton

    seed = torch.tensor([SEED], device=step.device)
    calls = []
    for length in {min(length, step.n_tokens) for length in lengths}:
        heads = max(1, step.config.hidden_size // head_size), head_size
        inputs = random_inputs(step.n_tokens // length, length, None, heads, dtype or step.dtype, step.device)
        rest = inputs.cu_seqlens, length, DROPOUT, seed
        forward = partial(short_attention, inputs.qkv, *rest)
        backward = partial(short_attention_backward, inputs.gradient, inputs.qkv)
        calls.append(forward if is_forward else partial(backward, *forward(), *rest))
    return lambda: [tensor for call in calls for tensor in call()]


def _optimizers(step: Step, are_lamb: Sequence[bool]) -> Pass:
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
    updates = [GroupUpdate(takes_ratios=is_lamb) for is_lamb in are_lamb]

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


def _softmax(step: Step) -> Pass:
    from kernels.fused.softmax import loss_and_gradient_  # needs Triton

    n_rows, n_classes = max(1, int(step.n_tokens * MASKED_SHARE)), step.config.padded_vocab_size
    logits, bias = step.draw(n_rows, n_classes), torch.zeros(n_classes, device=step.device)
    labels = torch.arange(n_rows, device=step.device) % n_classes
    return lambda: [logits, *loss_and_gradient_(logits, bias, labels)]


def _cross_entropy(step: Step) -> Pass:
    n_rows, n_classes = max(1, int(step.n_tokens * MASKED_SHARE)), step.config.padded_vocab_size
    hidden = step.draw(n_rows, step.config.hidden_size).requires_grad_()
    weight = step.draw(n_classes, step.config.hidden_size, dtype=torch.float32).mul_(0.02).requires_grad_()
    bias = torch.zeros(n_classes, device=step.device, requires_grad=True)
    labels = torch.arange(n_rows, device=step.device) % n_classes

    def run() -> list[Tensor]:
        loss = linear_cross_entropy(hidden, weight, bias, labels, "triton")
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight, bias))]

    return run
