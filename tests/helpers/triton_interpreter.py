"""Triton's interpreter, mended: it rounds as GPUs do, to the nearest and ties to even, and can multiply bf16.

The interpreter of Triton 3.7 cuts fp32 to bf16 off, and on the way to e4m3, from fp16 too, loses the carry of what
rounds up to the next power of two, so that 31 becomes 16. PyTorch's conversions stand in for both. And it multiplies
matrices of bf16 as the integers that it keeps their bits in; here they are made fp32 first, in which every bf16 is
exact.
"""

import functools

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    """Do all of that, from now on in this process."""
    interpreter._convert_float = functools.partial(_convert_float, interpreter._convert_float)
    builder = interpreter.InterpreterBuilder
    builder.create_dot = functools.partialmethod(_create_dot, builder.create_dot)
    patch_once = functools.cache(interpreter._patch_lang)
    interpreter.InterpretedFunction.__call__ = lambda *given, **named: _call_from_kernel(patch_once, *given, **named)


def _call_from_kernel(patch_once, function, *args, **kwargs):
    """A function of `triton.jit` that a kernel calls, or that triton.language has.

    The interpreter replaces the operations of triton.language at a kernel's launch, and once more at each such call:
    a third of the time that tests of kernels take. What the latter replaces beyond the former is never put back, so
    once is enough.
    """
    patch_once(function.fn)
    return function.rewrite()(*args, **kwargs)


def _convert_float(original, values, from_type, to_type, rounding_mode):
    narrow = {tl.bfloat16: (torch.bfloat16, np.uint16), tl.float8e4nv: (torch.float8_e4m3fn, np.uint8)}
    if from_type not in (tl.float32, tl.float16) or to_type not in narrow:
        return original(values, from_type, to_type, rounding_mode)
    dtype, bits = narrow[to_type]
    converted = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(dtype)
    return converted.view(torch.uint8).numpy().view(bits).reshape(values.shape)


def _create_dot(builder, original, left, right, *rest):
    return original(builder, _in_fp32(left), _in_fp32(right), *rest)


def _in_fp32(factor):
    if factor.dtype.scalar != tl.bfloat16:
        return factor
    return interpreter.TensorHandle((factor.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
