"""BERT's encoder over flat tokens.

A batch is a run of T tokens and `cu_seqlens`, the cumulative sequence lengths, so padding costs nothing. Parameters are
fp32, always; the embeddings hand their output over in `compute_dtype`, and each layer casts its weights to the dtype of
what it is given, or for fused layers the encoder does, for all of them together (kernels/fused/linear.py says why).

Weights have Google's and NVIDIA's names in every state dict, whatever is fused inside: hooks split the fused
query-key-value weight and trim the padded vocabulary on the way out, and undo both on the way in.

Shape suffixes: T tokens, R tokens that are read, B sequences, H hidden size, N heads, D head size.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, and google-research/bert, whose initialization, dropout
and LayerNorm epsilon (1e-12) are followed. The form of GELU is what `hidden_act` says, in Hugging Face's names.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.profiler_ranges import named_range
from kernels.attention.backends import default_backend, variable_length_attention
from kernels.layers import ACTIVATIONS, GELU_TANH_NAMES, Embedding, LayerNorm, Linear
from models.config import BertConfig

if TYPE_CHECKING:
    from kernels.fused.blocks import Hidden
    from kernels.fused.linear import Prepared


class BertEmbeddings(nn.Module):
    """Sum of word, position and segment embeddings, LayerNorm, dropout; `is_fused`: by kernels/fused/embeddings.py."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.vocab_size = config.vocab_size
        self.word_embeddings = Embedding(config.padded_vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, layer_norm)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.is_fused = False
        self.register_state_dict_post_hook(_trim_vocabulary)
        self.register_load_state_dict_pre_hook(_pad_vocabulary)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, dtype: torch.dtype
    ) -> "Tensor | Hidden":
        """(T,) ids to (T, H) in `dtype`; where it is fused, as fused layers take them."""
        if self.is_fused:
            from kernels.fused.embeddings import embed  # needs Triton

            tables = self.word_embeddings, self.position_embeddings, self.token_type_embeddings
            ids, dropout_p = (input_ids, position_ids, token_type_ids), self.dropout.p if self.training else 0.0
            return embed(ids, [table.weight for table in tables], self.LayerNorm, dropout_p, dtype)
        embeddings = self.word_embeddings(input_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings).to(dtype))


def _trim_vocabulary(module, state_dict, prefix, local_metadata) -> None:
    name = prefix + "word_embeddings.weight"
    state_dict[name] = state_dict[name][: module.vocab_size]


def _pad_vocabulary(module, state_dict, prefix, *unused) -> None:
    # Files may hold the exact vocabulary (Google, Hugging Face, ours) or one padded with meaningless rows (NVIDIA's).
    name = prefix + "word_embeddings.weight"
    weight, rows = state_dict.get(name), module.word_embeddings.weight.shape[0]
    if weight is not None and module.vocab_size <= weight.shape[0] <= rows:
        weight = weight[: module.vocab_size]
        state_dict[name] = F.pad(weight, (0, 0, 0, rows - weight.shape[0]))


class BertSelfAttention(nn.Module):
    """Multi-head self-attention within each sequence: one matmul for query, key and value."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.dropout_p = config.attention_probs_dropout_prob
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, n_blocks=3)
        self.register_state_dict_post_hook(_split_query_key_value)
        self.register_load_state_dict_pre_hook(_fuse_query_key_value)

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, max_seqlen: int, backend: str) -> Tensor:
        qkv_T3ND = self.query_key_value(hidden_states).unflatten(1, (3, self.n_heads, -1))
        dropout_p = self.dropout_p if self.training else 0.0
        return variable_length_attention(qkv_T3ND, cu_seqlens, max_seqlen, dropout_p, backend).flatten(1)


def _split_query_key_value(module, state_dict, prefix, local_metadata) -> None:
    for kind in ("weight", "bias"):
        fused = state_dict.pop(f"{prefix}query_key_value.{kind}")
        for name, part in zip(("query", "key", "value"), fused.chunk(3), strict=True):
            state_dict[f"{prefix}{name}.{kind}"] = part


def _fuse_query_key_value(module, state_dict, prefix, *unused) -> None:
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in ("query", "key", "value")]
        if all(name in state_dict for name in names):
            state_dict[f"{prefix}query_key_value.{kind}"] = torch.cat([state_dict.pop(name) for name in names])


class BertOutput(nn.Module):
    """Linear layer, dropout, residual, LayerNorm: the end of the attention block and of the feed-forward block."""

    def __init__(self, input_size: int, config: BertConfig, layer_norm: str):
        super().__init__()
        self.dense = Linear(input_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, layer_norm)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class BertAttention(nn.Module):
    """The attention block. Its attributes are named for the published weights (`attention.self.query`)."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config.hidden_size, config, layer_norm)

    def forward(
        self, hidden_states: Tensor, cu_seqlens: Tensor, max_seqlen: int, backend: str, tokens: Tensor | None = None
    ) -> Tensor:
        attended = self.self(hidden_states, cu_seqlens, max_seqlen, backend)
        if tokens is not None:
            attended, hidden_states = (states.index_select(0, tokens) for states in (attended, hidden_states))
        return self.output(attended, hidden_states)


