"""Places for gradients of parameters: offered by whoever wants them there, taken by kernels that can write there.

A gradient that is computed elsewhere has to be copied to where it is wanted. So what computes a weight's gradient in a
matmul of its own asks for its place first. A place is taken once: a second use of the weight computes its part
elsewhere, and autograd adds the two.
"""

from torch import Tensor, nn

_NAME = "gradient_place"


def offer(parameter: nn.Parameter, place: Tensor) -> None:
    """Its gradient is wanted in this memory, of its shape, contiguous; what is there now may be overwritten."""
    setattr(parameter, _NAME, place)


def take(parameter: nn.Parameter) -> Tensor | None:
    """The place, where one is offered, which is then no longer offered."""
    return parameter.__dict__.pop(_NAME, None)
