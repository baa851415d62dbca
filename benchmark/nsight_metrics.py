#!/usr/bin/env python3
"""Which metrics Nsight Compute is to measure on the GPU of this machine.

  ncu --query-metrics | python3 benchmark/nsight_metrics.py     # prints what to give ncu as --metrics

Architectures name things differently, so ncu itself is asked which of the names it knows. The names were seen in
`ncu --query-metrics --chips CHIP` (Nsight Compute 2025.3) for tu102, ga100, ad102, gh100, gb100 and gb202.

Source: https://docs.nvidia.com/nsight-compute/ProfilingGuide/index.html#metrics-structure
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import parser_of
from common.errors import UserError, run_main

ACTIVE = ".avg.pct_of_peak_sustained_active"
ELAPSED = ".avg.pct_of_peak_sustained_elapsed"
TIME, CYCLES = "gpu__time_duration.sum", "sm__cycles_elapsed.max"
SHARES = ("tensor", "fma", "fp16", "sfu", "dram", "sm")

# Name of a metric -> the quantity that it stands for.
QUANTITIES = MappingProxyType(
    {
        TIME: "seconds",
        CYCLES: "cycles",
        f"sm__pipe_tensor_cycles_active{ACTIVE}": "tensor",
        f"sm__pipe_fma_cycles_active{ACTIVE}": "fma",
        f"sm__inst_executed_pipe_fp16{ACTIVE}": "fp16",  # Turing, A100
        f"sm__inst_executed_pipe_fma_type_fp16{ACTIVE}": "fp16",  # from Ada on
        f"sm__inst_executed_pipe_xu{ACTIVE}": "sfu",
        f"gpu__dram_throughput{ELAPSED}": "dram",
        f"sm__throughput{ELAPSED}": "sm",
        "dram__bytes.sum": "dram_bytes",
    }
)

# Floating-point operations: all that are known, added up with their weight. A fused multiply-add is two; the tensor
# cores' counters count its two already.
FP16 = ("fp16_bf16_tf32_dst_fp32", "bf16_dst_fp32", "tf32_dst_fp32", "fp16", "fp16_dst_fp16", "fp16_dst_fp32")
FP8 = ("fp8", "fp8_dst_fp16", "fp8_dst_fp32", "fp4_fp6_fp8_dst_fp16", "fp4_fp6_fp8_dst_fp32")
OPERATIONS = MappingProxyType(
    {f"sm__ops_path_tensor_src_{formats}.sum": 1 for formats in FP16 + FP8}
    | {f"sm__sass_thread_inst_executed_op_{name}_pred_on.sum": n for name, n in (("ffma", 2), ("fadd", 1), ("fmul", 1))}
)


def choose(query: Iterable[str]) -> list[str]:
    """The metrics to measure, of those that the lines of `ncu --query-metrics` begin with, there without a suffix; a
    UserError if time or cycles are not among them, without which nothing can be said."""
    known = {words[0] for words in map(str.split, query) if words}
    chosen = [name for name in QUANTITIES if name.split(".")[0] in known]
    if missing := {TIME, CYCLES} - set(chosen):
        raise UserError(
            f"ncu does not know {' and '.join(sorted(missing))} here",
            "see whether `ncu --query-metrics` lists any metric: without a GPU that it supports, it lists none",
        )
    operations = [name for name in OPERATIONS if name.split(".")[0] in known]
    # Without the tensor cores' part the sum would be of what hardly counts.
    return chosen + operations if any("tensor" in name for name in operations) else chosen


def main() -> None:
    """Print what to measure, as --metrics of ncu wants it."""
    parser_of(__doc__).parse_args()
    print(",".join(choose(sys.stdin)))


if __name__ == "__main__":
    run_main(main)
