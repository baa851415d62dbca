"""How a model runs on this device: precision, kernels, attention, CUDA graphs and micro-batches.

Each is given by a flag or follows from the device by one policy: `kernels.defaults.fast_paths`, by what was measured,
and `models.memory`, by what fits. `resolve_*` are pure and return settings; `*_problems` say what cannot run here.
"""

import dataclasses
import os
from collections.abc import Iterator

import torch
from torch import nn

from common.errors import Problem, Problems, UserError
from kernels.attention.backends import BACKENDS, default_backend
from kernels.defaults import fast_paths
from kernels.launch import triton_problem
from kernels.layers import layer_norm_function
from models.config import BertConfig, Execution
from models.fused_variants import fused_problems
from models.memory import MemoryEstimate
from training.config.batch_sizes import resolve_batch_sizes
from training.config.precision import precision_problem, resolve_precision
from training.config.settings import Settings
from training.distributed.world import World

CPU_MICRO_BATCH = 32  # the most on a CPU, whose caches are small


def resolve_execution(settings: Settings, config: BertConfig | None) -> Settings:
    """Fill in precision, kernels and attention; the precision stays None where the device cannot compute in it."""
    name, device = settings.precision_name, settings.device
    precision = None if name and precision_problem(name, device) else resolve_precision(name, device)
    settings = dataclasses.replace(settings, precision=precision, model=config)
    flags = settings.runtime
    fast = fast_paths(device, precision.compute_dtype) if precision and config else None
    kernels, attention = flags.kernels, flags.attention
    if kernels is None:
        is_fused = fast is not None and not list(fused_problems(config, flags.layer_norm, in_fp8=False))
        kernels = fast.kernels if is_fused else "torch"
    if attention is None and fast is not None and fast.attention and kernels == fast.kernels:
        shape = precision.compute_dtype, config.head_size, settings.max_seq_length
        attention = None if BACKENDS[fast.attention].problem(device, *shape) else fast.attention
    return settings.with_resolved("runtime", kernels=kernels, attention=attention)


def execution_problems(settings: Settings) -> Iterator[Problem]:
    """Where the kernels asked for are not installed, cannot run here, or do not compute this model."""
    flags, device, config = settings.runtime, settings.device, settings.model
    try:
        layer_norm_function(flags.layer_norm)
    except UserError as error:
        yield from error.problems
    reason = triton_problem(device)
    if flags.kernels == "triton":
        if reason:
            yield Problem(f"--kernels triton: {reason}", "use --kernels torch")
        if config is not None:
            yield from fused_problems(config, flags.layer_norm, in_fp8=settings.precision_name == "fp8")
    else:
        for name, value, other in (("attention", flags.attention, "sdpa"), ("precision", flags.precision, "bf16")):
            if value in ("triton", "fp8"):
                what = f"--{name} {value} is of the kernels written in Triton alone"
                yield Problem(f"{what}; {reason}", f"use {other}") if reason else Problem(what, "add --kernels triton")
    if flags.fp8_weight_gradients and settings.precision_name != "fp8":
        yield Problem("--fp8_weight_gradients is for the matmuls of --precision fp8", "add that, or leave it out")
    has_backend = flags.attention != "triton" or (flags.kernels == "triton" and not reason)
    if flags.attention and config is not None and has_backend and settings.precision:
        dtype = settings.precision.compute_dtype
        problem = BACKENDS[flags.attention].problem(device, dtype, config.head_size, settings.max_seq_length)
        if problem:
            yield problem
    if flags.cuda_graphs:
        for is_so, why in (
            (not settings.trains, "is for training, and there is no --do_train"),
            (device.type != "cuda", f"needs an NVIDIA GPU, and this run is on {device.type}"),
            (flags.checkpoint_activations, "cannot record the random states that --checkpoint_activations saves"),
        ):
            if is_so:
                yield Problem(f"--cuda_graphs {why}", "leave it out")


