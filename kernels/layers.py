"""Layers with fp32 weights that take part in the input's dtype; docs/design.md says why there is no autocast."""

import functools
import importlib
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

LAYER_NORM_EPS = 1e-12  # Google's and NVIDIA's
# By Hugging Face's names: "gelu" is the exact one, with erf.
GELU_ERF_NAMES = ("gelu", "gelu_python")
GELU_TANH_NAMES = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate")


def quick_gelu(inputs: Tensor) -> Tensor:
    """GELU's approximation by a sigmoid. Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415."""
    return inputs * torch.sigmoid(1.702 * inputs)


ACTIVATIONS = MappingProxyType(
    dict.fromkeys(GELU_ERF_NAMES, F.gelu)
    | dict.fromkeys(GELU_TANH_NAMES, functools.partial(F.gelu, approximate="tanh"))
    | {"quick_gelu": quick_gelu, "relu": F.relu, "silu": F.silu, "swish": F.silu, "tanh": torch.tanh}
)


class Linear(nn.Linear):
    """A linear layer of `n_blocks` weights of equal size, in one matmul; optimizers see them apart."""

    def __init__(self, in_features: int, out_features: int, n_blocks: int = 1):
        super().__init__(in_features, out_features)
        self.n_blocks = n_blocks

    def reset_parameters(self) -> None:
        """Leaves the memory as it is: models draw their own weights (`models.encoder.initialize`)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        return F.linear(hidden_states, self.weight.to(dtype), self.bias.to(dtype))


class Embedding(nn.Embedding):
    """An embedding that draws nothing on the meta device: for that PyTorch would import its compiler, for a second."""

    def reset_parameters(self) -> None:
        """Draws numbers although models draw their own weights: so a seed gives the same weights as ever."""
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its input (statistics in fp32), by PyTorch or by apex's fused kernel."""

    def __init__(self, size: int, implementation: str = "torch"):
        super().__init__(size, eps=LAYER_NORM_EPS)
        self.function = layer_norm_function(implementation)

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return self.function(hidden_states, weight, bias, self.normalized_shape, self.eps)


def layer_norm_function(implementation: str) -> Callable[..., Tensor]:
    """(hidden_states, weight, bias, normalized_shape, eps) -> Tensor, for `torch` or `apex`.

    Raises UserError where apex is asked for and cannot be imported.
    """
    if implementation == "torch":
        return _torch_layer_norm
    try:
        return importlib.import_module("apex.normalization.fused_layer_norm").fused_layer_norm_affine
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--layer_norm apex: NVIDIA's apex cannot be imported here ({error})",
            "build it from https://github.com/NVIDIA/apex (PyPI's package of that name is something else), or use "
            "--layer_norm torch",
        ) from error


def _torch_layer_norm(hidden_states, weight, bias, normalized_shape, eps):
    return F.layer_norm(hidden_states, normalized_shape, weight, bias, eps)
