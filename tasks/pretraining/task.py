"""What pre-training trains and scores: both heads on masked pairs of sentences."""

import argparse
import dataclasses
import math

import torch
from torch import Tensor

from common.matmul import Matmul
from common.work import Work
from data.loading.flat_batch import PretrainingBatch
from modeling import BertForPreTraining, prepare_model
from models.flops import bert_flops, encoder_matmuls
from tasks.pretraining.evaluation import evaluate_pretraining
from tasks.pretraining.setup import PretrainingSetup
from training.checkpointing import checkpoint
from training.checkpointing.resume import first_global_step
from training.distributed.stop_signal import StopSignal
from training.distributed.world import World
from training.metrics.logger import MetricsLogger
from training.run import TrainingRun


class PretrainingRun(TrainingRun):
    """One phase of pre-training."""

    loss_names = ("loss", "mlm_loss", "nsp_loss")
    metrics = (
        ("mlm_loss", None, ":.4f"),
        ("nsp_loss", None, ":.4f"),
        ("final_mlm_loss", None, ":.4f"),
        ("final_nsp_loss", None, ":.4f"),
        ("eval_mlm_loss", None, ":.4f"),
        ("eval_mlm_accuracy", None, ":.2%"),
        ("eval_nsp_loss", None, ":.4f"),
        ("eval_nsp_accuracy", None, ":.2%"),
    )

    def __init__(self, args: argparse.Namespace, setup: PretrainingSetup, world: World, stop_signal: StopSignal):
        torch.manual_seed(args.seed)
        model = BertForPreTraining(setup.config, args.layer_norm)
        if setup.initial_weights is not None:
            checkpoint.load_initial_weights(model, setup.initial_weights, args.init_checkpoint)
        prepare_model(model, setup.device, setup.execution)
        model.cls.predictions.is_dense = not args.no_dense_sequence_output
        super().__init__(args, setup, world, stop_signal, model)
        self.steps_per_evaluation = args.num_steps_per_evaluation

    def losses(self, batch: PretrainingBatch) -> tuple[Tensor, ...]:
        """Total, masked-LM and next-sentence loss of a batch on the device."""
        return self.forward(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.masked_lm_labels,
            batch.next_sentence_labels,
        )

    def predict(self, batch: PretrainingBatch) -> tuple[Tensor, Tensor]:
        """Logits of a batch on the device: masked positions (M, V), pairs (B, 2)."""
        return self.model.predict(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.next_sentence_labels.shape[0],
        )

    def evaluate(self) -> dict[str, float]:
        """Losses and accuracies on the held-out shards."""
        if self.setup.eval_dataset is None:
            return {}
        self.model.eval()
        with self.setup.eval_dataset.evaluation_batches() as batches:
            scores = evaluate_pretraining(self.predict, batches, self.setup.device, self.world.sum_)
        return {f"eval_{name}": value for name, value in dataclasses.asdict(scores).items()}

    @property
    def guessing_loss(self) -> float:
        """Over the vocabulary, and over two next sentences."""
        return math.log(self.setup.config.vocab_size) + math.log(2)

    def flops(self, work: Work) -> float:
        """Forward and backward: see `bert_flops`."""
        return bert_flops(self.setup.config, work)

    def matmuls(self, n_tokens: int) -> list[Matmul]:
        """The encoder's matmuls in a training step over so many tokens."""
        return encoder_matmuls(self.setup.config, n_tokens)

    def announce(self, logger: MetricsLogger) -> None:
        """Device, size and data; without training, whose weights are scored."""
        args, setup = self.args, self.setup
        data = f"{setup.dataset.n_samples:,} sequences: {setup.dataset.source}"
        logger.message(f"{self.device_line()} | {data}")
        if not args.do_train:
            step = first_global_step(args) + setup.first_step
            weights = args.init_checkpoint if setup.resumed_step is None else f"step {step} in {args.output_dir}"
            logger.message(f"evaluating the weights of {weights} on {args.eval_dir}")
