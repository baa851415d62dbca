"""BERT over flat tokens.

There is no (batch, sequence) rectangle inside: a batch is a run of T tokens and `cu_seqlens`, the cumulative sequence
lengths, so padding costs nothing and full-length benchmarks run the very same code. padded_model.py serves those who
have rectangles. The heads compute only what is asked: the masked-LM head sees the masked positions alone.

Precision is explicit. Parameters are fp32, always; the embeddings hand their output over in `compute_dtype`, and each
layer casts its weights to the dtype of what it is given (kernels/layers.py says why there is no autocast).

Weights have Google's and NVIDIA's names in every state dict (`bert.encoder.layer.0.attention.self.query.weight`),
whatever is fused inside: hooks split the fused query-key-value product and trim the padded vocabulary on the way out,
and undo both on the way in.

Shape suffixes: T tokens, B sequences, S longest sequence, M masked positions, H hidden size, N heads, D head size,
V vocabulary.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, and google-research/bert, whose initialisation, dropout,
exact GELU and LayerNorm epsilon (1e-12) are followed.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configuration import BertConfig
from kernels.attention import default_backend, variable_length_attention
from kernels.cross_entropy import linear_cross_entropy
from kernels.layers import LayerNorm, Linear, activation_function
from ranges import named_range


class BertEmbeddings(nn.Module):
    """Sum of word, position and segment embeddings, LayerNorm, dropout."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.vocab_size = config.vocab_size
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, layer_norm)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_state_dict_post_hook(_trim_vocabulary)
        self.register_load_state_dict_pre_hook(_pad_vocabulary)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(T,) ids to (T, H) in `dtype`."""
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
    """Multi-head self-attention within each sequence: one product for query, key and value."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.dropout_p = config.attention_probs_dropout_prob
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
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
    """Product, dropout, residual, LayerNorm: the end of the attention block and of the feed-forward block."""

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

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, max_seqlen: int, backend: str) -> Tensor:
        return self.output(self.self(hidden_states, cu_seqlens, max_seqlen, backend), hidden_states)


class DenseActivation(nn.Module):
    """A product and the activation; NVIDIA's files call its weight `dense_act`, which loads as well."""

    def __init__(self, input_size: int, output_size: int, activation: str):
        super().__init__()
        self.dense = Linear(input_size, output_size)
        self.activation = activation_function(activation)
        self.register_load_state_dict_pre_hook(_rename_dense_act)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states))


def _rename_dense_act(module, state_dict, prefix, *unused) -> None:
    for kind in ("weight", "bias"):
        if f"{prefix}dense_act.{kind}" in state_dict:
            state_dict[f"{prefix}dense.{kind}"] = state_dict.pop(f"{prefix}dense_act.{kind}")


class BertLayer(nn.Module):
    """Attention block and feed-forward block."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.attention = BertAttention(config, layer_norm)
        self.intermediate = DenseActivation(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.output = BertOutput(config.intermediate_size, config, layer_norm)

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, max_seqlen: int, backend: str) -> Tensor:
        attended = self.attention(hidden_states, cu_seqlens, max_seqlen, backend)
        return self.output(self.intermediate(attended), attended)


class BertEncoder(nn.Module):
    """The stack of layers; `checkpoint_activations` keeps only each layer's input and computes the rest again."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, layer_norm) for _ in range(config.num_hidden_layers))
        self.checkpoint_activations = False
        self.attention_backend: str | None = None  # None: by device and dtype

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        backend = self.attention_backend or default_backend(hidden_states.device, hidden_states.dtype)
        for number, layer in enumerate(self.layer):
            if self.checkpoint_activations and torch.is_grad_enabled():
                layer = functools.partial(checkpoint, layer, use_reentrant=False)
            with named_range(f"layer {number}"):
                hidden_states = layer(hidden_states, cu_seqlens, max_seqlen, backend)
        return hidden_states


class BertModel(nn.Module):
    """Embeddings and encoder, and the pooler where a head needs it."""

    def __init__(self, config: BertConfig, add_pooler: bool = True, layer_norm: str = "torch"):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embeddings = BertEmbeddings(config, layer_norm)
        self.encoder = BertEncoder(config, layer_norm)
        self.pooler = DenseActivation(config.hidden_size, config.hidden_size, "tanh") if add_pooler else None
        self.apply(functools.partial(_initialise, std=config.initializer_range))
        with torch.no_grad():
            self.embeddings.word_embeddings.weight[config.vocab_size :] = 0

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int
    ) -> Tensor:
        """The last layer's hidden states (T, H) in `compute_dtype`.

        Args:
            input_ids, token_type_ids, position_ids: (T,) integers; positions restart at 0 in each sequence.
            cu_seqlens: (B + 1,) int32, cumulative sequence lengths from 0 to T.
            max_seqlen: no sequence is longer.
        """
        with named_range("embeddings"):
            hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, self.compute_dtype)
        return self.encoder(hidden_states, cu_seqlens, max_seqlen)

    def pool(self, hidden_states: Tensor, cu_seqlens: Tensor, n_sequences: int) -> Tensor:
        """Dense and tanh over the first token, [CLS], of the first `n_sequences` sequences: (n_sequences, H)."""
        return self.pooler(hidden_states.index_select(0, cu_seqlens[:n_sequences]))