def resolve_batches(
    settings: Settings, model_class: type[nn.Module], world: World, problems: Problems, n_read: int | None = None
) -> Settings:
    """Divide the global batch into micro-batches, the same on all ranks, and choose CUDA graphs. All ranks call it.

    `n_read` is the task's.
    """
    estimate = _memory_estimate(settings, model_class, n_read)
    device, length, batches = settings.device, settings.max_seq_length, None

    def fitting(batch_size: int) -> int | None:
        if estimate is None or device.type == "cpu":
            return max(size for size in range(1, min(batch_size, CPU_MICRO_BATCH) + 1) if batch_size % size == 0)
        return estimate.largest_micro_batch(_memory_bytes(device), batch_size, length)

    if estimate is not None:
        problems.extend([_weights_problem(settings, estimate.n_parameters)])
    with problems.collect():
        batches = resolve_batch_sizes(settings.optimization, world.size, fitting)
    sizes = sorted({size for size in world.gather(batches and batches.micro) if size is not None})
    problems.check(
        len(sizes) < 2,
        f"the GPUs have room for different micro-batches, of {', '.join(map(str, sizes))} sequences, and all must take "
        "the same",
        f"give --micro_batch_size {min(sizes, default=1)}",
    )
    settings = dataclasses.replace(settings, batches=batches)
    if settings.runtime.cuda_graphs is not None:
        return settings
    pay_everywhere = all(world.gather(_graphs_pay(settings, estimate)))
    return settings.with_resolved("runtime", cuda_graphs=pay_everywhere)


def _graphs_pay(settings: Settings, estimate: MemoryEstimate | None) -> bool:
    """Whether CUDA graphs can be recorded, were measured to be faster, and fit the memory."""
    flags, device = settings.runtime, settings.device
    is_possible = settings.trains and device.type == "cuda" and not flags.checkpoint_activations
    if not is_possible or estimate is None or settings.batches is None:
        return False
    fast = fast_paths(device, settings.precision.compute_dtype)
    n_tokens = settings.batches.micro * settings.max_seq_length
    pays = flags.kernels == fast.kernels and n_tokens <= fast.graph_tokens
    return pays and dataclasses.replace(estimate, cuda_graphs=True).fits(_memory_bytes(device), n_tokens)


def _memory_estimate(settings: Settings, model_class: type[nn.Module], n_read: int | None) -> MemoryEstimate | None:
    """None where model or precision are not known."""
    if settings.model is None or settings.precision is None:
        return None
    flags, dtype = settings.runtime, settings.precision.compute_dtype
    return MemoryEstimate(
        settings.model,
        count_parameters(model_class, settings.model),
        dtype.itemsize,
        flags.checkpoint_activations,
        padded_attention=(flags.attention or default_backend(settings.device, dtype)) == "sdpa",
        read_share=n_read and n_read / settings.max_seq_length,
        cuda_graphs=bool(flags.cuda_graphs),
    )


def _weights_problem(settings: Settings, n_parameters: int) -> Problem | None:
    """Why the weights alone, and what is kept of each, are too large for the memory of this process's device."""
    copies = 1 if not settings.trains else 2 if settings.distribution.shard_optimizer else 4
    needed, there = 4 * copies * n_parameters, _memory_bytes(settings.device)
    if needed <= there:
        return None
    what = "the weights, their gradients and moments" if settings.trains else "the weights"
    return Problem(
        f"the model has {n_parameters:,} parameters, and {what} take {needed / 1e9:,.0f} GB of this device's "
        f"{there / 1e9:,.0f} GB",
        "use a smaller model or a larger device",
    )


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return torch.cuda.get_device_properties(device).total_memory


def meta_model(model_class: type[nn.Module], config: BertConfig) -> nn.Module:
    """A model that takes no memory for its weights."""
    with torch.device("meta"):
        return model_class(config)


def count_parameters(model_class: type[nn.Module], config: BertConfig) -> int:
    """Elements of all weights of a model."""
    return sum(parameter.numel() for parameter in meta_model(model_class, config).parameters())


def execution_of(settings: Settings) -> Execution:
    """What the model is told of all this."""
    flags, precision = settings.runtime, settings.precision
    layers = flags.checkpoint_activations, flags.compile, flags.kernels, flags.attention
    in_fp8 = precision.name == "fp8", flags.fp8_weight_gradients
    return Execution(precision.compute_dtype, *layers, *in_fp8)
