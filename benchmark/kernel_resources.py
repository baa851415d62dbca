#!/usr/bin/env python3
"""What the project's Triton kernels take of a GPU, as they are compiled for BERT-large. It needs no GPU.

  python3 benchmark/kernel_resources.py
  python3 benchmark/kernel_resources.py --kernels attention --keep code     # and the code, to be read

Registers and shared memory decide how many programs a processor runs beside each other, and so how much of the time
that memory takes is hidden. What does not fit into registers is spilled to memory: the column should be zeros, but
for some bytes of attention's kernels.

`products` says which instructions multiply matrices: wgmma is Hopper's own, and twice as fast there as mma. Each group
of them is waited for once; as many waits as products mean that the assembler, short of registers, has lined them up.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.tables import markdown_table
from common.errors import UserError, run_main

LAYERS, HIDDEN, INTERMEDIATE, HEADS, HEAD_SIZE = 24, 1024, 4096, 16, 64  # of BERT-large
LAUNCH_OPTIONS = ("num_warps", "num_stages", "maxnreg")
POINTERS = MappingProxyType(  # all others are to bf16 or fp32
    {
        "cu_seqlens_ptr": "*i32",
        "seed_ptr": "*i64",
        "row_keys_ptr": "*i32",
        "blocks_ptr": "*i64",
        "block_of_chunk_ptr": "*i32",
    }
)
FP8_POINTERS = ("fp8_ptr", "values_ptr", "rows_ptr", "columns_ptr")  # of kernels that write fp8
FP8_ARCH = 89  # the first that has it
# Parameters by value; all others are i32.
FLOATS = (
    "scale",
    "kept_scale",
    "eps",
    "lr",
    "decay",
    "beta1",
    "one_minus_beta1",
    "unbias1",
    "beta2",
    "one_minus_beta2",
    "unbias2",
)

# Compute capability -> warps and KiB of shared memory of a processor: CUDA C++ Programming Guide, technical
# specifications per compute capability. All have 65,536 registers, and keep 1 KiB of shared memory per program.
PROCESSORS = MappingProxyType(
    {80: (64, 164), 86: (48, 100), 89: (48, 100), 90: (64, 228), 100: (64, 228), 120: (48, 100)}
)
REGISTERS = 65536
HEADER = (
    "kernel",
    "warps",
    "registers",
    "spilled bytes",
    "shared memory, bytes",
    "programs per processor",
    "products",
    "16-byte loads",
    "instructions",
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as it is launched for BERT-large in bf16."""

    name: str
    function: Any
    """The function under `triton.jit`."""
    settings: Mapping[str, Any]
    """Its constants, and options of the launch."""
    fp32: tuple[str, ...] = ()
    """Pointers to fp32."""
    to_fp8: bool = False
    """Whether it writes fp8."""


