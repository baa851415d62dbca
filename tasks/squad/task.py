"""What fine-tuning trains and scores: where answers begin and end."""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.matmul import Matmul
from common.work import Work
from data.loading.synthetic import describe_lengths
from modeling import BertForQuestionAnswering, prepare_model
from models.flops import encoder_matmuls, question_answering_flops
from pretrained.load import load_pretrained
from tasks.squad.dataset import SquadBatch
from tasks.squad.metrics import evaluate_predictions
from tasks.squad.official_script import run_official_script
from tasks.squad.predictions import NULL_ODDS, PredictionOptions, Predictions, predict_answers, write_predictions
from tasks.squad.setup import SquadSetup
from training.distributed.stop_signal import StopSignal
from training.distributed.world import World
from training.metrics.logger import MetricsLogger
from training.metrics.throughput import ThroughputMeter
from training.run import TrainingRun

WARM_UP_BATCHES = 10
REPORTED = (
    "measured_steps",
    "seconds",
    "sequences_per_second",
    "tokens_per_second",
    "sequences_per_second_per_gpu",
    "model_tflops_per_second",
)


class SquadRun(TrainingRun):
    """Fine-tuning and its predictions."""

    loss_names = ("loss", "start_loss", "end_loss")
    metrics = (
        ("start_loss", None, ":.4f"),
        ("end_loss", None, ":.4f"),
        ("final_start_loss", None, ":.4f"),
        ("final_end_loss", None, ":.4f"),
        ("exact_match", "%", ":.2f"),
        ("f1", "%", ":.2f"),
        ("inference_sequences_per_second", None, ":,.1f"),
        ("inference_tokens_per_second", None, ":,.0f"),
        ("inference_model_tflops_per_second", "TFLOP/s", ":.3g"),
    )

    def __init__(self, args: argparse.Namespace, setup: SquadSetup, world: World, stop_signal: StopSignal):
        torch.manual_seed(args.seed)
        model = BertForQuestionAnswering(setup.config, args.layer_norm)
        self.weights = "random weights"
        if setup.resumed is not None:
            self.weights = f"the weights of step {setup.resumed_step} in {args.output_dir}"
        if setup.initial_weights is not None:
            self.weights = str(load_pretrained(model, setup.initial_weights))
        prepare_model(model, setup.device, setup.execution)
        super().__init__(args, setup, world, stop_signal, model)

    def losses(self, batch: SquadBatch) -> tuple[Tensor, ...]:
        """Mean, start and end loss of a batch on the device."""
        return self.forward(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.start_positions,
            batch.end_positions,
        )

    @property
    def guessing_loss(self) -> float:
        """Over the tokens of a full window."""
        return math.log(self.args.max_seq_length)

    def flops(self, work: Work) -> float:
        """Forward and backward: see `question_answering_flops`."""
        return question_answering_flops(self.setup.config, work)

    def matmuls(self, n_tokens: int) -> list[Matmul]:
        """The encoder's matmuls in a training step over so many tokens."""
        return encoder_matmuls(self.setup.config, n_tokens)

    def announce(self, logger: MetricsLogger) -> None:
        """Device, size, weights and data."""
        dataset = self.setup.dataset
        logger.message(self.device_line())
        logger.message(self.weights)
        if dataset is not None:
            source = self.args.train_file or f"random tokens, {describe_lengths(self.args.synthetic)}"
            logger.message(f"training on {dataset.n_samples:,} windows of {source}")

    def evaluate(self) -> dict[str, float]:
        """Answers to the questions, written to the output folder, and their scores. All ranks call it."""
        if self.setup.predict_dataset is None:
            return {}
        start_logits, end_logits, result = self._score_tokens()
        if self.world.is_first:
            predictions = self._answer(start_logits, end_logits)
            if self.args.question is not None:
                _print_answers(predictions)
            else:
                result |= self._write_and_score(predictions)
        return self.world.broadcast(result)

    @torch.no_grad()
    def _score_tokens(self) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Start and end scores (T,) fp32 of all windows' tokens, zero where another rank knows them, and throughput."""
        dataset = self.setup.predict_dataset
        offsets = dataset.features.offsets
        scores = np.zeros((2, int(offsets[-1])), dtype=np.float32)
        self.model.eval()
        n_batches = -(-dataset.n_samples // (dataset.micro_batch_size * self.world.size))
        warm_up = min(WARM_UP_BATCHES, n_batches // 5)
        meter = ThroughputMeter(warm_up, None, lambda work: self.flops(work) / 3, self.setup.device)
        pending = None
        with dataset.evaluation_batches() as batches:
            for host_batch in batches:
                batch = host_batch.to(self.setup.device)
                logits = self.model.predict(
                    batch.input_ids, batch.token_type_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen
                )
                if pending is not None:  # read while the device works on the next
                    _keep(scores, offsets, *pending)
                pending = host_batch, torch.stack(logits)
                meter.add(host_batch.work)
                meter.end_step()
        if pending is not None:
            _keep(scores, offsets, *pending)
        measured = meter.result(self.world.gather)
        start_logits, end_logits = sum(self.world.gather(scores))  # each window was scored by one rank
        return start_logits, end_logits, {f"inference_{name}": measured[name] for name in REPORTED if name in measured}

    def _answer(self, start_logits: np.ndarray, end_logits: np.ndarray) -> Predictions:
        args, setup = self.args, self.setup
        options = PredictionOptions(
            args.n_best_size, args.max_answer_length, args.version_2_with_negative, args.null_score_diff_threshold
        )
        report = print if args.verbose_logging else None
        features = setup.predict_dataset.features
        return predict_answers(setup.predict_examples, features, start_logits, end_logits, options, report)

    def _write_and_score(self, predictions: Predictions) -> dict[str, float]:
        args = self.args
        written = write_predictions(Path(args.output_dir), predictions, args.version_2_with_negative)
        print(f"answers to {len(predictions.answers):,} questions: {written}", flush=True)
        if not args.do_eval:
            return {}
        scores = evaluate_predictions(
            self.setup.predict_examples,
            predictions.answers,
            args.version_2_with_negative,
            predictions.null_odds or None,
            predictions.best_answers,
        )
        print(f"exact match {scores['exact_match']:.2f} %, F1 {scores['f1']:.2f} %", flush=True)  # whatever comes now
        if args.eval_script:
            null_odds = written.with_name(NULL_ODDS) if args.version_2_with_negative else None
            official = run_official_script(Path(args.eval_script), Path(args.predict_file), written, null_odds)
            scores |= {f"official_{name}": value for name, value in official.items()}
        return scores


def _keep(scores: np.ndarray, offsets: np.ndarray, batch: SquadBatch, logits: Tensor) -> None:
    """Put a batch's logits (2, T) where its windows are among all windows' tokens."""
    values = logits[:, : batch.n_tokens].cpu().numpy()
    starts = batch.cu_seqlens.tolist()
    for place, window in enumerate(batch.feature_indices.tolist()):
        scores[:, offsets[window] : offsets[window + 1]] = values[:, starts[place] : starts[place + 1]]


def _print_answers(predictions: Predictions) -> None:
    """The answer to the one question that was asked, and what else it might have been."""
    (answer,) = predictions.answers.values()
    print(f"answer: {answer or 'none'}")
    for odds in predictions.null_odds.values():
        print(f"no answer scores {odds:+.2f} against the best answer")
    (n_best,) = predictions.n_best.values()
    for candidate in n_best:
        print(f"{candidate.probability:7.2%} {candidate.score:8.2f}  {candidate.text or '(no answer)'}")
    sys.stdout.flush()