def _initialise(module: nn.Module, std: float) -> None:
    """Google's initialisation: normal, cut at two standard deviations; biases zero, LayerNorm the identity."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class PredictionTransform(DenseActivation):
    """What happens to a masked position before the vocabulary product: dense, activation, LayerNorm."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__(config.hidden_size, config.hidden_size, config.hidden_act)
        self.LayerNorm = LayerNorm(config.hidden_size, layer_norm)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(super().forward(hidden_states))


class MaskedLMHead(nn.Module):
    """Predicts the vocabulary at given positions, with the word embeddings as the output weights."""

    def __init__(self, config: BertConfig, layer_norm: str):
        super().__init__()
        self.transform = PredictionTransform(config, layer_norm)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.compile_loss = False

    def padded_bias(self, rows: int) -> Tensor:
        """The bias (rows,) with -inf for the padding of the vocabulary, which so has probability and gradient zero."""
        return F.pad(self.bias, (0, rows - self.bias.shape[0]), value=-torch.inf)

    def loss(self, hidden_states: Tensor, positions: Tensor, labels: Tensor, embedding_weight: Tensor) -> Tensor:
        """Mean loss (scalar, fp32) over the positions (M,) whose label (M,) is not -100."""
        transformed_MH = self.transform(hidden_states.index_select(0, positions))
        bias = self.padded_bias(embedding_weight.shape[0])
        return linear_cross_entropy(transformed_MH, embedding_weight, bias, labels, self.compile_loss)

    def logits(self, hidden_states: Tensor, positions: Tensor, embedding_weight: Tensor) -> Tensor:
        """(M, V) fp32 scores of the vocabulary at the positions (M,)."""
        transformed_MH = self.transform(hidden_states.index_select(0, positions))
        weight = embedding_weight[: self.bias.shape[0]].to(transformed_MH.dtype)
        return F.linear(transformed_MH, weight).float() + self.bias


class PreTrainingHeads(nn.Module):
    """The masked-LM head and, for pre-training, the next-sentence head, under the published names."""

    def __init__(self, config: BertConfig, layer_norm: str, next_sentence: bool):
        super().__init__()
        self.predictions = MaskedLMHead(config, layer_norm)
        self.seq_relationship = Linear(config.hidden_size, 2) if next_sentence else None
        self.apply(functools.partial(_initialise, std=config.initializer_range))


class PreTrainingOutput(NamedTuple):
    """Scalars, fp32: the sum that is trained on and its two parts."""

    loss: Tensor
    mlm_loss: Tensor
    nsp_loss: Tensor


class PreTrainingPredictions(NamedTuple):
    """What the heads say, fp32: (M, V) at the masked positions and (B, 2) for the second sentence (1: random)."""

    masked_lm_logits: Tensor
    next_sentence_logits: Tensor


class _BertWithMaskedLM(nn.Module):
    """What the two pre-training models share: the encoder and a masked-LM head tied to its word embeddings."""

    def __init__(self, config: BertConfig, next_sentence: bool, layer_norm: str):
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooler=next_sentence, layer_norm=layer_norm)
        self.cls = PreTrainingHeads(config, layer_norm, next_sentence)
        self.register_state_dict_post_hook(_add_tied_decoder)
        self.register_load_state_dict_pre_hook(_drop_tied_decoder)

    @property
    def embedding_weight(self) -> Tensor:
        """(padded V, H), fp32."""
        return self.bert.embeddings.word_embeddings.weight


def _add_tied_decoder(module, state_dict, prefix, local_metadata) -> None:
    embedding = state_dict[prefix + "bert.embeddings.word_embeddings.weight"]
    state_dict[prefix + "cls.predictions.decoder.weight"] = embedding


def _drop_tied_decoder(module, state_dict, prefix, *unused) -> None:
    state_dict.pop(prefix + "cls.predictions.decoder.weight", None)
    state_dict.pop(prefix + "cls.predictions.decoder.bias", None)  # Hugging Face's second name for predictions.bias


