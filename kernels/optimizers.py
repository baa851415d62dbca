"""AdamW and LAMB over many tensors, in one pass and in two: 28 and 40 bytes for each parameter, 2 less with bf16
gradients.

AdamW's pass reads gradient, weight and both moments once, divides the gradient by what clips it, and writes weight and
moments. LAMB's first pass leaves the weight and adds up squares for the trust ratios; a second pass makes the update
from weight and moments again, which needs no room for it, and writes the weight. Without weight decay the ratio is 1,
and LAMB is AdamW.

The kernels find the tensors by a table of addresses and share them out in chunks. Gradients may lie elsewhere at each
step, so the host compares addresses, and sends a new table when one has changed. Each chunk's sums have a place of
their own and are added up in one order: the same input gives the same bits.

Sources: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101 (AdamW); You et al. 2019,
https://arxiv.org/abs/1904.00962 (LAMB); NVIDIA's apex (lists of addresses and chunks).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tuning import settings

CHUNKS_AT_A_TIME = 256

# Columns of the table of weight blocks: four addresses, the number of elements, the first of the block's chunks.
GRADIENT = tl.constexpr(0)
PARAMETER = tl.constexpr(1)
EXP_AVG = tl.constexpr(2)
EXP_AVG_SQ = tl.constexpr(3)
SIZE = tl.constexpr(4)
FIRST_CHUNK = tl.constexpr(5)
N_COLUMNS = tl.constexpr(6)

VECTOR_BYTES = tl.constexpr(16)
# Single masked loads take a smaller part of a tile, or else their branch, which few blocks take, sets the registers.
SMALLER = tl.constexpr(4)


class Tables(NamedTuple):
    """What the kernels know of a group's weight blocks, on its device."""

    blocks: Tensor
    """(blocks, N_COLUMNS) int64."""
    block_of_chunk: Tensor
    """(chunks,) int32."""
    sums: Tensor
    """(chunks, 2) fp32: room for the sums of squares of weights and of updates."""
    ratios: Tensor
    """(blocks,) fp32: room for the trust ratios."""


class GroupUpdate:
    """AdamW's or LAMB's step for one group. It keeps the group's tables, and never waits for the device.

    `takes_ratios` is LAMB's, which in groups with weight decay scales a block's update by its trust ratio.
    """

    def __init__(self, takes_ratios: bool):
        self.takes_ratios = takes_ratios
        self._key: list[int] = []
        self._tables: Tables | None = None

    def __call__(
        self, parameters, gradients, exp_avgs, exp_avg_sqs, group: dict[str, Any], gradient_divisor: Tensor | None
    ) -> None:
        """One update of the weights and moments, in place.

        Args:
            parameters, gradients, exp_avgs, exp_avg_sqs: lists of fp32 tensors of any shapes, contiguous, in one order.
                Gradients may all be bf16 instead.
            group: `lr`, `betas`, `eps`, `weight_decay`, the number `step` of this step, from 1, and `n_blocks`, into
                which the first dimension of every parameter is divided where ratios are taken.
            gradient_divisor: 0-d, fp32, on the device: what the gradients are to be divided by first.

        Raises:
            ValueError: a tensor is of another dtype, or not contiguous.
        """
        takes_ratio = self.takes_ratios and group["weight_decay"] != 0
        device = parameters[0].device
        tuned = settings("adam_pass", device)
        chunk = tuned["chunk"]
        tables = self._tables_of(
            [gradients, parameters, exp_avgs, exp_avg_sqs], group["n_blocks"] if takes_ratio else 1, chunk
        )
        (beta1, beta2), step, lr = group["betas"], group["step"], float(group["lr"])
        # 1 - beta from double precision: 1 - 0.999 in fp32 is off by a hundred thousandth.
        betas = beta1, 1 - beta1, beta2, 1 - beta2
        numbers = 1 / (1 - beta1**step), 1 / (1 - beta2**step), group["eps"], float(group["weight_decay"])
        grid = (len(tables.block_of_chunk),)
        in_bf16 = gradients[0].dtype == torch.bfloat16
        _adam_pass[grid](
            *tables[:3], gradient_divisor, lr, betas, numbers, takes_ratio=takes_ratio, in_bf16=in_bf16, **tuned
        )
        if takes_ratio:
            _lamb_trust_ratios[(len(tables.blocks),)](
                tables.blocks, tables.sums, tables.ratios, chunk=chunk, tile=CHUNKS_AT_A_TIME
            )
            tuned = settings("lamb_second_pass", device)
            _lamb_second_pass[grid](*tables[:2], tables.ratios, lr, numbers, chunk=chunk, **tuned)

    def _tables_of(self, columns: list[list[Tensor]], n_blocks: int, chunk: int) -> Tables:
        """The tables for tensors in the order of the columns GRADIENT to EXP_AVG_SQ; made anew when one has moved."""
        key = [n_blocks, chunk]
        of_gradients = torch.bfloat16 if columns[0][0].dtype == torch.bfloat16 else torch.float32
        for dtype, column in zip((of_gradients, *(torch.float32,) * 3), columns, strict=True):
            for tensor in column:
                if tensor.dtype != dtype or not tensor.is_contiguous():
                    raise ValueError(
                        "the optimizers' kernels take contiguous float32 weights and moments, and gradients all in "
                        f"float32 or bfloat16, not {tensor.dtype} of shape {tuple(tensor.shape)} and strides "
                        f"{tensor.stride()}"
                    )
                key.append(tensor.data_ptr())
        if key != self._key:
            self._tables = make_tables(columns, n_blocks, chunk)
            self._key = key
        return self._tables


