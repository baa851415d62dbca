"""How much memory a micro-batch takes, and so which one a GPU is given when nobody says.

An estimate, not a trial: a trial costs a minute, must run the step as it will be, compiled or not, and still does not
see the batch of another token count that comes an hour later. It counts what autograd keeps, tensor by tensor, and
agrees with what was measured on one H200 to 8 % (docs/performance-log.md, section 10).

`HEADROOM` is for what the estimate does not see: CUDA's own memory, NCCL's and the libraries', and what lies unused
between blocks. Close below a card's memory PyTorch gives blocks back and asks for them again, at half the speed.
"""

HEADROOM = 1.2
LOGIT_ROWS = 4096  # of one block of the masked-LM loss, see kernels/cross_entropy.py


def estimated_memory(
    n_tokens: int,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    vocab: int,
    n_parameters: int,
    bytes_per_element: int,
    checkpoint_activations: bool = False,
    padded_attention: bool = False,
    cuda_graphs: bool = False,
) -> int:
    """Bytes in use at the peak of a step, for one micro-batch of so many tokens.

    Args:
        hidden, intermediate, layers, vocab: the model's shape.
        n_parameters: elements of all its weights.
        bytes_per_element: of the compute dtype, 2 or 4.
        checkpoint_activations: only each layer's input is kept, and one layer's rest.
        padded_attention: without FlashAttention, attention keeps padded copies of its inputs and its output.
        cuda_graphs: their memory lies beside that of the micro-batch that runs without, and so do the gradients.
    """
    # fp32 weights, gradients and two moments, and in 16 bits a copy of each weight for the backward pass.
    fixed = n_parameters * (16 + (bytes_per_element if bytes_per_element < 4 else 0))
    logits = LOGIT_ROWS * vocab * (bytes_per_element + 4)
    # Kept for backward, in units of the hidden size: the layer's input, query, key and value, attention's output, the
    # input of each LayerNorm and the output of the first; GELU's input and output; two dropout masks of a byte each.
    attention = 5 if padded_attention else 0
    layer = (8 + attention) * hidden * bytes_per_element + 2 * intermediate * bytes_per_element + 2 * hidden
    kept = hidden * bytes_per_element if checkpoint_activations else layer
    activations = logits + n_tokens * (layers * kept + (layer if checkpoint_activations else 0))
    return fixed + activations + (activations + 4 * n_parameters if cuda_graphs else 0)


def fits(memory_bytes: int, n_tokens: int, **model: int | bool) -> bool:
    """Whether a micro-batch of so many tokens is thought to fit a device; `model` is for `estimated_memory`."""
    return HEADROOM * estimated_memory(n_tokens, **model) <= memory_bytes


def micro_batch_that_fits(memory_bytes: int, batch_size: int, max_seq_length: int, **model: int | bool) -> int | None:
    """The largest micro-batch that divides a process's batch and fits a device, all sequences at full length.

    Args:
        memory_bytes: of the device.
        batch_size: sequences of a process per optimizer step.
        model: for `estimated_memory`.

    Returns:
        sequences; None where not even one fits.
    """
    for size in range(batch_size, 0, -1):
        if batch_size % size == 0 and fits(memory_bytes, size * max_seq_length, **model):
            return size
    return None
