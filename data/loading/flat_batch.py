"""The flat batch: what the model is fed, one run of tokens without padding inside, and how it is made of padded rows.

Token counts differ from batch to batch, but compiled code and CUDA graphs want shapes that repeat. So the count is
rounded up to one of some 32 buckets, of which a corpus meets two or three, and the tokens added for it form padding
sequences behind the real ones. Their number is fixed for a batch size, so that `cu_seqlens` keeps its shape too, and
none is longer than a real sequence may be, so that attention meets no longer one. A batch of full sequences gets no
padding at all.

All of it is computed on the CPU, in numpy, over the whole micro-batch: no loop over samples, no device synchronisation.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

IGNORED_LABEL = -100  # torch.nn.functional.cross_entropy's ignore_index


@dataclass(frozen=True)
class PaddedSamples:
    """Rows of pre-training shards; n samples of S tokens and P masked positions at most, zero-padded at the right."""

    input_ids: np.ndarray  # (n, S) int32
    segment_ids: np.ndarray  # (n, S) int8: 0 first segment, 1 second
    lengths: np.ndarray  # (n,) int32: real tokens, 1..S
    masked_lm_positions: np.ndarray  # (n, P) int32
    masked_lm_ids: np.ndarray  # (n, P) int32: the tokens that were there before masking
    n_masked: np.ndarray  # (n,) int32: real entries of the two above
    next_sentence_labels: np.ndarray  # (n,) int8: 1 if the second segment is random

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> "PaddedSamples":
        """Returns copies of the given rows, in their order."""
        return PaddedSamples(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @staticmethod
    def concatenate(parts: list["PaddedSamples"]) -> "PaddedSamples":
        if len(parts) == 1:
            return parts[0]
        fields = dataclasses.fields(PaddedSamples)
        return PaddedSamples(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields))


@dataclass(frozen=True)
class PretrainingBatch:
    """B real sequences as T flat tokens, behind them D padding sequences; M masked positions, some of them padding."""

    input_ids: torch.Tensor  # (T,) int64
    token_type_ids: torch.Tensor  # (T,) int64
    position_ids: torch.Tensor  # (T,) int64: from 0 in each sequence, padding sequences too
    cu_seqlens: torch.Tensor  # (B + D + 1,) int32: cumulative lengths; the last one is T
    max_seqlen: int  # S: no sequence is longer; the loader's, not this batch's
    masked_lm_positions: torch.Tensor  # (M,) int64: places in the T tokens, padded with 0
    masked_lm_labels: torch.Tensor  # (M,) int64: the true ids, padded with -100
    next_sentence_labels: torch.Tensor  # (B,) int64
    n_tokens: int  # real tokens
    sum_squared_lengths: int  # over real sequences, for the FLOPs of attention
    n_masked: int  # real masked positions
    first_sample: int  # place of the first sequence in the stream of samples; what is random follows from it

    @property
    def n_sequences(self) -> int:
        """B."""
        return len(self.next_sentence_labels)

    def to(self, device: torch.device | str) -> "PretrainingBatch":
        """Copies to the device without waiting; asynchronous from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "PretrainingBatch":
        """Returns the batch in page-locked memory, from which a GPU copies asynchronously."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function) -> "PretrainingBatch":
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(
            self, **{name: function(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        )


def n_padding_sequences(batch_size: int) -> int:
    """D, the padding sequences of a micro-batch: one for every 32 real ones, at least one."""
    return max(1, batch_size // 32)


def bucketed_n_tokens(n_tokens: int, batch_size: int, max_seq_length: int) -> int:
    """T: `n_tokens` rounded up to a multiple of D * S, or to B * S, which holds any batch, if that is less."""
    step = n_padding_sequences(batch_size) * max_seq_length
    return min(-(-n_tokens // step) * step, batch_size * max_seq_length)


def bucketed_n_masked(n_masked: int, batch_size: int, max_predictions_per_seq: int) -> int:
    """M: `n_masked` rounded up to a multiple, at least one, of an eighth of B * P, or to B * P if that is less."""
    most = batch_size * max_predictions_per_seq
    step = max(1, most // 8)
    return min(max(1, -(-n_masked // step)) * step, most)


def flatten(samples: PaddedSamples, batch_size: int | None = None, first_sample: int = 0) -> PretrainingBatch:
    """Removes the padding of `samples` and pads their number of tokens to its bucket.

    Args:
        samples: B rows.
        batch_size: the loader's micro-batch, which the buckets follow, if B is less (the last batch of an evaluation).
        first_sample: the place of the first row in the stream of samples.
    """
    n_sequences, max_seq_length = samples.input_ids.shape
    batch_size = batch_size or n_sequences
    lengths = samples.lengths.astype(np.int64)
    n_tokens = int(lengths.sum())
    total = bucketed_n_tokens(n_tokens, batch_size, max_seq_length)

    columns = np.arange(max_seq_length)
    is_real = columns < lengths[:, None]
    input_ids = np.zeros(total, dtype=np.int64)
    token_type_ids = np.zeros(total, dtype=np.int64)
    position_ids = np.empty(total, dtype=np.int64)
    input_ids[:n_tokens] = samples.input_ids[is_real]
    token_type_ids[:n_tokens] = samples.segment_ids[is_real]
    position_ids[:n_tokens] = np.broadcast_to(columns, is_real.shape)[is_real]
    position_ids[n_tokens:] = np.arange(total - n_tokens) % max_seq_length

    n_padding = n_padding_sequences(batch_size)
    cu_seqlens = np.zeros(n_sequences + n_padding + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1 : n_sequences + 1])
    filled = n_tokens + np.arange(1, n_padding + 1) * max_seq_length
    cu_seqlens[n_sequences + 1 :] = np.minimum(filled, total)

    n_masked = int(samples.n_masked.sum())
    max_predictions = samples.masked_lm_positions.shape[1]
    n_positions = bucketed_n_masked(n_masked, batch_size, max_predictions)
    is_masked = np.arange(max_predictions) < samples.n_masked[:, None]
    positions = np.zeros(n_positions, dtype=np.int64)
    labels = np.full(n_positions, IGNORED_LABEL, dtype=np.int64)
    positions[:n_masked] = (samples.masked_lm_positions + cu_seqlens[:n_sequences, None])[is_masked]
    labels[:n_masked] = samples.masked_lm_ids[is_masked]

    return PretrainingBatch(
        input_ids=torch.from_numpy(input_ids),
        token_type_ids=torch.from_numpy(token_type_ids),
        position_ids=torch.from_numpy(position_ids),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=max_seq_length,
        masked_lm_positions=torch.from_numpy(positions),
        masked_lm_labels=torch.from_numpy(labels),
        next_sentence_labels=torch.from_numpy(samples.next_sentence_labels.astype(np.int64)),
        n_tokens=n_tokens,
        sum_squared_lengths=int(np.square(lengths).sum()),
        n_masked=n_masked,
        first_sample=first_sample,
    )