def kernels() -> list[Kernel]:
    """The table. A kernel more is an entry more."""
    from kernels import (
        blocked_attention,
        column_sums,
        dropout_add_norm,
        fp8,
        gelu,
        optimizers,
        short_attention,
        whole_attention,
    )

    norm = {"n_columns": HIDDEN, "block_columns": HIDDEN, "has_dropout": True}
    rows = {"n_columns": INTERMEDIATE, "block_columns": INTERMEDIATE, "block_rows": 1}
    heads = {"n_heads": HEADS, "head_size": HEAD_SIZE, "has_dropout": True}
    forward_blocks = heads | short_attention.forward_blocks_settings(HEAD_SIZE, element_size=2)
    query_blocks = heads | short_attention.query_blocks_settings(HEAD_SIZE, element_size=2)
    key_blocks = heads | short_attention.key_blocks_settings(HEAD_SIZE, element_size=2)
    chunks = {"chunk": optimizers.CHUNK, "tile": optimizers.TILE, "num_warps": optimizers.WARPS}
    return [
        *(
            kernel
            for to_fp8, suffix in ((False, ""), (True, ", fp8 beside"))
            for kernel in (
                Kernel(
                    f"dropout_add_norm forward{suffix}",
                    dropout_add_norm._dropout_add_norm,
                    norm
                    | {"block_rows": dropout_add_norm.FORWARD_ROWS, "num_warps": dropout_add_norm.FORWARD_WARPS}
                    | {"to_fp8": to_fp8},
                    fp32=("weight_ptr", "bias_ptr", "mean_ptr", "scale_ptr", "fp8_scale_ptr"),
                    to_fp8=to_fp8,
                ),
                Kernel(
                    f"dropout_add_norm backward{suffix}",
                    dropout_add_norm._dropout_add_norm_gradients,
                    norm
                    | {"block_rows": dropout_add_norm.BACKWARD_ROWS, "num_warps": dropout_add_norm.BACKWARD_WARPS}
                    | {"has_second": True, "to_fp8": to_fp8},
                    fp32=("weight_ptr", "mean_ptr", "scale_ptr", "partial_sums_ptr", "fp8_scale_ptr"),
                    to_fp8=to_fp8,
                ),
                Kernel(
                    f"gelu forward{suffix}",
                    gelu._gelu,
                    rows | {"to_fp8": to_fp8, "num_warps": gelu.FORWARD_WARPS},
                    fp32=("fp8_scale_ptr",),
                    to_fp8=to_fp8,
                ),
                Kernel(
                    f"gelu backward{suffix}",
                    gelu._gelu_gradient,
                    rows | {"to_fp8": to_fp8, "num_warps": gelu.BACKWARD_WARPS_FP8 if to_fp8 else gelu.BACKWARD_WARPS},
                    fp32=("partial_sums_ptr", "fp8_scale_ptr"),
                    to_fp8=to_fp8,
                ),
            )
        ),
        Kernel(
            "column sums",
            column_sums._column_sums,
            {
                "block_rows": column_sums.BLOCK_ROWS,
                "block_columns": column_sums.BLOCK_COLUMNS,
                "num_warps": column_sums.WARPS,
                "maxnreg": column_sums.REGISTERS,
            },
            fp32=("partial_ptr", "sums_ptr"),
        ),
        Kernel(
            "rows into fp8",
            fp8._quantise_rows,
            {"n_columns": HIDDEN, "block_columns": HIDDEN, "block_rows": 4, "num_warps": fp8.ROWS_WARPS},
            fp32=("scale_ptr",),
            to_fp8=True,
        ),
        Kernel(
            "weights into fp8",
            fp8._quantise_weights,
            {"n_rows": INTERMEDIATE, "n_columns": HIDDEN, "tile": fp8.TILE, "num_warps": fp8.TILE_WARPS},
            fp32=("scale_ptr",),
            to_fp8=True,
        ),
        *(
            Kernel(
                name,
                optimizers._adam_pass,
                chunks | {"takes_ratio": takes_ratio, "maxnreg": optimizers.ADAM_REGISTERS},
                fp32=("sums_ptr", "divisor_ptr"),
            )
            for name, takes_ratio in (("adamw", False), ("lamb first pass", True))
        ),
        Kernel(
            "lamb trust ratios",
            optimizers._lamb_trust_ratios,
            {"chunk": optimizers.CHUNK, "tile": optimizers.CHUNKS_AT_A_TIME},
            fp32=("sums_ptr", "ratios_ptr"),
        ),
        Kernel("lamb second pass", optimizers._lamb_second_pass, chunks, fp32=("ratios_ptr",)),
        *(
            kernel
            for length in (64, 128)
            for kernel in (
                Kernel(
                    f"attention of {length} forward",
                    whole_attention.attention_forward_whole,
                    heads | short_attention.whole_forward_settings(length),
                    fp32=("log_sum_exp_ptr",),
                ),
                Kernel(
                    f"attention of {length} backward",
                    whole_attention.attention_backward_whole,
                    heads | short_attention.whole_backward_settings(length),
                    fp32=("log_sum_exp_ptr", "partial_sums_ptr"),
                ),
            )
        ),
        Kernel(
            "attention of 512 forward",
            blocked_attention.attention_forward_blocks,
            forward_blocks,
            fp32=("log_sum_exp_ptr",),
        ),
        Kernel(
            "attention of 512 backward, queries",
            blocked_attention.attention_backward_queries,
            query_blocks,
            fp32=("log_sum_exp_ptr", "delta_ptr", "sums_ptr"),
        ),
        Kernel(
            "attention of 512 backward, keys",
            blocked_attention.attention_backward_keys,
            key_blocks,
            fp32=("log_sum_exp_ptr", "delta_ptr", "sums_ptr"),
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a kernel takes, and the code that it became."""

    n_warps: int
    registers: int
    spilled_bytes: int
    """Per thread."""
    shared_bytes: int
    """Per program."""
    ptx: str
    sass: str

    def programs_per_processor(self, arch: int) -> int:
        """How many fit beside each other."""
        max_warps, shared_kib = PROCESSORS[arch]
        of_a_warp = -(-self.registers * 32 // 256) * 256  # given out in units of 256
        fitting = REGISTERS // of_a_warp // self.n_warps, (shared_kib << 10) // (self.shared_bytes + 1024)
        return min(*fitting, max_warps // self.n_warps)

    def products(self) -> str:
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
        numbers = self.n_warps, self.registers, self.spilled_bytes, self.shared_bytes, self.programs_per_processor(arch)
        n_instructions = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+[^/\s]", self.sass, re.MULTILINE))
        return [name, *(f"{n:,}" for n in numbers), self.products(), self.wide_loads(), f"{n_instructions:,}"]


def signature(kernel: Kernel) -> dict[str, str | tuple[str, ...]]:
    """The types of a kernel's parameters."""

    def type_of(name: str) -> str | tuple[str, ...]:
        if name in kernel.settings:
            return "constexpr"
        if name.endswith("_ptrs"):
            return ("*fp32",) * LAYERS
        if kernel.to_fp8 and name in FP8_POINTERS:
            return "*fp8e4nv"
        if name.endswith("_ptr"):
            return POINTERS.get(name, "*fp32" if name in kernel.fp32 else "*bf16")
        return "fp32" if name in FLOATS else "i32"

    return {name: type_of(name) for name in kernel.function.arg_names}


def resources(kernel: Kernel, arch: int) -> Resources:
    """Compile a kernel.

    Args:
        arch: compute capability times ten.

    Raises:
        UserError: the table does not fit the kernel.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = signature(kernel)
    unknown = set(kernel.settings) - set(types) - set(LAUNCH_OPTIONS) | set(kernel.fp32) - set(types)
    if unknown:
        raise UserError(f"{kernel.name}: the kernel has no {', '.join(sorted(unknown))}", "correct the table")
    # As for a launch: tensors begin at multiples of 16 bytes, and sizes are multiples of 16 where it would look.
    places = []
    for index, (parameter, type_) in enumerate(zip(kernel.function.params, types.values(), strict=True)):
        if isinstance(type_, tuple):
            places += [(index, member) for member in range(len(type_))]
        elif type_.startswith("*") or (type_ == "i32" and not parameter.do_not_specialize):
            places.append((index,))
    aligned = {place: [["tt.divisibility", 16]] for place in places}
    constants = {name: value for name, value in kernel.settings.items() if name in types}
    options = {name: value for name, value in kernel.settings.items() if name in LAUNCH_OPTIONS}
    source = ASTSource(kernel.function, types, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage, sass = (cuobjdump(option, path) for option in ("-res-usage", "-sass"))
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    return Resources(options.get("num_warps", 4), registers, stack, compiled.metadata.shared, compiled.asm["ptx"], sass)


def cuobjdump(option: str, path: Path) -> str:
    """What the tool that comes with Triton says of a compiled kernel."""
    return subprocess.run([tool("cuobjdump"), option, path], capture_output=True, text=True, check=True).stdout


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
        "--arch", type=int, default=90, choices=sorted(PROCESSORS), help="compute capability times ten (default: 90)"
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
