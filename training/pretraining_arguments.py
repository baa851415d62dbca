"""The command line of run_pretraining.py: its flags, and what can be wrong with their values alone."""

import argparse
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import torch

from optimization import unavailable
from training.arguments import (
    HelpFormatter,
    add_distribution_arguments,
    add_measurement_arguments,
    add_optimization_arguments,
    add_output_arguments,
    add_runtime_arguments,
)
from training.precision import precision_problem

DESCRIPTION = """\
Pre-train BERT on HDF5 shards: phase 1 at sequence length 128, phase 2 at 512.

  python3 run_pretraining.py --do_train --input_dir DIR --output_dir DIR --bert_model large \\
      --max_seq_length 128 --max_predictions_per_seq 20 --train_batch_size 65536 \\
      --gradient_accumulation_steps 256 --learning_rate 6e-3 --warmup_proportion 0.2843 --max_steps 7038

scripts/run_pretraining.sh runs both phases with the published recipe."""

_FOLDER = Path(__file__).resolve().parent.parent / "bert_configs"
BERT_CONFIGS = MappingProxyType(
    {
        "tiny": _FOLDER / "tiny.json",
        "base": _FOLDER / "base.json",
        "large": _FOLDER / "large.json",
        "bert-base-uncased": _FOLDER / "base.json",
        "bert-large-uncased": _FOLDER / "large.json",
    }
)

