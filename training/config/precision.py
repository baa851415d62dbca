"""Which arithmetic the matmuls run in.

The model keeps fp32 parameters and casts each weight to the compute dtype itself. There is no autocast: it hides where
the casts are, and returns LayerNorm's output in fp32. fp8 is bf16 in which the encoder's matmuls take factors in fp8;
it belongs to the fused Triton kernels, which cast in passing.
"""

import dataclasses
from types import MappingProxyType

import torch

from common.errors import Problem

COMPUTE_DTYPES = MappingProxyType(
    {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
)
PRECISIONS = tuple(COMPUTE_DTYPES)
NEEDED_CAPABILITY = MappingProxyType({"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)})


@dataclasses.dataclass(frozen=True)
class Precision:
    """A resolved `--precision`."""

    name: str
    compute_dtype: torch.dtype

    def apply(self) -> None:
        """Set the process-wide precision of fp32 matmuls: the one global switch that this choice needs."""
        torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")


def resolve_precision(name: str | None, device: torch.device) -> Precision:
    """The precision of this name; None stands for bf16 where a GPU computes it natively, else fp32."""
    if name is None:
        name = "bf16" if device.type == "cuda" and precision_problem("bf16", device) is None else "fp32"
    return Precision(name, COMPUTE_DTYPES[name])


def precision_problem(name: str, device: torch.device) -> Problem | None:
    """Why this device cannot compute in this precision; None when it can.

    On a CPU 16 bits and fp8 are allowed: emulated where the hardware lacks them, and good for trying things out.
    """
    if device.type != "cuda":
        problem = f"--precision tf32 exists on NVIDIA GPUs only, and this run is on {device.type}"
        return Problem(problem, "use fp32 there") if name == "tf32" else None
    needed, capability = NEEDED_CAPABILITY.get(name, (0, 0)), torch.cuda.get_device_capability(device)
    if capability >= needed:
        return None
    needs, has = ("{}.{}".format(*version) for version in (needed, capability))
    gpu, instead = torch.cuda.get_device_name(device), "bf16" if name == "fp8" else "fp16 or fp32"
    return Problem(
        f"--precision {name} needs compute capability {needs} or higher, and {gpu} has {has}", f"use {instead}"
    )
