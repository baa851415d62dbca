"""A training step in all the ways that benchmark/training_step.py compares, on one batch."""

import dataclasses
import importlib.util
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from benchmark.workloads.hugging_face_step import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    hugging_face_step,
    padded_inputs,
    padded_question_inputs,
)
from common.work import Work
from data.loading.flat_batch import PretrainingBatch
from kernels.launch import triton_problem
from modeling import BertForPreTraining, BertForQuestionAnswering, prepare_model
from models.config import BertConfig, Execution
from models.flops import bert_flops, question_answering_flops
from optimization import build_optimizer, clip_and_step, gradient_norm, parameter_groups
from training.config.precision import precision_problem
from training.cuda_graphs import GradientGraphs

MODELS = MappingProxyType({"pretraining": BertForPreTraining, "squad": BertForQuestionAnswering})
ENCODER_INPUTS = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")
PRETRAINING_INPUTS = ("masked_lm_positions", "masked_lm_labels", "next_sentence_labels")
GRAPHS = "+graphs"


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a step is computed."""

    compiled: bool = True
    kernels: str = "torch"
    attention: str | None = None
    in_fp8: bool = False
    is_ours: bool = True
    by_graphs: bool = False

    def execution(self, compute_dtype: torch.dtype) -> Execution:
        """As the model takes it, in this dtype if it has none of its own."""
        return Execution(
            torch.bfloat16 if self.in_fp8 else compute_dtype,
            compiled=self.compiled,
            kernels=self.kernels,
            attention=self.attention,
            in_fp8=self.in_fp8,
        )

    def problem(self, device: torch.device) -> str | None:
        """Why it cannot run here."""
        if self.by_graphs and device.type != "cuda":
            return "CUDA graphs need an NVIDIA GPU"
        if not self.is_ours and importlib.util.find_spec("transformers") is None:
            return "Hugging Face's model needs transformers, of requirements-dev.txt"
        if self.kernels == "torch":
            return None
        if (reason := triton_problem(device)) or not self.in_fp8:
            return reason
        problem = precision_problem("fp8", device)
        return problem and problem.problem


def variants() -> dict[str, Variant]:
    """By name: ours, ours with CUDA graphs, Hugging Face's."""
    ours = {
        "eager": Variant(compiled=False),
        "compiled": Variant(),
        "triton": Variant(kernels="triton"),
        "triton-attention": Variant(kernels="triton", attention="triton"),
        "fp8": Variant(kernels="triton", attention="triton", in_fp8=True),
    }
    with_graphs = {name + GRAPHS: dataclasses.replace(variant, by_graphs=True) for name, variant in ours.items()}
    theirs = {"hf": Variant(compiled=False, is_ours=False), "hf-compiled": Variant(is_ours=False)}
    return ours | with_graphs | theirs


class Workload:
    """A batch, and what a model is given of it and counts for it.

    Args:
        batch: on the device.
    """

    def __init__(self, task: str, config: BertConfig, batch: PretrainingBatch):
        self.task, self.config, self.batch = task, config, batch
        lengths = batch.cu_seqlens[: batch.n_sequences + 1].diff()
        self._positions: tuple[Tensor, Tensor] = (lengths // 2).long(), (lengths - 1).long()

    def inputs(self) -> dict[str, Tensor]:
        """Of our model."""
        if self.task == "pretraining":
            return {name: getattr(self.batch, name) for name in (*ENCODER_INPUTS, *PRETRAINING_INPUTS)}
        answers = dict(zip(("start_positions", "end_positions"), self._positions, strict=True))
        return {name: getattr(self.batch, name) for name in ENCODER_INPUTS} | answers

    def padded(self) -> dict[str, Tensor]:
        """Of Hugging Face's."""
        if self.task == "pretraining":
            return padded_inputs(self.batch)
        return padded_question_inputs(self.batch, self._positions)

    def flops(self, work: Work) -> float:
        """Forward and backward, of the model, whoever runs it: see models/flops.py."""
        return (question_answering_flops if self.task == "squad" else bert_flops)(self.config, work)


def step_of(variant: Variant, compute_dtype: torch.dtype, optimizer: str, workload: Workload) -> Callable[[], None]:
    """One step on the workload's batch, as a function to call again and again.

    Args:
        optimizer: of ours; Hugging Face's has AdamW.
    """
    execution = variant.execution(compute_dtype)
    if variant.is_ours:
        return _our_step(execution, optimizer, workload, variant.by_graphs)
    device = workload.batch.input_ids.device
    dtype, compiled = execution.compute_dtype, variant.compiled
    return hugging_face_step(workload.config, workload.padded(), workload.task, dtype, device, compiled)


def _our_step(execution: Execution, optimizer: str, workload: Workload, by_graphs: bool) -> Callable[[], None]:
    device = workload.batch.input_ids.device
    torch.manual_seed(0)
    with device:  # where weights are drawn in milliseconds and not in many seconds
        model = MODELS[workload.task](workload.config)
    prepare_model(model, device, execution)
    groups = parameter_groups(model)
    optimizer = build_optimizer(optimizer, groups, LEARNING_RATE, kernels=execution.kernels)
    inputs = workload.inputs()
    graphs = GradientGraphs(lambda batch: model(**inputs)[:1], model.parameters()) if by_graphs else None

    def step() -> None:
        if graphs is not None:
            graphs(workload.batch, 1.0, accumulates=False)
        else:
            model(**inputs).loss.backward()
        clip_and_step(optimizer, gradient_norm(optimizer.param_groups), MAX_GRAD_NORM)
        optimizer.zero_grad(set_to_none=True)

    return step
