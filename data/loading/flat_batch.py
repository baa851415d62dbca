"""The flat batch: what the model is fed, one run of tokens without padding inside, and how it is made of padded rows.

Compiled code and CUDA graphs want shapes that repeat. So the count of tokens is rounded up to one of some 32 buckets,
of which a corpus meets two or three, by padding sequences behind the real ones. Their number is fixed for a batch size,
and none is longer than a real sequence may be, so that `cu_seqlens` keeps its shape and `max_seqlen` holds.

All of it is computed on the CPU, in numpy, over the whole micro-batch.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from common.work import Work
from data.loading.padded_samples import PaddedSamples

IGNORE_INDEX = -100  # torch.nn.functional.cross_entropy's


@dataclass(frozen=True)
class FlatBatch:
    """B real sequences as T flat tokens, behind them D padding sequences. Tasks add their labels as further tensors."""

    input_ids: torch.Tensor  # (T,) int64
    token_type_ids: torch.Tensor  # (T,) int64
    position_ids: torch.Tensor  # (T,) int64: from 0 in each sequence, padding sequences too
    cu_seqlens: torch.Tensor  # (B + D + 1,) int32: cumulative lengths; the last one is T
    max_seqlen: int  # S: no sequence is longer; the dataset's, not this batch's
    work: Work  # of the real sequences
    first_sample: int  # index of the first sequence in the stream of samples; what is random follows from it

    @property
    def encoder_inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """What every model takes first: ids, token types, positions, `cu_seqlens` and `max_seqlen`."""
        return self.input_ids, self.token_type_ids, self.position_ids, self.cu_seqlens, self.max_seqlen

    def to(self, device: torch.device | str) -> "FlatBatch":
        """Copies to the device, without waiting from page-locked memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "FlatBatch":
        """Copies to page-locked memory."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "FlatBatch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self, **{name: function(tensor) for name, tensor in tensors.items()})


def n_padding_sequences(batch_size: int) -> int:
    """D, the padding sequences of a micro-batch: one for every 32 real ones, at least one."""
    return max(1, batch_size // 32)


def bucketed_n_tokens(n_tokens: int, batch_size: int, max_seq_length: int) -> int:
    """T: `n_tokens` rounded up to a multiple of D * S, or to B * S, which holds any batch, if that is less."""
    step = n_padding_sequences(batch_size) * max_seq_length
    return min(-(-n_tokens // step) * step, batch_size * max_seq_length)


def lay_out(lengths: np.ndarray, batch_size: int, max_seq_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `cu_seqlens` (n + D + 1,) int32 and `position_ids` (T,) int64 for sequences of these lengths, (n,) int64.

    The buckets follow `batch_size`, the dataset's micro-batch; n may be less.
    """
    n_sequences, n_padding = len(lengths), n_padding_sequences(batch_size)
    n_tokens = int(lengths.sum())
    total = bucketed_n_tokens(n_tokens, batch_size, max_seq_length)
    cu_seqlens = np.zeros(n_sequences + n_padding + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1 : n_sequences + 1])
    cu_seqlens[n_sequences + 1 :] = np.minimum(n_tokens + np.arange(1, n_padding + 1) * max_seq_length, total)
    position_ids = np.arange(total)
    position_ids -= np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    return cu_seqlens, position_ids


def padded(values: np.ndarray, size: int, padding: int = 0) -> torch.Tensor:
    """(size,) int64: the values, then padding."""
    result = np.full(size, padding, dtype=np.int64)
    result[: len(values)] = values
    return torch.from_numpy(result)


@dataclass(frozen=True)
class PretrainingBatch(FlatBatch):
    """A flat batch with M masked positions, some of them padding."""

    masked_lm_positions: torch.Tensor  # (M,) int64: indices in the T tokens, padded with 0
    masked_lm_labels: torch.Tensor  # (M,) int64: the true ids, padded with IGNORE_INDEX
    next_sentence_labels: torch.Tensor  # (B,) int64


def bucketed_n_masked(n_masked: int, batch_size: int, max_predictions_per_seq: int) -> int:
    """M: `n_masked` rounded up to a multiple, at least one, of an eighth of B * P, or to B * P if that is less."""
    most = batch_size * max_predictions_per_seq
    step = max(1, most // 8)
    return min(max(1, -(-n_masked // step)) * step, most)


def flatten(samples: PaddedSamples, batch_size: int | None = None, first_sample: int = 0) -> PretrainingBatch:
    """Removes the padding of `samples` and pads their number of tokens to its bucket.

    The buckets follow `batch_size`, the loader's micro-batch, if it is more than the samples.
    """
    n_sequences, max_seq_length = samples.input_ids.shape
    batch_size = batch_size or n_sequences
    lengths = samples.lengths.astype(np.int64)
    cu_seqlens, position_ids = lay_out(lengths, batch_size, max_seq_length)
    is_real = np.arange(max_seq_length) < lengths[:, None]

    n_masked = int(samples.n_masked.sum())
    max_predictions = samples.masked_lm_positions.shape[1]
    n_positions = bucketed_n_masked(n_masked, batch_size, max_predictions)
    is_masked = np.arange(max_predictions) < samples.n_masked[:, None]
    positions = samples.masked_lm_positions + cu_seqlens[:n_sequences, None]

    return PretrainingBatch(
        input_ids=padded(samples.input_ids[is_real], len(position_ids)),
        token_type_ids=padded(samples.segment_ids[is_real], len(position_ids)),
        position_ids=torch.from_numpy(position_ids),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=max_seq_length,
        work=Work(n_sequences, int(lengths.sum()), int(np.square(lengths).sum()), n_masked),
        first_sample=first_sample,
        masked_lm_positions=padded(positions[is_masked], n_positions),
        masked_lm_labels=padded(samples.masked_lm_ids[is_masked], n_positions, IGNORE_INDEX),
        next_sentence_labels=torch.from_numpy(samples.next_sentence_labels.astype(np.int64)),
    )
