"""What a GPU could do at most, by its data sheet.

A run is only ever measured against the peak of the format its matmuls were in, and a GPU that is not listed here has
none. All figures are dense: data sheets of Ampere and later give twice as much, for matrices of which half is zero.
fp32 is the rate of the CUDA cores; the others that of the tensor cores, accumulating in fp32.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

VOLTA = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
TURING = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
A100 = "https://www.nvidia.com/en-us/data-center/a100/"
A30 = "https://www.nvidia.com/content/dam/en-zz/Solutions/data-center/products/a30-gpu/pdf/a30-datasheet.pdf"
A10 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a10/pdf/a10-datasheet.pdf"
A40 = "https://images.nvidia.com/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf"
L4 = "https://www.nvidia.com/en-us/data-center/l4/"
L40S = "https://www.nvidia.com/en-us/data-center/l40s/"
H100 = "https://www.nvidia.com/en-us/data-center/h100/"
H200 = "https://www.nvidia.com/en-us/data-center/h200/"
GH200 = "https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip"
BLACKWELL = "https://resources.nvidia.com/en-us-blackwell-architecture"


class DataSheet(NamedTuple):
    """A GPU's peak rates."""

    name: str
    source: str
    terabytes_per_second: float
    """Of its memory."""
    tflops: dict[str, float]
    """By format: fp32, tf32, fp16, bf16, fp8."""


def data_sheets() -> tuple[tuple[str, DataSheet], ...]:
    """Patterns of the names that drivers give GPUs, and what they are; the first that matches counts."""
    a100 = {"fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0}
    h100_sxm = {"fp32": 67.0, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4, "fp8": 1978.9}
    h100_nvl = {"fp32": 60.0, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5, "fp8": 1670.5}
    h100_pcie = {"fp32": 51.0, "tf32": 378.0, "fp16": 756.5, "bf16": 756.5, "fp8": 1513.0}

    def sheet(name: str, source: str, terabytes_per_second: float, **tflops: float) -> DataSheet:
        return DataSheet(name, source, terabytes_per_second, tflops)

    return (
        (r"V100S-PCIE", sheet("V100S PCIe", VOLTA, 1.134, fp32=16.4, fp16=130.0)),
        (r"V100-SXM", sheet("V100 SXM2", VOLTA, 0.9, fp32=15.7, fp16=125.0)),
        (r"V100-PCIE", sheet("V100 PCIe", VOLTA, 0.9, fp32=14.0, fp16=112.0)),
        (r"T4$", sheet("T4", TURING, 0.32, fp32=8.1, fp16=65.0)),
        (r"A100-SXM4-40GB", sheet("A100 40 GB SXM", A100, 1.555, **a100)),
        (r"A100-SXM4-80GB", sheet("A100 80 GB SXM", A100, 2.039, **a100)),
        (r"A100-PCIE-40GB", sheet("A100 40 GB PCIe", A100, 1.555, **a100)),
        (r"A100 80GB PCIe", sheet("A100 80 GB PCIe", A100, 1.935, **a100)),
        (r"A30$", sheet("A30", A30, 0.933, fp32=10.3, tf32=82.0, fp16=165.0, bf16=165.0)),
        (r"A10$", sheet("A10", A10, 0.6, fp32=31.2, tf32=62.5, fp16=125.0, bf16=125.0)),
        (r"A40$", sheet("A40", A40, 0.696, fp32=37.4, tf32=74.8, fp16=149.7, bf16=149.7)),
        (r"L4$", sheet("L4", L4, 0.3, fp32=30.3, tf32=60.0, fp16=121.0, bf16=121.0, fp8=242.5)),
        (r"L40S$", sheet("L40S", L40S, 0.864, fp32=91.6, tf32=183.0, fp16=362.05, bf16=362.05, fp8=733.0)),
        (r"GH200", sheet("GH200", GH200, 4.0, **h100_sxm)),
        (r"H200 NVL", sheet("H200 NVL", H200, 4.8, **h100_nvl)),
        (r"H200$", sheet("H200 SXM", H200, 4.8, **h100_sxm)),
        (r"H100 NVL", sheet("H100 NVL", H100, 3.9, **h100_nvl)),
        (r"H100 PCIe", sheet("H100 PCIe", H100, 2.0, **h100_pcie)),
        (r"H100 80GB HBM3", sheet("H100 SXM", H100, 3.35, **h100_sxm)),
        (r"GB200", sheet("GB200", BLACKWELL, 8.0, fp32=80.0, tf32=1250.0, fp16=2500.0, bf16=2500.0, fp8=5000.0)),
        (r"B200$", sheet("B200 SXM", BLACKWELL, 7.7, fp32=75.0, tf32=1100.0, fp16=2250.0, bf16=2250.0, fp8=4500.0)),
    )


def find_data_sheet(gpu: str) -> DataSheet | None:
    """The data sheet of a GPU by its driver's name, such as `NVIDIA H200`; None of others, and of parts (MIG)."""
    found = (sheet for pattern, sheet in data_sheets() if re.search(rf"\b{pattern}", gpu) and "MIG" not in gpu)
    return next(found, None)


def utilization(tflops: float, gpus: Sequence[str | None], precision: str) -> dict | None:
    """The share of the peak that `tflops` of all these GPUs (None: a CPU) together are, in the format of their matmuls.

    `fraction`, `peak_tflops` of all GPUs, `peak` (what that is) and `source`; None where one of them has no known peak.
    """
    sheets = [find_data_sheet(gpu or "") for gpu in gpus]
    if not sheets or any(sheet is None or precision not in sheet.tflops for sheet in sheets):
        return None
    peak = sum(sheet.tflops[precision] for sheet in sheets)
    names = list(dict.fromkeys(sheet.name for sheet in sheets))
    return {
        "fraction": tflops / peak,
        "peak_tflops": peak,
        "peak": f"{' and '.join(names)} data sheet, dense {precision}",
        "source": " ".join(dict.fromkeys(sheet.source for sheet in sheets)),
    }
