"""Triton's interpreter, mended: it rounds fp32 to fewer bits as GPUs do, to the nearest, ties to even.

The interpreter of Triton 3.7 cuts fp32 to bf16 off, and on the way to e4m3 loses the carry of what rounds up to the
next power of two, so that 31 becomes 16. PyTorch's conversions stand in for both.
"""

import functools

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def mend_rounding() -> None:
    """Have conversions from fp32 to bf16 and e4m3 made by PyTorch, from now on in this process."""
    interpreter._convert_float = functools.partial(_convert_float, interpreter._convert_float)


def _convert_float(original, values, from_type, to_type, rounding_mode):
    narrow = {tl.bfloat16: (torch.bfloat16, np.uint16), tl.float8e4nv: (torch.float8_e4m3fn, np.uint8)}
    if from_type != tl.float32 or to_type not in narrow:
        return original(values, from_type, to_type, rounding_mode)
    dtype, bits = narrow[to_type]
    converted = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(dtype)
    return converted.view(torch.uint8).numpy().view(bits).reshape(values.shape)
