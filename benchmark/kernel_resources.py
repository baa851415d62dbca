#!/usr/bin/env python3
"""What the project's Triton kernels take of a GPU, as they are compiled for BERT-large. It needs no GPU.

  python3 benchmark/kernel_resources.py
  python3 benchmark/kernel_resources.py --kernels attention --keep code     # and the code, to be read

Each kernel is compiled with the arguments and settings that its own function launches it with.

Registers and shared memory decide how many thread blocks a streaming multiprocessor (SM) runs beside each other, and so
how much of the time that memory takes is hidden. What does not fit into registers is spilled to memory: the column
should be zeros, but for some bytes of attention's kernels.

`matmuls` says which instructions multiply matrices: wgmma is Hopper's own, and twice as fast there as mma. Each group
of them is waited for once; as many waits as matmuls mean that the assembler, short of registers, has lined them up.
`16-byte loads` are the share of the loads from global memory that are as wide as one thread's can be.
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from common.errors import UserError, run_main

LAYERS, HIDDEN, INTERMEDIATE, HEADS, HEAD_SIZE = 24, 1024, 4096, 16, 64  # of BERT-large
TOKENS, DROPOUT = 8192, 0.1
FP8_ARCH = 89  # the first that has it

# Compute capability -> warps and KiB of shared memory of an SM: CUDA C++ Programming Guide, technical specifications
# per compute capability. All have 65,536 registers, and keep 1 KiB of shared memory per thread block.
MULTIPROCESSORS = MappingProxyType(
    {80: (64, 164), 86: (48, 100), 89: (48, 100), 90: (64, 228), 100: (64, 228), 120: (48, 100)}
)
REGISTERS = 65536
HEADER = (
    "kernel",
    "warps",
    "registers",
    "spilled bytes",
    "shared memory, bytes",
    "thread blocks per SM",
    "matmuls",
    "16-byte loads",
    "instructions",
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as it is launched for BERT-large in bf16."""

    name: str
    function: str
    """The function under `triton.jit`."""
    launch: Callable[[], object]
    """Launches it on tensors of any device, perhaps among others."""
    to_fp8: bool = False
    """Whether it writes fp8."""


def kernels() -> list[Kernel]:
    """The table. A kernel more is an entry more."""
    from kernels.column_sums import column_sums
    from kernels.fused import fp8

    return [
        *_fused_kernels(False, ""),
        *_fused_kernels(True, ", fp8 beside"),
        Kernel("column sums", "_column_sums", lambda: column_sums(torch.empty(512, HIDDEN))),
        Kernel("rows into fp8", "_quantize_rows", lambda: fp8.quantize_rows(_bf16(TOKENS, HIDDEN)), to_fp8=True),
        Kernel(
            "weights into fp8",
            "_quantize_weights",
            lambda: fp8.quantize_weights([torch.zeros(INTERMEDIATE, HIDDEN)] * LAYERS),
            to_fp8=True,
        ),
        Kernel("adamw", "_adam_pass", lambda: _update(takes_ratios=False)),
        Kernel("lamb first pass", "_adam_pass", lambda: _update(takes_ratios=True)),
        Kernel("lamb trust ratios", "_lamb_trust_ratios", lambda: _update(takes_ratios=True)),
        Kernel("lamb second pass", "_lamb_second_pass", lambda: _update(takes_ratios=True)),
        *(
            Kernel(f"attention of {length} {way}", f"attention_{way}_whole", lambda length=length: _attention(length))
            for length in (64, 128)
            for way in ("forward", "backward")
        ),
        Kernel("attention of 512 forward", "attention_forward_blocks", lambda: _attention(512)),
        Kernel("attention of 512 backward, queries", "attention_backward_queries", lambda: _attention(512)),
        Kernel("attention of 512 backward, keys", "attention_backward_keys", lambda: _attention(512)),
    ]


def _fused_kernels(to_fp8: bool, suffix: str) -> list[Kernel]:
    from kernels.fused import dropout_add_norm, gelu

    rows, wide = _bf16(TOKENS, HIDDEN), _bf16(TOKENS, INTERMEDIATE)
    of_rows, of_columns = torch.empty(TOKENS), torch.empty(HIDDEN)
    rest = DROPOUT, _seed(), to_fp8
    forward = (rows, rows, of_columns, of_columns, 1e-12)
    backward = ([rows, rows], rows, of_rows, of_rows, of_columns)
    return [
        Kernel(name + suffix, function, launch, to_fp8)
        for name, function, launch in (
            (
                "dropout_add_norm forward",
                "_dropout_add_norm",
                lambda: dropout_add_norm.dropout_add_norm_(*forward, *rest),
            ),
            (
                "dropout_add_norm backward",
                "_dropout_add_norm_gradients",
                lambda: dropout_add_norm.dropout_add_norm_backward(*backward, *rest),
            ),
            ("gelu forward", "_gelu", lambda: gelu.gelu(wide, to_fp8)),
            ("gelu backward", "_gelu_gradient", lambda: gelu.gelu_backward_(wide, wide, to_fp8)),
        )
    ]


def _attention(length: int) -> None:
    from kernels.attention.short import short_attention, short_attention_backward

    qkv = _bf16(TOKENS, 3, HEADS, HEAD_SIZE)
    rest = torch.arange(0, TOKENS + 1, length, dtype=torch.int32), length, DROPOUT, _seed()
    output, log_sum_exp = short_attention(qkv, *rest)
    short_attention_backward(output, qkv, output, log_sum_exp, *rest)


