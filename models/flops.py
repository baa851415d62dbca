"""What a BERT costs: its FLOPs on given work, and the matmuls that most of them are in.

Counted is what the model asks for, forward and backward: recomputed activations and padding are not. A matmul with a
weight of n elements costs 2 n forward and 4 n backward per row. The score and value matmuls of attention cost 4 H L^2
per layer and sequence forward, and twice that backward.
"""

from common.work import Matmul, Work
from models.config import BertConfig


def encoder_flops(config: BertConfig, work: Work) -> int:
    """Floating-point operations of the encoder, forward and backward: its weights on every token, and attention."""
    attention = 12 * config.hidden_size * config.num_hidden_layers * work.sum_squared_lengths
    return 6 * config.encoder_parameters * work.sum_lengths + attention


def bert_flops(config: BertConfig, work: Work) -> int:
    """Floating-point operations of pre-training: the encoder's, MLM transform and vocabulary on masked positions, and
    the pooler on sequences."""
    hidden = config.hidden_size
    mlm_head = 6 * (hidden * hidden + hidden * config.vocab_size) * work.n_masked
    return encoder_flops(config, work) + mlm_head + 6 * hidden * hidden * work.n_sequences


def question_answering_flops(config: BertConfig, work: Work) -> int:
    """Floating-point operations of fine-tuning on questions: the encoder's, and two scores for each token."""
    return encoder_flops(config, work) + 6 * 2 * config.hidden_size * work.sum_lengths


def classification_flops(config: BertConfig, work: Work, n_outputs: int) -> int:
    """Floating-point operations of fine-tuning on sequences: the encoder's, pooler and scores of each one."""
    return encoder_flops(config, work) + 6 * config.hidden_size * (config.hidden_size + n_outputs) * work.n_sequences


def encoder_matmuls(config: BertConfig, n_tokens: int) -> list[Matmul]:
    """The encoder's matmuls in a training step over T tokens, each as its layer makes it: forward, and backward to
    the layer's input and to its weight."""
    hidden, intermediate, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    shapes = (
        ("query, key, value", 3 * hidden, hidden),
        ("attention output", hidden, hidden),
        ("feed-forward in", intermediate, hidden),
        ("feed-forward out", hidden, intermediate),
    )
    matmuls = []
    for name, n_out, n_in in shapes:
        matmuls += [
            Matmul(f"{name}, forward", n_tokens, n_out, n_in, layers, right_transposed=True),
            Matmul(f"{name}, input gradient", n_tokens, n_in, n_out, layers),
            Matmul(f"{name}, weight gradient", n_out, n_in, n_tokens, layers, left_transposed=True),
        ]
    return matmuls