class BertForPreTraining(_BertWithMaskedLM):
    """BERT with both pre-training heads."""

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        super().__init__(config, next_sentence=True, layer_norm=layer_norm)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        masked_lm_positions: Tensor,
        masked_lm_labels: Tensor,
        next_sentence_labels: Tensor,
    ) -> PreTrainingOutput:
        """The losses of a flat batch, for `BertModel.forward`'s arguments and:

        Args:
            masked_lm_positions: (M,) int64, indices into the T tokens.
            masked_lm_labels: (M,) int64, the masked tokens' true ids; -100 leaves a position out.
            next_sentence_labels: (B,) int64 for the first B sequences; those after them are padding.
        """
        hidden_states = self.bert(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen)
        with named_range("loss"):
            mlm_loss = self.cls.predictions.loss(
                hidden_states, masked_lm_positions, masked_lm_labels, self.embedding_weight
            )
            nsp_logits = self._next_sentence_logits(hidden_states, cu_seqlens, next_sentence_labels.shape[0])
            nsp_loss = F.cross_entropy(nsp_logits, next_sentence_labels)
        return PreTrainingOutput(mlm_loss + nsp_loss, mlm_loss.detach(), nsp_loss.detach())

    def predict(
        self, input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, masked_lm_positions, n_sequences: int
    ) -> PreTrainingPredictions:
        """The scores behind the losses, for the same arguments."""
        hidden_states = self.bert(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen)
        return PreTrainingPredictions(
            self.cls.predictions.logits(hidden_states, masked_lm_positions, self.embedding_weight),
            self._next_sentence_logits(hidden_states, cu_seqlens, n_sequences),
        )

    def _next_sentence_logits(self, hidden_states: Tensor, cu_seqlens: Tensor, n_sequences: int) -> Tensor:
        pooled_BH = self.bert.pool(hidden_states, cu_seqlens, n_sequences)
        return self.cls.seq_relationship(pooled_BH).float()


class BertForMaskedLM(_BertWithMaskedLM):
    """BERT with the masked-LM head alone."""

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        super().__init__(config, next_sentence=False, layer_norm=layer_norm)

    def forward(
        self, input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, masked_lm_positions, masked_lm_labels
    ) -> Tensor:
        """The masked-LM loss, a scalar in fp32; arguments as in `BertForPreTraining.forward`."""
        hidden_states = self.bert(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen)
        return self.cls.predictions.loss(hidden_states, masked_lm_positions, masked_lm_labels, self.embedding_weight)


class QuestionAnsweringOutput(NamedTuple):
    """Scalars, fp32: the mean of the two losses, and these."""

    loss: Tensor
    start_loss: Tensor
    end_loss: Tensor


class BertForQuestionAnswering(nn.Module):
    """BERT with a score for each token to begin and to end the answer."""

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooler=False, layer_norm=layer_norm)
        self.qa_outputs = Linear(config.hidden_size, 2)
        _initialise(self.qa_outputs, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> QuestionAnsweringOutput:
        """The losses of a flat batch, for `BertModel.forward`'s arguments and:

        Args:
            start_positions, end_positions: (B,) int64, the answer's first and last token counted from the beginning of
                its sequence, 0 ([CLS]) where there is none; for the first B sequences, those after them are padding.
        """
        logits = self.predict(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen)
        with named_range("loss"):
            start_loss, end_loss = (
                F.cross_entropy(_by_sequence(scores, cu_seqlens, max_seqlen, positions.shape[0]), positions)
                for scores, positions in zip(logits, (start_positions, end_positions), strict=True)
            )
        return QuestionAnsweringOutput((start_loss + end_loss) / 2, start_loss.detach(), end_loss.detach())

    def predict(
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int
    ) -> tuple[Tensor, Tensor]:
        """(T,) fp32 scores that the answer begins, and ends, at each token; arguments as in `BertModel.forward`."""
        hidden_states = self.bert(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen)
        start_logits, end_logits = self.qa_outputs(hidden_states).float().unbind(1)
        return start_logits, end_logits


def _by_sequence(scores_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, n_sequences: int) -> Tensor:
    """The first sequences' scores (n_sequences, max_seqlen), -inf behind each one's end, so that softmax ignores it."""
    starts, ends = cu_seqlens[:n_sequences, None], cu_seqlens[1 : n_sequences + 1, None]
    tokens_BS = starts + torch.arange(max_seqlen, device=scores_T.device)
    is_token = tokens_BS < ends
    return torch.where(is_token, scores_T[torch.where(is_token, tokens_BS, 0)], -torch.inf)


def compile_regions(model: nn.Module) -> None:
    """Have torch.compile fuse the element-wise work of the embeddings, each layer and the masked-LM head.

    Regions, not the whole: all layers share one compiled code, so it takes seconds and not minutes. The names of the
    weights do not change.
    """
    for module in model.modules():
        if isinstance(module, (BertEmbeddings, BertLayer, PredictionTransform)):
            module.compile()
        if isinstance(module, MaskedLMHead):
            module.compile_loss = True


def prepare_model(
    model: nn.Module, device: torch.device, compute_dtype: torch.dtype, checkpoint_activations: bool, compiled: bool
) -> None:
    """Move a model with a `bert` to its device, and set in which arithmetic and how it runs."""
    model.to(device)
    model.bert.compute_dtype = compute_dtype
    model.bert.encoder.checkpoint_activations = checkpoint_activations
    if compiled:
        compile_regions(model)
