"""BERT for people whose tensors are padded rectangles (B, S)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention.padding import pad, unpad
from modeling import BertModel


class PaddedBertModel(nn.Module):
    """A `BertModel` for (B, S) tensors: flattens, runs, and puts the outputs back.

    Counting the tokens waits for the device, once a call; the flat layout itself does not.
    """

    def __init__(self, bert: BertModel):
        super().__init__()
        self.bert = bert

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, S, H), zero at padding, and the pooled first tokens (B, H) if there is a pooler.

        Args:
            input_ids: (B, S) integers.
            attention_mask: (B, S), non-zero at tokens, anywhere in the row; None: all are tokens.
            token_type_ids: (B, S); None: all zero.
        """
        batch_size, max_seqlen = input_ids.shape
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        indices = mask.flatten().nonzero().squeeze(1)
        cu_seqlens = F.pad((mask != 0).sum(1).cumsum(0), (1, 0)).int()
        hidden_states = self.bert(
            unpad(input_ids, indices), unpad(types, indices), indices % max_seqlen, cu_seqlens, max_seqlen
        )
        pooled = None if self.bert.pooler is None else self.bert.pool(hidden_states, cu_seqlens, batch_size)
        return pad(hidden_states, indices, batch_size, max_seqlen), pooled
