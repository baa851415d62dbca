#!/usr/bin/env python3
"""What the project's Triton kernels take of a GPU, as they are compiled for a BERT. It needs no GPU.

  python3 benchmark/kernel_resources.py
  python3 benchmark/kernel_resources.py --kernels attention --keep code     # and the code, to be read

The kernels are those that training steps launch, with 64, 128 and 512 tokens, in bf16, in fp8, and with weight
gradients in fp8 too, with GELU and with its tanh form; their names say in which step they come first, and with which
flags. Registers and shared memory decide
how many thread blocks a streaming multiprocessor (SM) runs beside each other. What does not fit into registers is
spilled to memory: the column should be zeros, but for some bytes of attention and of gradients to fp8.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark.command_line import parser_of
from benchmark.tables import markdown_table
from common.errors import UserError, run_main
from kernels import tuning
from kernels.launch import REGISTERS
from modeling import BertForPreTraining, prepare_model
from models.config import BERT_CONFIGS, BertConfig, Execution
from optimization import build_optimizer, clip_and_step, gradient_norm, parameter_groups
from tasks.pretraining.synthetic import synthetic_batch

TOKENS, LENGTHS = 8192, (64, 128, 512)
HOPPER = 90  # whose matmuls beside GELU are ours
FORMATS = MappingProxyType(
    {"": {}, " in fp8": {"in_fp8": True}, " in fp8 alone": {"in_fp8": True, "fp8_weight_gradients": True}}
)

# Compute capability -> warps and KiB of shared memory of an SM: CUDA C++ Programming Guide, technical specifications
# per compute capability. All keep 1 KiB of shared memory per thread block.
MULTIPROCESSORS = MappingProxyType(
    {80: (64, 164), 86: (48, 100), 89: (48, 100), 90: (64, 228), 100: (64, 228), 120: (48, 100)}
)
HEADER = ("kernel", "warps", "registers", "spilled bytes", "shared memory, bytes", "thread blocks per SM")


def launches(arch: int, bert_model: str) -> dict[str, list[Any]]:
    """What steps of a model launch on a GPU of compute capability `arch` / 10, each kernel with each of its settings
    once, while nothing runs: by name the function under `triton.jit`, and the arguments and settings it is called with.
    """
    from triton.runtime import JITFunction

    from kernels.fused import blocks

    found: dict[Any, tuple[Any, ...]] = {}

    def note(function: Any, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        flags = (f", {name}" for name, value in settings.items() if value is True and name != "has_dropout")
        name = f"{function.fn.__name__.lstrip('_')} of {step}{''.join(flags)}"
        found.setdefault((function, *settings.items()), (name, function, arguments, settings))

    meta = torch.device("meta")
    # Of two layers: the first is like all but the last.
    whole = dataclasses.replace(BertConfig.from_json_file(BERT_CONFIGS[bert_model]), num_hidden_layers=2)
    formats = list(FORMATS) if arch >= 89 else [""]  # the first that has fp8
    steps = [*itertools.product(LENGTHS, formats, ["gelu"]), *itertools.product(LENGTHS[:1], formats, ["gelu_new"])]
    row = tuning.row_of(divmod(arch, 10))
    with (
        mock.patch.object(JITFunction, "run", note),
        mock.patch("optimization.triton_problem", return_value=None),
        mock.patch.object(tuning, "row", return_value=row),
        mock.patch.object(blocks, "has_epilogue", return_value=arch == HOPPER),
    ):
        for length, numbers, hidden_act in steps:
            step, config = f"{length} tokens{numbers}", dataclasses.replace(whole, hidden_act=hidden_act)
            with meta:
                model = BertForPreTraining(config)
            kernels = Execution(torch.bfloat16, kernels="triton", attention="triton")
            prepare_model(model, meta, dataclasses.replace(kernels, **FORMATS[numbers]))
            batch = synthetic_batch(TOKENS // length, length, 8, config.vocab_size).to(meta)
            labels = batch.masked_lm_positions, batch.masked_lm_labels, batch.next_sentence_labels
            model(*batch.encoder_inputs, *labels).loss.backward()
        for step in ("adamw", "lamb"):
            optimizer = build_optimizer(step, parameter_groups(model), 1e-4, kernels="triton")
            clip_and_step(optimizer, gradient_norm(optimizer.param_groups), 1.0)
    return {name: launch for name, *launch in found.values()}


def resources(function: Any, arguments: tuple, settings: dict[str, Any], arch: int, path: Path) -> list[int]:
    """Warps, registers, spilled bytes per thread, shared memory per thread block, and the blocks that fit beside each
    other: of a kernel compiled as for a GPU of compute capability `arch` / 10. Its code is left beside `path`."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    gpu = mock.Mock()
    gpu.get_current_target.return_value = GPUTarget("cuda", arch, 32)
    gpu.get_current_device.return_value = arch  # compiled kernels are kept by device
    with mock.patch.object(driver, "_active", gpu):
        found = function.run(*arguments, grid=(1,), warmup=True, **settings)
    path.write_bytes(found.asm["cubin"])
    usage, sass = (
        subprocess.run([knobs.nvidia.cuobjdump.path, option, path], capture_output=True, text=True, check=True).stdout
        for option in ("-res-usage", "-sass")
    )
    path.with_suffix(".ptx").write_text(found.asm["ptx"], encoding="utf-8")
    path.with_suffix(".sass").write_text(sass, encoding="utf-8")
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    n_warps, shared_bytes = found.metadata.num_warps, found.metadata.shared
    return [n_warps, registers, stack, shared_bytes, blocks_per_multiprocessor(arch, n_warps, registers, shared_bytes)]


def blocks_per_multiprocessor(arch: int, n_warps: int, registers: int, shared_bytes: int) -> int:
    """How many thread blocks fit beside each other."""
    max_warps, shared_kib = MULTIPROCESSORS[arch]
    of_a_warp = -(-registers * 32 // 256) * 256  # given out in units of 256
    return min(REGISTERS // of_a_warp // n_warps, (shared_kib << 10) // (shared_bytes + 1024), max_warps // n_warps)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--kernels", default="", help="only those whose name contains this")
    parser.add_argument("--bert_model", default="large", choices=BERT_CONFIGS, help="whose steps")
    parser.add_argument("--arch", type=int, default=90, choices=MULTIPROCESSORS, help="compute capability times ten")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the PTX and the machine code there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile all, and print the table."""
    args = parse_arguments(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise UserError("TRITON_INTERPRET is set, with which nothing is compiled", "unset it")
    if importlib.util.find_spec("triton") is None:
        raise UserError("Triton is not installed", "install it, as requirements-dev.txt does")
    able = launches(args.arch, args.bert_model)
    chosen = {name: launch for name, launch in able.items() if args.kernels in name}
    if not chosen:
        raise UserError(f"--kernels {args.kernels} is in no name", f"there are {', '.join(able)}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, launch in chosen.items():
            found = resources(*launch, args.arch, folder / f"{name.replace(' ', '_')}.cubin")
            rows.append([name, *(f"{number:,}" for number in found)])
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    run_main(main)
