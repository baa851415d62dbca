"""From a model to answers: every window's tokens scored once, the best spans written, printed and scored."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.words import counted
from common.work import Work
from tasks.inference import infer
from tasks.squad.arguments import SquadFlags
from tasks.squad.dataset import SquadBatch, SquadDataset
from tasks.squad.examples import SquadExample
from tasks.squad.metrics import evaluate_predictions, run_official_script
from tasks.squad.predictions import NULL_ODDS, Predictions, write_predictions
from training.distributed.world import World


def score_tokens(
    model: nn.Module,
    dataset: SquadDataset,
    world: World,
    device: torch.device,
    training_flops: Callable[[Work], float],
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Start and end scores (T,) fp32 of all windows' tokens, and the throughput. All ranks call it."""
    offsets = dataset.features.offsets
    scores = np.zeros((2, int(offsets[-1])), dtype=np.float32)  # zero where another rank knows them

    def predict(batch: SquadBatch) -> Tensor:
        return torch.stack(model.predict(*batch.encoder_inputs))

    keep = functools.partial(_keep, scores, offsets)
    throughput = infer(model, dataset, predict, keep, world, device, training_flops)
    start_logits, end_logits = sum(world.gather(scores))  # each window was scored by one rank
    return start_logits, end_logits, throughput


def write_and_score(
    flags: SquadFlags, output_dir: Path, examples: list[SquadExample], predictions: Predictions
) -> dict[str, float]:
    """Write the answers to the output folder, and score them where `--do_eval` asks for it."""
    written = write_predictions(output_dir, predictions, flags.version_2_with_negative)
    print(f"answers to {counted(len(predictions.answers), 'question')}: {written}", flush=True)
    if not flags.do_eval:
        return {}
    scores = evaluate_predictions(
        examples, predictions.answers, flags.version_2_with_negative, predictions.null_odds, predictions.best_answers
    )
    print(f"exact match {scores['exact_match']:.2f} %, F1 {scores['f1']:.2f} %", flush=True)  # whatever comes now
    if flags.eval_script:
        null_odds = written.with_name(NULL_ODDS) if flags.version_2_with_negative else None
        official = run_official_script(Path(flags.eval_script), Path(flags.predict_file), written, null_odds)
        scores |= {f"official_{name}": value for name, value in official.items()}
    return scores


def print_answers(predictions: Predictions) -> None:
    """The answer to the one question that was asked, and what else it might have been."""
    (best,) = predictions.answers.values()
    print(f"answer: {best or 'none'}")
    for odds in predictions.null_odds.values():
        print(f"no answer scores {odds:+.2f} against the best answer")
    (n_best,) = predictions.n_best.values()
    for candidate in n_best:
        print(f"{candidate.probability:7.2%} {candidate.score:8.2f}  {candidate.text or '(no answer)'}", flush=True)


def _keep(scores: np.ndarray, offsets: np.ndarray, batch: SquadBatch, logits: Tensor) -> None:
    """Put a batch's logits (2, T) where its windows are among all windows' tokens."""
    values = logits[:, : batch.work.sum_lengths].cpu().numpy()
    starts = batch.cu_seqlens.tolist()
    for index, window in enumerate(batch.feature_indices.tolist()):
        scores[:, offsets[window] : offsets[window + 1]] = values[:, starts[index] : starts[index + 1]]