class DenseActivation(nn.Module):
    """A linear layer and the activation; NVIDIA's files call its weight `dense_act`, which loads as well."""

    def __init__(self, input_size: int, output_size: int, activation: str):
        super().__init__()
        self.dense = Linear(input_size, output_size)
        self.activation = ACTIVATIONS[activation]
        self.register_load_state_dict_pre_hook(_rename_dense_act)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states))


def _rename_dense_act(module, state_dict, prefix, *unused) -> None:
    for kind in ("weight", "bias"):
        if f"{prefix}dense_act.{kind}" in state_dict:
            state_dict[f"{prefix}dense.{kind}"] = state_dict.pop(f"{prefix}dense_act.{kind}")


class BertLayer(nn.Module):
    """Attention block and feed-forward block, as modules or, with `is_fused`, by kernels/fused/blocks.py.

    Where a fused layer follows, one with `returns_hidden` returns what that can use, and not the hidden states alone;
    with `leaves_fp8`, in fp8 as well.
    """

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.attention = BertAttention(config, layer_norm)
        self.intermediate = DenseActivation(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.output = BertOutput(config.intermediate_size, config, layer_norm)
        self.gelu_by_tanh = config.hidden_act in GELU_TANH_NAMES
        self.is_fused = self.in_fp8 = self.fp8_weight_gradients = False
        self.returns_hidden = self.leaves_fp8 = False

    def forward(
        self,
        hidden_states: "Tensor | Hidden",
        cu_seqlens: Tensor,
        max_seqlen: int,
        backend: str,
        prepared: "Sequence[Prepared] | None" = None,
        tokens: Tensor | None = None,
    ) -> "Tensor | Hidden":
        """(T, H) to (T, H), or to (R, H) where `tokens` (R,) says which are computed behind attention.

        `prepared` is what `prepare_layers` made of a fused layer's parameters.
        """
        if self.is_fused:
            return self._forward_fused(hidden_states, (cu_seqlens, max_seqlen), backend, prepared, tokens)
        attended = self.attention(hidden_states, cu_seqlens, max_seqlen, backend, tokens)
        return self.output(self.intermediate(attended), attended)

    def _forward_fused(self, hidden, lengths, backend, prepared, tokens) -> "Tensor | Hidden":
        from kernels.fused.blocks import Attention, Gelu, Hidden, fused_block  # needs Triton

        if torch.is_tensor(hidden):  # which comes from elsewhere, so that autograd adds the two gradients
            hidden = Hidden(hidden, hidden)
        inner, end = self.attention.self, self.attention.output
        attention_p, hidden_p = (inner.dropout_p, self.output.dropout.p) if self.training else (0.0, 0.0)
        attention, gelu = Attention(inner.n_heads, *lengths, attention_p, backend, tokens), Gelu(self.gelu_by_tanh)
        query_key_value, attention_output, intermediate, output = self.linears()
        attended = fused_block(
            hidden, query_key_value, attention, attention_output, end.LayerNorm, prepared[:2], hidden_p, self.in_fp8
        )
        norm = self.output.LayerNorm
        hidden = fused_block(attended, intermediate, gelu, output, norm, prepared[2:], hidden_p, self.leaves_fp8)
        return hidden if self.returns_hidden else hidden.states

    def linears(self) -> tuple[Linear, ...]:
        """The linear layers, in order."""
        block = self.attention
        return block.self.query_key_value, block.output.dense, self.intermediate.dense, self.output.dense


def prepare_layers(layers: Sequence[BertLayer], dtype: torch.dtype) -> "list[Sequence[Prepared]]":
    """What the matmuls of each fused layer take for activations in `dtype`, those of all layers made together."""
    from kernels.fused.linear import prepare  # needs Triton

    alike = zip(*(layer.linears() for layer in layers), strict=True)
    in_fp8 = layers[0].in_fp8, layers[0].fp8_weight_gradients
    return list(zip(*(prepare(linears, dtype, *in_fp8) for linears in alike), strict=True))


class BertEncoder(nn.Module):
    """The stack of layers; `checkpoint_activations` keeps only each layer's input and computes the rest again."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, layer_norm) for _ in range(config.num_hidden_layers))
        self.checkpoint_activations = False
        self.attention_backend: str | None = None  # None: by device and dtype

    def forward(
        self, hidden_states: "Tensor | Hidden", cu_seqlens: Tensor, max_seqlen: int, tokens: Tensor | None = None
    ) -> Tensor:
        """The last layer's hidden states (T, H), or (R, H) of `tokens` (R,) alone."""
        states = hidden_states if torch.is_tensor(hidden_states) else hidden_states.states
        backend = self.attention_backend or default_backend(states.device, states.dtype)
        prepared = [None] * len(self.layer)
        if self.layer[0].is_fused:
            prepared = prepare_layers(self.layer, states.dtype)
        for number, layer in enumerate(self.layer):
            if self.checkpoint_activations and torch.is_grad_enabled():
                layer = functools.partial(checkpoint, layer, use_reentrant=False)
            read = tokens if number == len(self.layer) - 1 else None
            with named_range(f"layer {number}"):
                hidden_states = layer(hidden_states, cu_seqlens, max_seqlen, backend, prepared[number], read)
        return hidden_states


class BertModel(nn.Module):
    """Embeddings and encoder, and where a head needs it the pooler, dense and tanh over the hidden states of [CLS]."""

    def __init__(self, config: BertConfig, add_pooler: bool = True, layer_norm: str = "torch"):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embeddings = BertEmbeddings(config, layer_norm)
        self.encoder = BertEncoder(config, layer_norm)
        self.pooler = DenseActivation(config.hidden_size, config.hidden_size, "tanh") if add_pooler else None
        self.apply(functools.partial(initialize, std=config.initializer_range))
        with torch.no_grad():
            self.embeddings.word_embeddings.weight[config.vocab_size :] = 0

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """The last layer's hidden states in `compute_dtype`: (T, H), or (R, H) of `tokens` alone.

        Args:
            input_ids, token_type_ids, position_ids: (T,) integers; positions restart at 0 in each sequence.
            cu_seqlens: (B + 1,) int32, cumulative sequence lengths from 0 to T.
            max_seqlen: no sequence is longer.
            tokens: (R,) int64, the tokens that are read, in the order of the result; one may come more than once.
                Behind attention, the last layer computes no other.
        """
        with named_range("embeddings"):
            hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, self.compute_dtype)
        return self.encoder(hidden_states, cu_seqlens, max_seqlen, tokens)


def initialize(module: nn.Module, std: float) -> None:
    """Google's initialization: normal, cut at two standard deviations; biases zero, LayerNorm the identity."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        draw_truncated_normal(module.weight, std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


@torch.no_grad()
def draw_truncated_normal(weight: Tensor, std: float) -> None:
    """Fill a weight from a normal distribution of mean 0, cut at two standard deviations.

    By the inverse of the distribution function, as `nn.init.trunc_normal_` did up to PyTorch 2.11: a seed draws the
    same weights in all versions. That of 2.13 draws until every number is inside, and takes seven times as long.
    """
    if weight.is_meta:
        return  # as in kernels.layers.Embedding
    share_inside = math.erf(math.sqrt(2.0))
    weight.uniform_(-share_inside, share_inside).erfinv_().mul_(std * math.sqrt(2.0)).clamp_(-2 * std, 2 * std)
