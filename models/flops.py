"""What a BERT costs: its FLOPs on given work, and the matmuls that most of them are in.

Counted is what the losses ask for, forward and backward: recomputed activations and padding are not, nor what the last
layer does not compute behind its attention, all but the tokens that are read. A matmul with a weight of n elements
costs 2 n forward and 4 n backward per row. The score and value matmuls of attention cost 4 H L^2 per layer and sequence
forward, and twice that backward.
"""

from common.work import Matmul, Work
from models.config import BertConfig


def encoder_flops(config: BertConfig, work: Work, n_read: int | None = None) -> int:
    """Floating-point operations of the encoder, forward and backward: its weights on every token, and attention.

    Behind attention, the last layer's weights are on `n_read` tokens alone; None: on every one.
    """
    attention = 12 * config.hidden_size * config.num_hidden_layers * work.sum_squared_lengths
    n_unread = 0 if n_read is None else work.sum_lengths - n_read
    weights = config.encoder_parameters * work.sum_lengths - config.parameters_behind_attention * n_unread
    return 6 * weights + attention


def bert_flops(config: BertConfig, work: Work) -> int:
    """Floating-point operations of pre-training: the encoder's, MLM transform and vocabulary on masked positions, and
    the pooler on sequences."""
    hidden = config.hidden_size
    mlm_head = 6 * (hidden * hidden + hidden * config.vocab_size) * work.n_masked
    encoder = encoder_flops(config, work, work.n_sequences + work.n_masked)
    return encoder + mlm_head + 6 * hidden * hidden * work.n_sequences


def question_answering_flops(config: BertConfig, work: Work) -> int:
    """Floating-point operations of fine-tuning on questions: the encoder's, and two scores for each token."""
    return encoder_flops(config, work) + 6 * 2 * config.hidden_size * work.sum_lengths


def classification_flops(config: BertConfig, work: Work, n_outputs: int) -> int:
    """Floating-point operations of fine-tuning on sequences: the encoder's, pooler and scores of each one."""
    hidden, n_sequences = config.hidden_size, work.n_sequences
    return encoder_flops(config, work, n_sequences) + 6 * hidden * (hidden + n_outputs) * n_sequences


def encoder_matmuls(config: BertConfig, n_sequences: int, length: int, n_read: int | None = None) -> list[Matmul]:
    """The encoder's matmuls in a training step over sequences of `length` tokens, each as its layer makes it: forward,
    and backward to the layer's input and to its weight.

    Behind attention, the last layer's are of `n_read` tokens of each sequence alone, and come last; None: of all.
    """
    hidden, intermediate, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    shapes = (
        ("query, key, value", 3 * hidden, hidden),
        ("attention output", hidden, hidden),
        ("feed-forward in", intermediate, hidden),
        ("feed-forward out", hidden, intermediate),
    )
    n_full = layers if n_read is None else layers - 1
    parts = (
        ("", shapes[:1], n_sequences * length, layers),
        ("", shapes[1:], n_sequences * length, n_full),
        ("last layer's ", shapes[1:], n_sequences * (n_read or 0), layers - n_full),
    )
    matmuls = []
    for where, of_weights, n_rows, count in parts:
        for name, *shape in of_weights if count else ():
            matmuls += _matmuls_of_weight(where + name, *shape, n_rows, count)
    return matmuls


def _matmuls_of_weight(name: str, n_out: int, n_in: int, n_rows: int, count: int) -> list[Matmul]:
    return [
        Matmul(f"{name}, forward", n_rows, n_out, n_in, count, right_transposed=True),
        Matmul(f"{name}, input gradient", n_rows, n_in, n_out, count),
        Matmul(f"{name}, weight gradient", n_out, n_in, n_rows, count, left_transposed=True),
    ]
