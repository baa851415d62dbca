"""How much memory a micro-batch takes, and so which one a GPU is given when nobody says.

An estimate, not a trial, which would cost a minute and not see the batch of another token count that comes an hour
later. It counts what autograd keeps, tensor by tensor, and agrees with what was measured on one H200 to 8 %
(docs/performance-log.md, section 10).
"""

import dataclasses

from models.config import BertConfig

# For what the estimate does not see: CUDA's own memory, NCCL's and the libraries', and what lies unused between blocks.
# Close below a card's memory PyTorch gives blocks back and asks for them again, at half the speed.
HEADROOM = 1.2
LOGIT_ROWS = 4096  # of one block of the masked-LM loss at most, see kernels/tuning.py


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """What the memory of a training step depends on, besides its tokens."""

    config: BertConfig
    n_parameters: int
    """Elements of all weights of the model."""
    bytes_per_element: int
    """Of the compute dtype, 2 or 4."""
    checkpoint_activations: bool = False
    """Only each layer's input is kept, and one layer's rest."""
    padded_attention: bool = False
    """Without FlashAttention, attention keeps padded copies of its inputs and its output."""
    read_share: float | None = None
    """Of the tokens, those that the last layer computes behind attention, from copies; None: all, and no copies."""
    cuda_graphs: bool = False
    """Their memory, gradients included, lies beside that of the micro-batch that runs without. What gradients are kept
    in counts without graphs too; with several ranks it is the buckets."""

    def n_bytes(self, n_tokens: int) -> int:
        """Bytes in use at the peak of a step, for one micro-batch of so many tokens."""
        config, element = self.config, self.bytes_per_element
        # fp32 weights, gradients and two moments, and in 16 bits a copy of each weight for the backward pass.
        fixed = self.n_parameters * (16 + (element if element < 4 else 0))
        logits = LOGIT_ROWS * config.vocab_size * (element + 4)
        # Kept for backward: the layer's input, query, key and value, attention's output; behind it the input of each
        # LayerNorm and the output of the first; GELU's input and output; two dropout masks of a byte each.
        hidden = config.hidden_size * element
        attention = (5 + (5 if self.padded_attention else 0)) * hidden
        behind = 3 * hidden + 2 * config.intermediate_size * element + 2 * config.hidden_size
        if self.checkpoint_activations:  # all of one layer at a time, which is computed again
            per_token = config.num_hidden_layers * hidden + attention + behind
        else:
            last = behind if self.read_share is None else self.read_share * (hidden + behind)
            per_token = config.num_hidden_layers * (attention + behind) - behind + last
        activations = logits + round(n_tokens * per_token)
        return fixed + activations + (activations + 4 * self.n_parameters if self.cuda_graphs else 0)

    def fits(self, memory_bytes: int, n_tokens: int) -> bool:
        """Whether a micro-batch of so many tokens is thought to fit a device."""
        return HEADROOM * self.n_bytes(n_tokens) <= memory_bytes

    def largest_micro_batch(self, memory_bytes: int, batch_size: int, max_seq_length: int) -> int | None:
        """Sequences of the largest micro-batch that divides a process's batch and fits a device of so many bytes.

        All sequences are `max_seq_length` long. None where not even one fits.
        """
        per_sequence = self.n_bytes(max_seq_length) - self.n_bytes(0)
        for size in range(min(batch_size, memory_bytes // per_sequence), 0, -1):
            if batch_size % size == 0 and self.fits(memory_bytes, size * max_seq_length):
                return size
        return None