def _update(takes_ratios: bool) -> None:
    from kernels.optimizers import GroupUpdate

    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "step": 2, "n_blocks": 1}
    tensors = [[torch.empty(HIDDEN, HIDDEN) for _ in range(2)] for _ in range(4)]
    GroupUpdate(takes_ratios)(*tensors, group, torch.ones(()))


def _bf16(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def _seed() -> Tensor:
    return torch.zeros(1, dtype=torch.int64)


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a kernel takes, and the code that it became."""

    n_warps: int
    registers: int
    spilled_bytes: int
    """Per thread."""
    shared_bytes: int
    """Per thread block."""
    ptx: str
    sass: str

    def blocks_per_multiprocessor(self, arch: int) -> int:
        """How many thread blocks fit beside each other."""
        max_warps, shared_kib = MULTIPROCESSORS[arch]
        of_a_warp = -(-self.registers * 32 // 256) * 256  # given out in units of 256
        fitting = REGISTERS // of_a_warp // self.n_warps, (shared_kib << 10) // (self.shared_bytes + 1024)
        return min(*fitting, max_warps // self.n_warps)

    def matmuls(self) -> str:
        """Which instructions multiply matrices, and how many."""
        if n_wgmma := len(re.findall(r"\bHGMMA\b", self.sass)):
            return f"wgmma {n_wgmma}, {len(re.findall(r'WARPGROUP.DEPBAR', self.sass))} waits"
        n_mma = len(re.findall(r"\bHMMA\b", self.sass))
        return f"mma {n_mma}" if n_mma else "-"

    def wide_loads(self) -> str:
        """Loads from global memory of 16 bytes per thread, of all."""
        loads = re.findall(r"ld\.global\S*|cp\.async\.c[ag]\S* [^;]*;", self.ptx)
        wide = [load for load in loads if re.search(r"v4\.[bf]32|v2\.[bf]64|, (0x10|16)\b", load)]
        return f"{len(wide)} of {len(loads)}"

    def row(self, name: str, arch: int) -> list[str]:
        """A line of the table."""
        numbers = self.n_warps, self.registers, self.spilled_bytes, self.shared_bytes
        n_instructions = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+[^/\s]", self.sass, re.MULTILINE))
        cells = [f"{n:,}" for n in (*numbers, self.blocks_per_multiprocessor(arch))]
        return [name, *cells, self.matmuls(), self.wide_loads(), f"{n_instructions:,}"]


def compiled(kernel: Kernel, arch: int) -> Any:
    """A kernel compiled by Triton as for a launch on a GPU of this kind, with nothing launched.

    Args:
        arch: compute capability times ten.

    Raises:
        UserError: the table names a function that is not launched.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction
    from triton.runtime.driver import driver

    gpu = mock.Mock()
    gpu.get_current_target.return_value = GPUTarget("cuda", arch, 32)
    gpu.get_current_device.return_value = arch  # compiled kernels are kept by device
    found = []
    run = JITFunction.run

    def compile_only(function: JITFunction, *args: Any, warmup: bool, **settings: Any) -> None:
        if function.fn.__name__ == kernel.function:
            found.append(run(function, *args, warmup=True, **settings))

    with mock.patch.object(driver, "_active", gpu), mock.patch.object(JITFunction, "run", compile_only):
        kernel.launch()
    if not found:
        raise UserError(f"{kernel.name}: {kernel.function} is not launched", "correct the table")
    return found[0]


def resources(kernel: Kernel, arch: int) -> Resources:
    """Compile a kernel, and ask NVIDIA's tool what it takes; arguments and errors as for `compiled`."""
    found = compiled(kernel, arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(found.asm["cubin"])
        usage, sass = (
            subprocess.run([tool("cuobjdump"), option, path], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    return Resources(found.metadata.num_warps, registers, stack, found.metadata.shared, found.asm["ptx"], sass)


def tool(name: str) -> Path:
    """A program of NVIDIA's that comes with Triton.

    Raises:
        UserError: it did not come for this platform.
    """
    package = importlib.util.find_spec("triton")
    path = Path(package.origin).parent / "backends" / "nvidia" / "bin" / name if package else None
    if path is None or not os.access(path, os.X_OK):
        raise UserError(f"Triton is not installed, or brings no {name} for this platform", "take x86-64 or arm64 Linux")
    return path


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default="", help="only those whose name contains this (default: all)")
    parser.add_argument(
        "--arch",
        type=int,
        default=90,
        choices=sorted(MULTIPROCESSORS),
        help="compute capability times ten (default: 90)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the PTX and the machine code there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile all, and print the table."""
    args = parse_arguments(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise UserError("TRITON_INTERPRET is set, with which nothing is compiled", "unset it")
    for name in ("ptxas", "cuobjdump"):
        tool(name)
    able = [kernel for kernel in kernels() if args.arch >= FP8_ARCH or not kernel.to_fp8]
    chosen = [kernel for kernel in able if args.kernels in kernel.name]
    if not chosen:
        raise UserError(
            f"--kernels {args.kernels} is in no name", f"there are {', '.join(kernel.name for kernel in able)}"
        )
    rows = []
    for kernel in chosen:
        found = resources(kernel, args.arch)
        rows.append(found.row(kernel.name, args.arch))
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            for suffix, code in (("ptx", found.ptx), ("sass", found.sass)):
                (args.keep / f"{kernel.name.replace(' ', '_')}.{suffix}").write_text(code, encoding="utf-8")
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    run_main(main)