def make_tables(columns: list[list[Tensor]], n_blocks: int, chunk: int) -> Tables:
    """Tables for tensors that are given in the order of the columns GRADIENT to EXP_AVG_SQ, of `n_blocks` each."""
    sizes = torch.tensor([tensor.numel() // n_blocks for tensor in columns[0]])
    addresses = torch.tensor([[tensor.data_ptr() for tensor in column] for column in columns])
    bytes_of_element = torch.tensor([column[0].element_size() for column in columns])
    offsets = bytes_of_element[:, None, None] * (torch.arange(n_blocks) * sizes[:, None])
    addresses = (addresses[:, :, None] + offsets).flatten(1)
    sizes = sizes.repeat_interleave(n_blocks)
    n_chunks = (sizes + chunk - 1) // chunk
    first_chunk = n_chunks.cumsum(0) - n_chunks
    block_of_chunk = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(n_chunks)
    device = columns[0][0].device

    def sent(table: Tensor) -> Tensor:
        # The host does not wait: PyTorch's allocator gives the pinned memory to nobody before the copy is over.
        return (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)

    return Tables(
        sent(torch.stack([*addresses, sizes, first_chunk], 1)),
        sent(block_of_chunk),
        torch.empty(len(block_of_chunk), 2, dtype=torch.float32, device=device),
        torch.empty(len(sizes), dtype=torch.float32, device=device),
    )


@triton.jit
def _adam_pass(
    blocks_ptr,
    block_of_chunk_ptr,
    sums_ptr,
    divisor_ptr,
    lr,
    betas,
    numbers,
    takes_ratio: tl.constexpr,
    in_bf16: tl.constexpr,
    chunk: tl.constexpr,
    tile: tl.constexpr,
):
    tl.static_assert(chunk % tile == 0)
    row = blocks_ptr + tl.load(block_of_chunk_ptr + tl.program_id(0)) * N_COLUMNS
    first, size = _span(row, chunk)
    factor = 1.0
    if divisor_ptr is not None:
        factor = 1.0 / tl.load(divisor_ptr)
    addresses = tl.load(row + GRADIENT) | tl.load(row + PARAMETER) | tl.load(row + EXP_AVG) | tl.load(row + EXP_AVG_SQ)
    if (first + chunk <= size) & (addresses % VECTOR_BYTES == 0):
        parameter_sum, update_sum = _adam_pass_of_chunk(
            row, first, chunk, factor, lr, betas, numbers, takes_ratio, in_bf16, tile, True
        )
    else:
        n_elements = tl.minimum(size - first, chunk).to(tl.int32)
        small: tl.constexpr = tile // SMALLER
        parameter_sum, update_sum = _adam_pass_of_chunk(
            row, first, n_elements, factor, lr, betas, numbers, takes_ratio, in_bf16, small, False
        )
    if takes_ratio:
        tl.store(sums_ptr + 2 * tl.program_id(0), parameter_sum)
        tl.store(sums_ptr + 2 * tl.program_id(0) + 1, update_sum)


@triton.jit
def _adam_pass_of_chunk(
    row,
    first,
    n_elements,
    factor,
    lr,
    betas,
    numbers,
    takes_ratio: tl.constexpr,
    in_bf16: tl.constexpr,
    tile: tl.constexpr,
    is_vectorized: tl.constexpr,
):
    """The sums of squares of a chunk's weights and updates, after its pass."""
    beta1, one_minus_beta1, beta2, one_minus_beta2 = betas
    gradient_ptr = _pointer(row, GRADIENT, first, is_vectorized, tl.bfloat16 if in_bf16 else tl.float32)
    parameter_ptr = _pointer(row, PARAMETER, first, is_vectorized)
    exp_avg_ptr = _pointer(row, EXP_AVG, first, is_vectorized)
    exp_avg_sq_ptr = _pointer(row, EXP_AVG_SQ, first, is_vectorized)
    parameter_squares = tl.zeros((tile,), tl.float32)
    update_squares = tl.zeros((tile,), tl.float32)
    for start in range(0, n_elements, tile):
        places = start + tl.arange(0, tile)
        inside = None if is_vectorized else places < n_elements
        fill = None if is_vectorized else 0.0
        gradient = tl.load(gradient_ptr + places, inside, fill)
        exp_avg = tl.load(exp_avg_ptr + places, inside, fill)
        exp_avg_sq = tl.load(exp_avg_sq_ptr + places, inside, fill)
        parameter = tl.load(parameter_ptr + places, inside, fill)
        gradient = gradient.to(tl.float32) * factor
        exp_avg = beta1 * exp_avg + one_minus_beta1 * gradient
        exp_avg_sq = beta2 * exp_avg_sq + one_minus_beta2 * gradient * gradient
        tl.store(exp_avg_ptr + places, exp_avg, inside)
        tl.store(exp_avg_sq_ptr + places, exp_avg_sq, inside)
        update = _update(parameter, exp_avg, exp_avg_sq, numbers)
        if takes_ratio:
            parameter_squares += parameter * parameter
            update_squares += update * update
        else:
            tl.store(parameter_ptr + places, parameter - lr * update, inside)
    return tl.sum(parameter_squares), tl.sum(update_squares)


@triton.jit
def _lamb_trust_ratios(blocks_ptr, sums_ptr, ratios_ptr, chunk: tl.constexpr, tile: tl.constexpr):
    """|p| / |u| of a block, 1 where either norm is zero."""
    row = blocks_ptr + tl.program_id(0) * N_COLUMNS
    sums_ptr += 2 * tl.load(row + FIRST_CHUNK)
    n_chunks = tl.cdiv(tl.load(row + SIZE), chunk).to(tl.int32)
    parameter_sums = tl.zeros((tile,), tl.float32)
    update_sums = tl.zeros((tile,), tl.float32)
    for start in range(0, n_chunks, tile):
        chunks = start + tl.arange(0, tile)
        parameter_sums += tl.load(sums_ptr + 2 * chunks, chunks < n_chunks, 0.0)
        update_sums += tl.load(sums_ptr + 2 * chunks + 1, chunks < n_chunks, 0.0)
    parameter_norm, update_norm = tl.sqrt(tl.sum(parameter_sums)), tl.sqrt(tl.sum(update_sums))
    either_zero = (parameter_norm == 0) | (update_norm == 0)
    ratio = tl.where(either_zero, 1.0, parameter_norm) / tl.where(either_zero, 1.0, update_norm)
    tl.store(ratios_ptr + tl.program_id(0), ratio)


@triton.jit
def _update(parameter, exp_avg, exp_avg_sq, numbers):
    unbias1, unbias2, eps, decay = numbers
    return exp_avg * unbias1 / (tl.sqrt(exp_avg_sq * unbias2) + eps) + decay * parameter


@triton.jit
def _lamb_second_pass(blocks_ptr, block_of_chunk_ptr, ratios_ptr, lr, numbers, chunk: tl.constexpr, tile: tl.constexpr):
    tl.static_assert(chunk % tile == 0)
    block = tl.load(block_of_chunk_ptr + tl.program_id(0))
    row = blocks_ptr + block * N_COLUMNS
    first, size = _span(row, chunk)
    rate = lr * tl.load(ratios_ptr + block)
    addresses = tl.load(row + PARAMETER) | tl.load(row + EXP_AVG) | tl.load(row + EXP_AVG_SQ)
    if (first + chunk <= size) & (addresses % VECTOR_BYTES == 0):
        _second_pass_of_chunk(row, first, chunk, rate, numbers, tile, True)
    else:
        n_elements = tl.minimum(size - first, chunk).to(tl.int32)
        _second_pass_of_chunk(row, first, n_elements, rate, numbers, tile // SMALLER, False)


@triton.jit
def _second_pass_of_chunk(row, first, n_elements, rate, numbers, tile: tl.constexpr, is_vectorized: tl.constexpr):
    parameter_ptr = _pointer(row, PARAMETER, first, is_vectorized)
    exp_avg_ptr = _pointer(row, EXP_AVG, first, is_vectorized)
    exp_avg_sq_ptr = _pointer(row, EXP_AVG_SQ, first, is_vectorized)
    for start in range(0, n_elements, tile):
        places = start + tl.arange(0, tile)
        inside = None if is_vectorized else places < n_elements
        fill = None if is_vectorized else 0.0
        parameter = tl.load(parameter_ptr + places, inside, fill)
        exp_avg = tl.load(exp_avg_ptr + places, inside, fill)
        exp_avg_sq = tl.load(exp_avg_sq_ptr + places, inside, fill)
        update = _update(parameter, exp_avg, exp_avg_sq, numbers)
        tl.store(parameter_ptr + places, parameter - rate * update, inside)


@triton.jit
def _span(row, chunk: tl.constexpr):
    """Where in its block this thread block's chunk begins, and the size of the block; int64."""
    return (tl.program_id(0) - tl.load(row + FIRST_CHUNK)) * chunk, tl.load(row + SIZE)


@triton.jit
def _pointer(row, column: tl.constexpr, first, is_vectorized: tl.constexpr, dtype: tl.constexpr = tl.float32):
    """To a chunk that begins at element `first` of a block's tensor; `is_vectorized` promises that it is aligned."""
    pointer = tl.load(row + column).to(tl.pointer_type(dtype))
    if is_vectorized:
        pointer = tl.multiple_of(pointer, VECTOR_BYTES)
    return pointer + first
