"""BERT's heads, and the models that people train: an encoder (models/encoder.py) with what is asked of it.

The heads see [CLS] and the masked positions alone, and behind attention so does the last layer. The vocabulary is
padded to a multiple of 8 inside, and exact in every state dict.

Shape suffixes: T tokens, B sequences, S longest sequence, M masked positions, H hidden size, V vocabulary.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.profiler_ranges import named_range
from kernels.cross_entropy import IGNORE_INDEX, linear_cross_entropy
from kernels.layers import LayerNorm, Linear
from models.config import BertConfig, Execution
from models.encoder import BertEmbeddings, BertLayer, BertModel, DenseActivation, initialize

COMPILED_LIMIT = 16  # twice PyTorch's: what is compiled of the last layer counts with what is of the others


class PredictionTransform(DenseActivation):
    """What happens to a masked position before the matmul with the vocabulary: dense, activation, LayerNorm."""

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
        self.loss_passes = "torch"

    def loss(self, hidden_MH: Tensor, labels: Tensor, embedding_weight: Tensor) -> Tensor:
        """Mean loss (scalar, fp32) over the positions whose label (M,) is not -100."""
        transformed_MH = self.transform(hidden_MH)
        # -inf for the padding of the vocabulary, which so has probability and gradient zero.
        bias = F.pad(self.bias, (0, len(embedding_weight) - len(self.bias)), value=-torch.inf)
        return linear_cross_entropy(transformed_MH, embedding_weight, bias, labels, self.loss_passes)

    def logits(self, hidden_MH: Tensor, embedding_weight: Tensor) -> Tensor:
        """(M, V) fp32 scores of the vocabulary."""
        transformed_MH = self.transform(hidden_MH)
        weight = embedding_weight[: self.bias.shape[0]].to(transformed_MH.dtype)
        return F.linear(transformed_MH, weight).float() + self.bias


class PreTrainingHeads(nn.Module):
    """The masked-LM head and, for pre-training, the next-sentence head, under the published names."""

    def __init__(self, config: BertConfig, layer_norm: str, next_sentence: bool):
        super().__init__()
        self.predictions = MaskedLMHead(config, layer_norm)
        self.seq_relationship = Linear(config.hidden_size, 2) if next_sentence else None
        self.apply(functools.partial(initialize, std=config.initializer_range))


class PreTrainingOutput(NamedTuple):
    """Scalars, fp32: the sum that is trained on and its two parts."""

    loss: Tensor
    mlm_loss: Tensor
    nsp_loss: Tensor


class PreTrainingPredictions(NamedTuple):
    """What the heads say, fp32: (M, V) at the masked positions and (B, 2) for the second sentence (1: random)."""

    masked_lm_logits: Tensor
    next_sentence_logits: Tensor


def _add_tied_decoder(module, state_dict, prefix, local_metadata) -> None:
    embedding = state_dict[prefix + "bert.embeddings.word_embeddings.weight"]
    state_dict[prefix + "cls.predictions.decoder.weight"] = embedding


def _drop_tied_decoder(module, state_dict, prefix, *unused) -> None:
    state_dict.pop(prefix + "cls.predictions.decoder.weight", None)
    state_dict.pop(prefix + "cls.predictions.decoder.bias", None)  # Hugging Face's second name for predictions.bias


class BertForPreTraining(nn.Module):
    """BERT with both pre-training heads, the masked-LM head tied to the word embeddings."""

    next_sentence = True

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        super().__init__()
        self.config = config
        self.is_dense = True  # False: the vocabulary is multiplied out at every token, for comparison
        self.bert = BertModel(config, add_pooler=self.next_sentence, layer_norm=layer_norm)
        self.cls = PreTrainingHeads(config, layer_norm, self.next_sentence)
        self.register_state_dict_post_hook(_add_tied_decoder)
        self.register_load_state_dict_pre_hook(_drop_tied_decoder)

    @property
    def embedding_weight(self) -> Tensor:
        """(padded V, H), fp32."""
        return self.bert.embeddings.word_embeddings.weight

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
        if not self.is_dense:
            masked_lm_labels = _labels_everywhere(masked_lm_positions, masked_lm_labels, len(input_ids))
            masked_lm_positions = torch.arange(len(input_ids), device=input_ids.device)
        inputs = input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen
        firsts = cu_seqlens[: next_sentence_labels.shape[0]]
        first_BH, hidden_MH = self._hidden_states(inputs, firsts, masked_lm_positions)
        with named_range("loss"):
            mlm_loss = self.cls.predictions.loss(hidden_MH, masked_lm_labels, self.embedding_weight)
            nsp_loss = F.cross_entropy(self._next_sentence_logits(first_BH), next_sentence_labels)
        return PreTrainingOutput(mlm_loss + nsp_loss, mlm_loss.detach(), nsp_loss.detach())

    def predict(
        self, input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, masked_lm_positions, n_sequences: int
    ) -> PreTrainingPredictions:
        """The scores behind the losses, for the same arguments."""
        inputs = input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen
        first_BH, hidden_MH = self._hidden_states(inputs, cu_seqlens[:n_sequences], masked_lm_positions)
        masked_lm_logits = self.cls.predictions.logits(hidden_MH, self.embedding_weight)
        return PreTrainingPredictions(masked_lm_logits, self._next_sentence_logits(first_BH))

    def _hidden_states(self, inputs: tuple, firsts: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads read: (B, H) of the sequences' first tokens (B,), [CLS], and (M, H) at the positions (M,)."""
        hidden_states = self.bert(*inputs, torch.cat([firsts, positions]))
        return hidden_states.split([len(firsts), len(positions)])

    def _next_sentence_logits(self, first_BH: Tensor) -> Tensor:
        return self.cls.seq_relationship(self.bert.pooler(first_BH)).float()


