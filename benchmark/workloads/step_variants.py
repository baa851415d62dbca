"""A training step in all the ways that benchmark/training_step.py compares: ours, and that of Hugging Face's BERT.

Theirs is as a good user would write it, by its documentation: padded tensors, SDPA attention, autocast in 16 bits,
labels over all positions, PyTorch's fused AdamW, clipped gradients, and torch.compile over the whole model.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.workloads.hugging_face import pad, pad_labels
from common.work import Work
from data.loading.flat_batch import PretrainingBatch
from kernels.launch import triton_problem
from modeling import BertForPreTraining, BertForQuestionAnswering, BertModel, prepare_model
from models.config import BertConfig, Execution
from models.flops import bert_flops, question_answering_flops
from optimization import build_optimizer, clip_and_step, gradient_norm, parameter_groups
from training.config.precision import precision_problem
from training.cuda_graphs import GradientGraphs
from training.distributed.bucket_reduction import BucketReduction

MODELS = MappingProxyType({"pretraining": BertForPreTraining, "squad": BertForQuestionAnswering})
LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


class Variant(NamedTuple):
    """How a step is computed."""

    execution: Execution
    """All but its dtype."""
    is_ours: bool = True
    by_graphs: bool = False
    all_tokens: bool = False
    """The last layer computes all tokens, read or not."""

    def problem(self, device: torch.device) -> str | None:
        """Why it cannot run here."""
        if self.by_graphs and device.type != "cuda":
            return "CUDA graphs need an NVIDIA GPU"
        if not self.is_ours and importlib.util.find_spec("transformers") is None:
            return "Hugging Face's model needs transformers, of requirements-dev.txt"
        if self.execution.kernels == "triton" and (reason := triton_problem(device)):
            return reason
        problem = precision_problem("fp8", device) if self.execution.in_fp8 else None
        return problem and problem.problem


def variants() -> dict[str, Variant]:
    """By name: ours, ours with CUDA graphs, with a last layer that computes all tokens, or both; Hugging Face's."""
    triton = Execution(compiled=True, kernels="triton")
    ours = {
        "eager": Execution(),
        "compiled": Execution(compiled=True),
        "triton": triton,
        "triton-attention": dataclasses.replace(triton, attention="triton"),
        "fp8": dataclasses.replace(triton, attention="triton", in_fp8=True),
        "fp8-weights": dataclasses.replace(triton, attention="triton", in_fp8=True, fp8_weight_gradients=True),
    }
    theirs = {"hf": Execution(), "hf-compiled": Execution(compiled=True)}
    ways = (("", False, False), ("+graphs", True, False), ("+all", False, True), ("+all+graphs", True, True))
    return {
        **{name + suffix: Variant(each, True, *way) for suffix, *way in ways for name, each in ours.items()},
        **{name: Variant(execution, is_ours=False) for name, execution in theirs.items()},
    }


class Workload(NamedTuple):
    """A task, a model's shape, and a batch on the device."""

    task: str
    config: BertConfig
    batch: PretrainingBatch

    def answers(self) -> tuple[Tensor, Tensor]:
        """(B,) each: first and last tokens of made answers."""
        lengths = self.batch.cu_seqlens[: self.batch.work.n_sequences + 1].diff()
        return (lengths // 2).long(), (lengths - 1).long()

    def inputs(self) -> tuple[Tensor | int, ...]:
        """Of our model."""
        batch = self.batch
        labels = batch.masked_lm_positions, batch.masked_lm_labels, batch.next_sentence_labels
        return *batch.encoder_inputs, *(labels if self.task == "pretraining" else self.answers())

    def padded(self) -> dict[str, Tensor]:
        """Of Hugging Face's: the real sequences as (B, S) tensors, with the masked ids in dense rows of labels."""
        batch, n_real = self.batch, self.batch.work.n_sequences
        inputs, places = pad(*batch.encoder_inputs, n_real)
        if self.task == "squad":
            return inputs | dict(zip(("start_positions", "end_positions"), self.answers(), strict=True))
        masked = batch.masked_lm_positions, batch.masked_lm_labels
        labels = pad_labels(places, *masked, batch.max_seqlen, n_real)
        return inputs | {"labels": labels, "next_sentence_label": batch.next_sentence_labels}

    def flops(self, work: Work) -> float:
        """Forward and backward, of the model, whoever runs it: see models/flops.py."""
        return (question_answering_flops if self.task == "squad" else bert_flops)(self.config, work)


def step_of(variant: Variant, compute_dtype: torch.dtype, optimizer: str, workload: Workload) -> Callable[[], None]:
    """One step on the workload's batch, to call again and again; `compute_dtype` is of all but fp8, and the optimizer
    is ours: Hugging Face's has AdamW."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if variant.execution.in_fp8 else compute_dtype
    execution = dataclasses.replace(variant.execution, compute_dtype=dtype)
    if variant.is_ours:
        return our_step(execution, optimizer, workload, variant.by_graphs, all_tokens=variant.all_tokens)[0]
    return _their_step(execution, workload)


def our_step(
    execution: Execution,
    optimizer: str,
    workload: Workload,
    by_graphs: bool,
    make_reduction: Callable[[list[Tensor]], BucketReduction] | None = None,
    all_tokens: bool = False,
) -> tuple[Callable[[], None], BucketReduction | None]:
    """As `step_of`, and the reduction that is in it: what `make_reduction` makes of the model's parameters."""
    device = workload.batch.input_ids.device
    with device:  # where weights are drawn in milliseconds and not in many seconds
        model = MODELS[workload.task](workload.config)
    prepare_model(model, device, execution)
    if all_tokens:
        compute_all_tokens(model.bert)
    optimizer = build_optimizer(optimizer, parameter_groups(model), LEARNING_RATE, kernels=execution.kernels)
    inputs, parameters = workload.inputs(), list(model.parameters())
    reduction = make_reduction(parameters) if make_reduction else None
    graphs = GradientGraphs(lambda batch: model(*inputs)[:1], parameters, reduction) if by_graphs else None

    def step() -> None:
        if graphs is not None:
            graphs(workload.batch, 1.0, accumulates=False)
        elif reduction is not None:
            reduction.backward(model(*inputs).loss, accumulates=False, reduces=True)
        else:
            model(*inputs).loss.backward()
        clip_and_step(optimizer, gradient_norm(optimizer.param_groups), MAX_GRAD_NORM)
        optimizer.zero_grad(set_to_none=True)

    return step, reduction


def compute_all_tokens(bert: BertModel) -> None:
    """Let a model take the tokens that are read from those of a last layer that has computed all."""
    forward = bert.forward

    def taking(*inputs: Tensor | int) -> Tensor:
        *inputs, tokens = inputs
        return forward(*inputs).index_select(0, tokens)

    bert.forward = taking


def _their_step(execution: Execution, workload: Workload) -> Callable[[], None]:
    import transformers

    models = {"pretraining": transformers.BertForPreTraining, "squad": transformers.BertForQuestionAnswering}
    device, inputs = workload.batch.input_ids.device, workload.padded()
    shape = transformers.BertConfig(**dataclasses.asdict(workload.config), attn_implementation="sdpa")
    with device:
        model = models[workload.task](shape)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    forward = torch.compile(model) if execution.compiled else model
    autocast = contextlib.nullcontext()
    if execution.compute_dtype != torch.float32:
        autocast = torch.autocast(device.type, dtype=execution.compute_dtype)

    def step() -> None:
        with autocast:
            loss = forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
