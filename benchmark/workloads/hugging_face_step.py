"""A training step of Hugging Face's BERT as a good user would write it: what ours is compared with.

As its documentation shows: padded tensors, SDPA attention, autocast in 16 bits, labels over all positions, PyTorch's
fused AdamW, clipped gradients, and torch.compile over the whole model where that is asked for.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from data.loading.flat_batch import PretrainingBatch
from models.config import BertConfig

LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


def hugging_face_step(
    config: BertConfig,
    inputs: Mapping[str, Tensor],
    task: str,
    compute_dtype: torch.dtype,
    device: torch.device,
    compiled: bool,
) -> Callable[[], None]:
    """One step, as a function to call again and again.

    Args:
        inputs: from `padded_inputs`, on the device.
        task: `pretraining` or `squad`.
        compute_dtype: of autocast; fp32 is without it.
    """
    import transformers

    models = {"pretraining": transformers.BertForPreTraining, "squad": transformers.BertForQuestionAnswering}
    torch.manual_seed(0)
    shape = transformers.BertConfig(**dataclasses.asdict(config), attn_implementation="sdpa")
    with device:
        model = models[task](shape)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    forward = torch.compile(model) if compiled else model
    autocast = contextlib.nullcontext()
    if compute_dtype != torch.float32:
        autocast = torch.autocast(device.type, dtype=compute_dtype)

    def step() -> None:
        with autocast:
            loss = forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def padded_inputs(batch: PretrainingBatch) -> dict[str, Tensor]:
    """The real sequences of a flat batch as (B, S) tensors, with the masked ids in a dense row of labels."""
    n_sequences = len(batch.next_sentence_labels)
    lengths = batch.cu_seqlens[: n_sequences + 1].diff().tolist()
    labels = torch.full_like(batch.input_ids, -100)
    real = batch.masked_lm_labels != -100
    labels[batch.masked_lm_positions[real]] = batch.masked_lm_labels[real]

    def rectangle(flat: Tensor, fill: int) -> Tensor:
        rows = flat[: sum(lengths)].split(lengths)
        return torch.stack([F.pad(row, (0, batch.max_seqlen - len(row)), value=fill) for row in rows])

    return {
        "input_ids": rectangle(batch.input_ids, 0),
        "token_type_ids": rectangle(batch.token_type_ids, 0),
        "attention_mask": rectangle(torch.ones_like(batch.input_ids), 0),
        "labels": rectangle(labels, -100),
        "next_sentence_label": batch.next_sentence_labels,
    }


def padded_question_inputs(batch: PretrainingBatch, positions: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The same for question answering, with the answers' first and last tokens (B,) in place of the labels."""
    inputs = padded_inputs(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    return inputs | {"start_positions": positions[0], "end_positions": positions[1]}
