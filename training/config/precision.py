"""Which arithmetic the matmuls run in.

The model keeps fp32 parameters and casts each weight to the compute dtype itself, so a precision is two facts: that
dtype, and whether fp32 matmuls may use TF32. There is no autocast: it hides where the casts are, and returns
LayerNorm's output in fp32.

fp8 is bf16 in which the encoder's matmuls take factors in fp8. It belongs to the fused Triton kernels, which cast in
passing.
"""

import dataclasses

import torch

from common.errors import Problem

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")
BF16_CAPABILITY, FP8_CAPABILITY = (8, 0), (8, 9)


@dataclasses.dataclass(frozen=True)
class Precision:
    """A resolved `--precision`."""

    name: str
    compute_dtype: torch.dtype
    float32_matmul: str
    """For `torch.set_float32_matmul_precision`: `highest` is IEEE fp32, `high` is TF32."""

    @property
    def in_fp8(self) -> bool:
        """Whether the encoder's matmuls run in fp8, forward and to their inputs; all else is in `compute_dtype`."""
        return self.name == "fp8"

    @property
    def matmul_format(self) -> str | None:
        """The one format of all matmuls; None where they have several, and so no peak."""
        return None if self.in_fp8 else self.name

    def apply(self) -> None:
        """Set the process-wide precision of fp32 matmuls: the one global switch that this choice needs."""
        torch.set_float32_matmul_precision(self.float32_matmul)


def resolve_precision(name: str | None, device: torch.device) -> Precision:
    """The precision of this name; None stands for bf16 where a GPU computes it natively, else fp32.

    Raises:
        ValueError: unknown name, or one that `precision_problem` complains of.
    """
    if name is None:
        name = "bf16" if device.type == "cuda" and precision_problem("bf16", device) is None else "fp32"
    if problem := precision_problem(name, device):
        raise ValueError(str(problem))
    compute_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}.get(name, torch.float32)
    return Precision(name, compute_dtype, "high" if name == "tf32" else "highest")


def precision_problem(name: str, device: torch.device) -> Problem | None:
    """Why this device cannot compute in this precision; None when it can.

    On a CPU 16 bits and fp8 are allowed: emulated where the hardware lacks them, and good for trying things out.
    """
    if name not in PRECISIONS:
        return Problem(f"--precision {name} is unknown", f"choose one of {', '.join(PRECISIONS)}")
    if name == "tf32" and device.type != "cuda":
        return Problem(
            f"--precision tf32 exists on NVIDIA GPUs only, and this run is on {device.type}", "use fp32 there"
        )
    if name in ("fp32", "fp16") or device.type != "cuda":
        return None
    needed, instead = (FP8_CAPABILITY, "bf16") if name == "fp8" else (BF16_CAPABILITY, "fp16 or fp32")
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None or capability >= needed:
        return None
    gpu = torch.cuda.get_device_name(device)
    needs, has = ("{}.{}".format(*version) for version in (needed, capability))
    return Problem(
        f"--precision {name} needs compute capability {needs} or higher, and {gpu} has {has}", f"use {instead}"
    )