def _labels_everywhere(positions: Tensor, labels: Tensor, n_tokens: int) -> Tensor:
    """(T,) labels of all tokens, -100 where none is masked."""
    everywhere = torch.full((n_tokens,), IGNORE_INDEX, dtype=labels.dtype, device=labels.device)
    # What fills the masked positions up points at a token too, with the label -100, the least there is.
    return everywhere.scatter_reduce(0, positions, labels, "amax")


class BertForMaskedLM(BertForPreTraining):
    """The weights of BERT with the masked-LM head alone, which others publish and nothing here trains."""

    next_sentence = False


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
        initialize(self.qa_outputs, config.initializer_range)

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


class BertForSequenceClassification(nn.Module):
    """BERT with scores of classes for each sequence, by the pooled [CLS]."""

    n_outputs = 2

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        super().__init__()
        self.config = config
        self.bert = BertModel(config, layer_norm=layer_norm)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = Linear(config.hidden_size, self.n_outputs)
        initialize(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        labels: Tensor,
    ) -> Tensor:
        """The mean loss (scalar, fp32) of a flat batch, for `BertModel.forward`'s arguments and:

        Args:
            labels: (B,), of the first B sequences; those after them are padding. Classes as int64; of
                `BertForSequenceRegression` scores as fp32, whose squared distances are the loss.
        """
        n_sequences = labels.shape[0]
        outputs = self.predict(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, n_sequences)
        with named_range("loss"):
            return F.cross_entropy(outputs, labels) if self.n_outputs > 1 else F.mse_loss(outputs.squeeze(1), labels)

    def predict(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        n_sequences: int,
    ) -> Tensor:
        """(n_sequences, n_outputs) fp32 scores of the first sequences, for `BertModel.forward`'s arguments."""
        inputs = input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen
        pooled_BH = self.bert.pooler(self.bert(*inputs, cu_seqlens[:n_sequences].long()))
        return self.classifier(self.dropout(pooled_BH)).float()


class BertForThreeClasses(BertForSequenceClassification):
    """Of which there are three in natural language inference."""

    n_outputs = 3


class BertForSequenceRegression(BertForSequenceClassification):
    """One number for each sequence."""

    n_outputs = 1


SEQUENCE_MODELS = (BertForSequenceRegression, BertForSequenceClassification, BertForThreeClasses)
"""Of 1, 2 and 3 outputs."""


def _by_sequence(scores_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, n_sequences: int) -> Tensor:
    """The first sequences' scores (n_sequences, max_seqlen), -inf behind each one's end, so that softmax ignores it."""
    starts, ends = cu_seqlens[:n_sequences, None], cu_seqlens[1 : n_sequences + 1, None]
    tokens_BS = starts + torch.arange(max_seqlen, device=scores_T.device)
    is_token = tokens_BS < ends
    return torch.where(is_token, scores_T[torch.where(is_token, tokens_BS, 0)], -torch.inf)


def prepare_model(model: nn.Module, device: torch.device, execution: Execution) -> None:
    """Move a model with a `bert` to its device, and set how it runs."""
    model.to(device)
    model.bert.compute_dtype = execution.compute_dtype
    encoder = model.bert.encoder
    encoder.checkpoint_activations = execution.checkpoint_activations
    encoder.attention_backend = execution.attention
    is_fused = model.bert.embeddings.is_fused = execution.kernels == "triton"
    for layer in encoder.layer:
        layer.is_fused, layer.in_fp8 = is_fused, execution.in_fp8
        layer.fp8_weight_gradients = execution.fp8_weight_gradients
    for layer in encoder.layer[:-1]:
        layer.returns_hidden = layer.is_fused
        # A checkpointed layer's input is kept, all of it.
        layer.leaves_fp8 = layer.in_fp8 and not execution.checkpoint_activations
    if execution.compiled:
        torch._dynamo.config.recompile_limit = COMPILED_LIMIT
    # Regions are compiled, not the whole: all layers but the last share one code, so it takes seconds and not minutes.
    for module in model.modules():
        is_plain = isinstance(module, (BertLayer, BertEmbeddings)) and not module.is_fused
        if execution.compiled and (is_plain or isinstance(module, PredictionTransform)):
            module.compile()
        if isinstance(module, MaskedLMHead):
            module.loss_passes = "triton" if is_fused else "compiled" if execution.compiled else "torch"
