"""The command line of run_pretraining.py: its flags, and what can be wrong with their values alone."""

import argparse
from collections.abc import Iterator

import torch

from models.config import BERT_CONFIGS
from training.config.argument_checks import not_positive, shared_value_problems
from training.config.arguments import (
    HelpFormatter,
    add_checkpoint_arguments,
    add_distribution_arguments,
    add_length_arguments,
    add_measurement_arguments,
    add_optimization_arguments,
    add_output_arguments,
    add_runtime_arguments,
)

DESCRIPTION = """\
Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

  python3 run_pretraining.py --do_train --input_dir DIR --output_dir DIR --bert_model large \\
      --max_seq_length 128 --max_predictions_per_seq 20 --train_batch_size 65536 \\
      --gradient_accumulation_steps 256 --learning_rate 6e-3 --warmup_proportion 0.2843 --max_steps 7038

scripts/run_pretraining.sh runs both phases with the published recipe."""

POSITIVE = ("max_predictions_per_seq", "num_steps_per_evaluation", "phase1_end_step")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, as its user gave it."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=HelpFormatter)
    _add_data_arguments(parser.add_argument_group("data and model"))
    add_length_arguments(parser)
    add_optimization_arguments(parser, learning_rate=5e-5, warmup_proportion=0.01, optimizer="lamb", schedule="poly")
    add_runtime_arguments(parser)
    add_distribution_arguments(parser)
    add_output_arguments(parser)
    _add_phase_arguments(add_checkpoint_arguments(parser))
    add_measurement_arguments(parser)
    return parser.parse_args(arguments)


def _add_data_arguments(group) -> None:
    group.add_argument("--do_train", action="store_true", help="train; without it, only --eval_dir is looked at")
    group.add_argument(
        "--input_dir",
        default=None,
        help="folder of the training shards (.hdf5), or the data preparation's working folder, which is searched for "
        "shards of the lengths asked for (default: $BERT_PREP_WORKING_DIR or data/)",
    )
    group.add_argument("--dataset", default=None, help="which corpus to take from a working folder with several")
    group.add_argument("--eval_dir", default=None, help="folder of held-out shards to evaluate on, found likewise")
    group.add_argument(
        "--bert_model",
        choices=BERT_CONFIGS,
        default="bert-large-uncased",
        help="a shipped configuration",
    )
    group.add_argument("--config_file", default=None, help="a bert_config.json, instead of --bert_model")
    group.add_argument("--vocab_file", default=None, help="checked against the configuration's vocab_size when given")
    group.add_argument("--max_seq_length", type=int, default=512, help="tokens per sequence in the shards")
    group.add_argument(
        "--max_predictions_per_seq", type=int, default=80, help="masked positions per sequence in the shards"
    )
    group.add_argument(
        "--num_steps_per_evaluation",
        type=int,
        default=None,
        help="optimizer steps between evaluations (default: only after the last step)",
    )
    group.add_argument(
        "--num_workers",
        type=int,
        default=1,
        help="0 reads the shards in the training thread; more, in a thread beside it",
    )
    group.add_argument(
        "--no_dense_sequence_output",
        action="store_true",
        help="multiply the vocabulary out at every token and not at the masked ones alone: the same losses, slower, "
        "for comparison; what it costs is not counted as work",
    )


def _add_phase_arguments(group) -> None:
    group.add_argument(
        "--phase2",
        action="store_true",
        help="with --resume_from_checkpoint: start from phase 1's ckpt_PHASE1_END_STEP.pt, its weights and optimizer "
        "moments, with a new schedule; or go on with phase 2 where it has checkpoints",
    )
    group.add_argument(
        "--resume_phase2", action="store_true", help="insist that phase 2 has a checkpoint to go on from"
    )
    group.add_argument(
        "--phase1_end_step", type=int, default=7038, help="last step of phase 1; phase 2 counts on from it"
    )


def value_problems(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """What is wrong with the flags themselves, before any file is looked at."""
    yield from not_positive(args, POSITIVE)
    yield from shared_value_problems(args, device)
    if not (args.do_train or args.eval_dir):
        yield "there is nothing to do: give --do_train to train, --eval_dir to evaluate, or both."
    if args.do_train and (args.max_steps is None) == (args.num_train_epochs is None):
        yield "give either --max_steps or --num_train_epochs, so that the schedule knows where it ends."
    if args.eval_dir and not args.do_train and not (args.resume_from_checkpoint or args.init_checkpoint):
        yield (
            "there are no weights to evaluate; add --resume_from_checkpoint for those in --output_dir, or "
            "--init_checkpoint."
        )
    if args.synthetic is not None:
        if args.input_dir is not None:
            yield f"--synthetic makes its own sequences, and --input_dir {args.input_dir} names others; give one."
        if args.eval_dir is not None:
            yield "--synthetic measures speed, and there is nothing to learn from random tokens; leave --eval_dir out."
        if args.num_train_epochs is not None:
            yield "--synthetic has no end that --num_train_epochs could count; give --max_steps."
    if args.resume_phase2 and not args.phase2:
        yield "--resume_phase2 belongs to phase 2; add --phase2."
    if args.num_steps_per_evaluation and not args.eval_dir:
        yield "--num_steps_per_evaluation has nothing to evaluate on; add --eval_dir."
