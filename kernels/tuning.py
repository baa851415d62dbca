"""How our kernels are cut and compiled on each GPU: sizes of blocks, warps, stages, registers.

Settings change how fast a kernel is, and what it computes only by the order in which numbers are added. So they are
kept apart from the kernels, in one table that a command fills: `python3 benchmark/tune.py` tries others on the GPU at
hand, and prints that GPU's row.

The names are those of the kernels' constants and of Triton's options (`num_warps`, `num_stages`, `maxnreg`), but for
what a launch computes with. A kernel whose best settings depend on what it is given has several entries, whose names
end in a class of inputs.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch

STAYING_ROWS = MappingProxyType({"block_rows": 1, "num_warps": 4, "blocks_per_multiprocessor": 6, "stages": 1})
QUERY_BLOCKS = MappingProxyType({"block_queries": 128, "block_keys": 64, "num_warps": 8})
FP32_BLOCKS = MappingProxyType({"block_queries": 32, "block_keys": 32, "num_warps": 4, "num_stages": 2})

# Measured on an H200; all other GPUs start from them.
DEFAULTS = MappingProxyType(
    {
        # What the encoder's passes have of whole rows. Where they add them up, their thread blocks stay for all rows,
        # so many on each multiprocessor, and `stages` is of how many turns a thread block has loads under way.
        "gelu": {"elements": 4096, "num_warps": 4},
        "gelu_gradient": {"elements": 4096, "num_warps": 8, "blocks_per_multiprocessor": 4, "stages": 1},
        "gelu_gradient/fp8": {"elements": 4096, "num_warps": 16, "blocks_per_multiprocessor": 2, "stages": 1},
        "gelu_gradient/fp8_alone": {"elements": 4096, "num_warps": 8, "blocks_per_multiprocessor": 3, "stages": 3},
        # A block has a power of two of columns, and its threads take 8 each at a time. With so few warps the quarter of
        # BERT-base's blocks that lies outside is taken at a time of its own, which the compiler leaves out.
        "gelu_gradient/fp8_alone_narrow": {
            "elements": 4096,
            "num_warps": 4,
            "blocks_per_multiprocessor": 4,
            "stages": 2,
        },
        "dropout_add_norm": {"block_rows": 2, "num_warps": 4},
        "dropout_add_norm_gradients": STAYING_ROWS,
        "dropout_add_norm_gradients/fp8": STAYING_ROWS,
        "dropout_add_norm_gradients/fp8_alone": {
            "block_rows": 1,
            "num_warps": 2,
            "blocks_per_multiprocessor": 8,
            "stages": 2,
        },
        "dropout_add_norm_gradients/fp8_alone_narrow": {
            "block_rows": 1,
            "num_warps": 1,
            "blocks_per_multiprocessor": 8,
            "stages": 2,
        },
        "embeddings": {"block_rows": 2, "num_warps": 4},
        "embeddings_gradient": STAYING_ROWS,
        "quantize_rows": {"elements": 4096, "num_warps": 4},
        "quantize_weights": {"tile": 64, "num_warps": 4},
        "transpose": {"block_rows": 128, "block_columns": 128, "num_warps": 4},
        # A chunk is what a thread block has: enough to forget how long it looked for its tensor; BERT-large has 41,000
        # of this size. A tile is eight elements per thread, of which the pass has 128 bytes under way; told nothing of
        # registers, ptxas saves them and reads the weight when all else has arrived.
        "adam_pass": {"chunk": 8192, "tile": 1024, "num_warps": 4, "maxnreg": 64},
        "lamb_second_pass": {"tile": 1024, "num_warps": 4},  # of the same chunks, which both tiles divide
        # Attention of whole sequences, of up to 64 and up to 128 tokens. With 128 registers two blocks of 8 warps or
        # four of 4 share a multiprocessor; they suffice for heads of 64 in 16 bits: at most 24 bytes are spilled.
        "attention_forward_whole": {"block_queries": 64, "num_warps": 4, "maxnreg": 128},
        "attention_forward_whole/longest": {"block_queries": 64, "num_warps": 4, "maxnreg": 128},
        "attention_backward_whole": {"block_keys": 64, "num_warps": 4, "maxnreg": 128},
        "attention_backward_whole/longest": {"block_keys": 64, "num_warps": 8, "maxnreg": 128},
        # Of longer ones, in blocks. fp32 takes twice the memory, and in matmuls the registers.
        "attention_forward_blocks": {**QUERY_BLOCKS, "num_stages": 3, "maxnreg": 128},
        "attention_forward_blocks/wide": {**QUERY_BLOCKS, "num_stages": 2},
        "attention_forward_blocks/fp32": FP32_BLOCKS,
        "attention_backward_queries": {**QUERY_BLOCKS, "num_stages": 3, "maxnreg": 128},
        "attention_backward_queries/wide": {**QUERY_BLOCKS, "num_stages": 2},
        "attention_backward_queries/fp32": FP32_BLOCKS,
        "attention_backward_keys": {"block_queries": 64, "block_keys": 64, "num_warps": 4, "num_stages": 3},
        "attention_backward_keys/wide": {"block_queries": 64, "block_keys": 64, "num_warps": 4, "num_stages": 2},
        "attention_backward_keys/fp32": FP32_BLOCKS,
        # A column's share is 64 bytes of a row, two whole sectors of memory. Eight loads of 16 bytes per thread are
        # under way at once; told nothing of registers, ptxas waits for two of them before it issues the next.
        "column_sums": {"block_rows": 512, "block_columns": 16, "num_warps": 8, "maxnreg": 96},
        # Few rows share the loads of the bias.
        "softmax": {"block_rows": 2, "block_columns": 4096, "num_warps": 16},
        # models/memory.py counts on no more.
        "cross_entropy": {"rows_per_block": 4096},
    }
)

# By compute capability: what is to differ from the above, as `benchmark/tune.py` prints it.
ROWS = MappingProxyType(
    {
        (9, 0): {},
    }
)


def settings(kernel: str, device: torch.device, inputs: str = "") -> dict[str, int]:
    """The settings of a kernel on a device, for a class of inputs where it has several; the caller's own."""
    return dict(row(device)[f"{kernel}/{inputs}" if inputs else kernel])


@functools.cache
def row(device: torch.device) -> Mapping[str, Mapping[str, int]]:
    """All settings of a device, by kernel; the default ones of a device that is no GPU."""
    return row_of(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)


def row_of(capability: tuple[int, int] | None) -> Mapping[str, Mapping[str, int]]:
    """All settings of GPUs of a compute capability."""
    return MappingProxyType({**DEFAULTS, **ROWS.get(capability, {})})