POSITIVE = (
    "max_seq_length",
    "max_predictions_per_seq",
    "train_batch_size",
    "global_batch_size",
    "gradient_accumulation_steps",
    "micro_batch_size",
    "log_freq",
    "num_steps_per_checkpoint",
    "keep_checkpoints",
    "keep_every",
    "num_steps_per_evaluation",
    "max_skipped_steps",
    "init_loss_scale",
    "min_loss_scale",
    "startup_timeout",
    "max_steps",
    "num_train_epochs",
    "steps_this_run",
    "phase1_end_step",
    "learning_rate",
    "max_grad_norm",
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, as its user gave it."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=HelpFormatter)
    _add_data_arguments(parser.add_argument_group("data and model"))
    _add_length_arguments(parser.add_argument_group("length of the run"))
    add_optimization_arguments(parser, learning_rate=5e-5, warmup_proportion=0.01, optimizer="lamb", schedule="poly")
    add_runtime_arguments(parser)
    add_distribution_arguments(parser)
    add_output_arguments(parser)
    _add_checkpoint_arguments(parser.add_argument_group("checkpoints and phases"))
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


def _add_length_arguments(group) -> None:
    group.add_argument(
        "--max_steps", type=int, default=None, help="optimizer steps of the whole phase, which the schedule spans"
    )
    group.add_argument("--num_train_epochs", type=float, default=None, help="the same in passes over the data")
    group.add_argument(
        "--steps_this_run", type=int, default=None, help="stop after this many steps of this run, with a checkpoint"
    )


def _add_checkpoint_arguments(group) -> None:
    group.add_argument(
        "--init_checkpoint",
        default=None,
        help="start from the weights of this .pt file, with all else new; with --resume_from_checkpoint, where there "
        "is nothing to go on from yet",
    )
    group.add_argument(
        "--resume_from_checkpoint", action="store_true", help="go on from the newest checkpoint in --output_dir, if any"
    )
    group.add_argument("--resume_step", type=int, default=-1, help="go on from ckpt_RESUME_STEP.pt; -1: the newest")
    group.add_argument("--num_steps_per_checkpoint", type=int, default=100, help="optimizer steps between checkpoints")
    group.add_argument("--keep_checkpoints", type=int, default=3, help="newest checkpoints of a phase that are kept")
    group.add_argument(
        "--keep_every", type=int, default=None, help="besides, every checkpoint of a multiple of this step is kept"
    )
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
    for name in POSITIVE:
        value = getattr(args, name)
        if value is not None and not value > 0:
            yield f"--{name} is {value}; it must be greater than zero."
    if args.num_train_epochs == math.inf:
        yield "--num_train_epochs is infinite; the schedule needs an end, so give a number."
    for name in ("learning_rate", "init_loss_scale", "min_loss_scale"):
        if getattr(args, name) == math.inf:
            yield f"--{name} is infinite; give a number."
    if not args.weight_decay >= 0:
        yield f"--weight_decay is {args.weight_decay}; it must not be negative."
    if not 0 <= args.warmup_proportion < 1:
        yield f"--warmup_proportion is {args.warmup_proportion}; it must lie in [0, 1)."
    if not (args.do_train or args.eval_dir):
        yield "there is nothing to do: give --do_train to train, --eval_dir to evaluate, or both."
    if args.do_train and (args.max_steps is None) == (args.num_train_epochs is None):
        yield "give either --max_steps or --num_train_epochs, so that the schedule knows where it ends."
    if args.eval_dir and not args.do_train and not (args.resume_from_checkpoint or args.init_checkpoint):
        yield (
            "there are no weights to evaluate; add --resume_from_checkpoint for those in --output_dir, or "
            "--init_checkpoint."
        )
    if args.resume_phase2 and not args.phase2:
        yield "--resume_phase2 belongs to phase 2; add --phase2."
    if args.resume_step != -1 and not args.resume_from_checkpoint:
        yield f"--resume_step {args.resume_step} does nothing alone; add --resume_from_checkpoint."
    yield from _precision_problems(args, device)
    if args.num_steps_per_evaluation and not args.eval_dir:
        yield "--num_steps_per_evaluation has nothing to evaluate on; add --eval_dir."
    if args.allreduce_post_accumulation_fp16 and args.reduce_dtype not in (None, "fp16"):
        yield f"--allreduce_post_accumulation_fp16 and --reduce_dtype {args.reduce_dtype} contradict; give one of them."
    if args.tensorboard_dir and importlib.util.find_spec("tensorboard") is None:
        yield "--tensorboard_dir needs TensorBoard; install it (pip install tensorboard) or leave the flag out."
    if problem := unavailable(args.optimizer):
        yield problem + "."
    if args.compile and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        yield "--compile needs a C++ compiler on the CPU, and neither CXX nor g++ is one; install g++ or leave it out."
    if problem := _output_problem(args.output_dir):
        yield problem


def precision_name(args: argparse.Namespace) -> str | None:
    """The precision asked for, under either name; None leaves it to the device."""
    return args.precision or ("fp16" if args.fp16 else None)


def reduce_dtype(args: argparse.Namespace) -> str:
    """What gradients are reduced in, under either name."""
    return "fp16" if args.allreduce_post_accumulation_fp16 else args.reduce_dtype or "fp32"


def _precision_problems(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    if args.fp16 and args.precision not in (None, "fp16"):
        yield f"--fp16 (or --amp) and --precision {args.precision} contradict; give one of them."
    name = precision_name(args)
    if name and (problem := precision_problem(name, device)):
        yield problem + "."
    if not 0 <= args.loss_scale < math.inf:
        yield f"--loss_scale is {args.loss_scale}; give 0 for a dynamic scale, or a positive number."
    if args.loss_scale and name != "fp16":
        yield f"--loss_scale {args.loss_scale:g} is for fp16 alone; add --precision fp16 or leave it out."
    if args.min_loss_scale > args.init_loss_scale:
        yield (
            f"--min_loss_scale {args.min_loss_scale:g} is above --init_loss_scale {args.init_loss_scale:g}; swap them."
        )


def _output_problem(folder: str) -> str | None:
    """Why no checkpoint could be written there, which otherwise the first one would find out."""
    path = Path(folder).absolute()
    existing = next(path for path in (path, *path.parents) if os.path.exists(path))
    if not existing.is_dir():
        return f"--output_dir {folder} cannot be a folder, since {existing} is a file; choose another."
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"--output_dir {folder} cannot be written, since {existing} is read-only for you; choose another."
    return None
