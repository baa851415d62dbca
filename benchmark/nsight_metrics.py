#!/usr/bin/env python3
"""Which of Nsight Compute's metrics say what is wanted, on whatever GPU is there.

  ncu --query-metrics | python3 benchmark/nsight_metrics.py     # the --metrics of ncu for this machine's GPU

Names differ between architectures: half precision has a pipe of its own up to Ampere and is done by the FMA pipe after
it; each generation counts the operations of its tensor cores under other names. So each quantity has a list of names,
and ncu itself is asked which of them it knows. Seen in `ncu --query-metrics --chips CHIP` (Nsight Compute 2025.3) for
tu102, ga100, ad102, gh100, gb100 and gb202. That release knows gv100 (V100) no more; take 2024.3 or older there.

Source: https://docs.nvidia.com/nsight-compute/ProfilingGuide/index.html#metrics-structure
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.errors import UserError, run_main

ACTIVE = ".avg.pct_of_peak_sustained_active"
ELAPSED = ".avg.pct_of_peak_sustained_elapsed"

# Of each quantity the first name that is known.
ONE_OF = MappingProxyType(
    {
        "seconds": ("gpu__time_duration.sum",),
        "cycles": ("sm__cycles_elapsed.max", "sm__cycles_elapsed.avg"),
        "tensor": (f"sm__pipe_tensor_cycles_active{ACTIVE}", f"sm__pipe_tensor_op_hmma_cycles_active{ACTIVE}"),
        "fma": (f"sm__pipe_fma_cycles_active{ACTIVE}", f"sm__inst_executed_pipe_fma{ACTIVE}"),
        "fp16": (f"sm__inst_executed_pipe_fp16{ACTIVE}", f"sm__inst_executed_pipe_fma_type_fp16{ACTIVE}"),
        "sfu": (f"sm__inst_executed_pipe_xu{ACTIVE}",),
        "dram": (f"gpu__dram_throughput{ELAPSED}", f"dram__throughput{ELAPSED}"),
        "sm": (f"sm__throughput{ELAPSED}",),
        "dram_bytes": ("dram__bytes.sum",),
    }
)
SHARES = ("tensor", "fma", "fp16", "sfu", "dram", "sm")

# Floating-point operations: all that are known, added up with their weight. A fused multiply-add is two; the tensor
# cores' counters count its two already.
OPERATIONS = MappingProxyType(
    {
        "sm__sass_thread_inst_executed_op_ffma_pred_on.sum": 2,
        "sm__sass_thread_inst_executed_op_fadd_pred_on.sum": 1,
        "sm__sass_thread_inst_executed_op_fmul_pred_on.sum": 1,
        "sm__ops_path_tensor_src_fp16_bf16_tf32_dst_fp32.sum": 1,
        "sm__ops_path_tensor_src_bf16_dst_fp32.sum": 1,
        "sm__ops_path_tensor_src_tf32_dst_fp32.sum": 1,
        "sm__ops_path_tensor_src_fp16.sum": 1,
        "sm__ops_path_tensor_src_fp16_dst_fp16.sum": 1,
        "sm__ops_path_tensor_src_fp16_dst_fp32.sum": 1,
        "sm__ops_path_tensor_src_fp8.sum": 1,
        "sm__ops_path_tensor_src_fp8_dst_fp16.sum": 1,
        "sm__ops_path_tensor_src_fp8_dst_fp32.sum": 1,
        "sm__ops_path_tensor_src_fp4_fp6_fp8_dst_fp16.sum": 1,
        "sm__ops_path_tensor_src_fp4_fp6_fp8_dst_fp32.sum": 1,
    }
)


def known_metrics(query: Iterable[str]) -> set[str]:
    """The names in what `ncu --query-metrics` prints; a line begins with one, without its suffix."""
    return {words[0] for words in map(str.split, query) if words and "__" in words[0]}


def choose(known: set[str]) -> list[str]:
    """The metrics to measure, of those that are known.

    Raises:
        UserError: time or cycles are not among them, without which nothing can be said.
    """
    chosen = []
    for quantity, names in ONE_OF.items():
        found = next((name for name in names if name.split(".")[0] in known), None)
        if found:
            chosen.append(found)
        elif quantity in ("seconds", "cycles"):
            raise UserError(
                f"ncu knows no metric for {quantity} here ({' or '.join(names)})",
                "see whether `ncu --query-metrics` lists any: without a GPU that it supports, it lists none",
            )
    operations = [name for name in OPERATIONS if name.split(".")[0] in known]
    # Without the tensor cores' part the sum would be of what hardly counts.
    return chosen + operations if any("tensor" in name for name in operations) else chosen


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args(arguments)


def main() -> None:
    """Print what to measure, as --metrics of ncu wants it."""
    parse_arguments()
    print(",".join(choose(known_metrics(sys.stdin))))


if __name__ == "__main__":
    run_main(main)
