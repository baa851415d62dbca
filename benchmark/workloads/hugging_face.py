"""Hugging Face's BERT, called as our `BertForPreTraining` is: the other model in comparisons.

It is used as its documentation shows: padded tensors, SDPA attention, labels over all positions, autocast in 16 bits,
and torch.compile over the whole model where that is asked for. It gets the flat batches of our loader, which are padded
here, on the device and without waiting for it.

Shape suffixes: T tokens, B sequences, S longest sequence, M masked positions, V vocabulary.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loading.flat_batch import IGNORE_INDEX
from modeling import BertForPreTraining, PreTrainingOutput, PreTrainingPredictions
from models.config import BertConfig


def pad(
    input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int, n_real: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The first `n_real` sequences of a flat batch as (B, S) int64 tensors, by the names that transformers has.

    Also returns (T,) int64: the place of each token among the B * S of those tensors; those of padding lie behind.
    """
    n_sequences = len(cu_seqlens) - 1
    tokens = torch.arange(len(input_ids), device=input_ids.device)
    sequences = torch.searchsorted(cu_seqlens[1:].long(), tokens, right=True)
    places = sequences * max_seqlen + position_ids
    columns = {
        "input_ids": input_ids,
        "token_type_ids": token_type_ids,
        "attention_mask": torch.ones_like(input_ids),
    }
    return {
        name: _rectangle(column, places, n_sequences, max_seqlen, n_real) for name, column in columns.items()
    }, places


def pad_labels(
    places: Tensor, masked_lm_positions: Tensor, masked_lm_labels: Tensor, max_seqlen: int, n_real: int
) -> Tensor:
    """(B, S) int64: the true ids at the masked positions and -100 elsewhere, for `places` as `pad` returns them.

    What fills the masked positions up says -100 of the first token, [CLS], which is never masked.
    """
    return _rectangle(masked_lm_labels, places[masked_lm_positions], n_real, max_seqlen, n_real, IGNORE_INDEX)


def _rectangle(values: Tensor, places: Tensor, n_rows: int, max_seqlen: int, n_real: int, fill: int = 0) -> Tensor:
    flat = torch.full((n_rows * max_seqlen,), fill, dtype=torch.int64, device=values.device)
    return flat.scatter(0, places, values).view(n_rows, max_seqlen)[:n_real]


class HuggingFaceBert(nn.Module):
    """transformers.BertForPreTraining of this shape, with the arguments and results of ours.

    It starts from the weights that ours starts from with the same seed. transformers would draw from a normal
    distribution that is not truncated, which is 1.14 times as wide.

    Args:
        config: of the shape.
        layer_norm: torch; there is no other.
    """

    def __init__(self, config: BertConfig, layer_norm: str = "torch"):
        import transformers  # of requirements-dev.txt
        from transformers.initialization import no_init_weights

        super().__init__()
        assert layer_norm == "torch", layer_norm
        shape = transformers.BertConfig(**dataclasses.asdict(config), attn_implementation="sdpa")
        weights = BertForPreTraining(config).state_dict()
        weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]  # one tensor of two names
        with no_init_weights():  # ours take their place
            self.model = transformers.BertForPreTraining(shape)
        self.model.tie_weights()  # which goes with drawing them
        self.model.load_state_dict(weights)
        self.compute_dtype = torch.float32

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
        """The losses of a flat batch, the sum as transformers computes it; the masked-LM loss is the rest of it."""
        n_real = len(next_sentence_labels)
        inputs, places = pad(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, n_real)
        labels = pad_labels(places, masked_lm_positions, masked_lm_labels, max_seqlen, n_real)
        output = self._run(**inputs, labels=labels, next_sentence_label=next_sentence_labels)
        nsp_loss = F.cross_entropy(output.seq_relationship_logits.detach().float(), next_sentence_labels)
        return PreTrainingOutput(output.loss, output.loss.detach() - nsp_loss, nsp_loss)

    def predict(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        masked_lm_positions: Tensor,
        n_sequences: int,
    ) -> PreTrainingPredictions:
        """(M, V) and (B, 2) fp32 scores, from the scores of all positions, which is what transformers computes."""
        inputs, places = pad(input_ids, token_type_ids, position_ids, cu_seqlens, max_seqlen, n_sequences)
        output = self._run(**inputs)
        masked_lm_logits = output.prediction_logits.flatten(0, 1)[places[masked_lm_positions]]
        return PreTrainingPredictions(masked_lm_logits.float(), output.seq_relationship_logits.float())

    def _run(self, **inputs: Tensor):
        device, dtype = inputs["input_ids"].device.type, self.compute_dtype
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return self.model(**inputs)
