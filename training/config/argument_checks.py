"""What can be wrong with the values of the flags that both entries share, before any file is looked at."""

import argparse
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from optimization import unavailable
from training.config.arguments import precision_name
from training.config.precision import precision_problem
from training.metrics.profiling import profile_problem

POSITIVE = (
    "max_seq_length",
    "train_batch_size",
    "global_batch_size",
    "gradient_accumulation_steps",
    "micro_batch_size",
    "log_freq",
    "num_steps_per_checkpoint",
    "keep_checkpoints",
    "keep_every",
    "max_skipped_steps",
    "init_loss_scale",
    "min_loss_scale",
    "startup_timeout",
    "max_steps",
    "num_train_epochs",
    "steps_this_run",
    "learning_rate",
    "max_grad_norm",
    "profile_steps",
)


def not_positive(args: argparse.Namespace, names: Sequence[str]) -> Iterator[str]:
    """A sentence for each of these flags that is given and not above zero."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value > 0:
            yield f"--{name} is {value}; it must be greater than zero."


def shared_value_problems(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """A sentence for each value that cannot be, by itself or beside another."""
    yield from not_positive(args, POSITIVE)
    if args.num_train_epochs == math.inf:
        yield "--num_train_epochs is infinite; the schedule needs an end, so give a number."
    for name in ("learning_rate", "init_loss_scale", "min_loss_scale"):
        if getattr(args, name) == math.inf:
            yield f"--{name} is infinite; give a number."
    if not args.weight_decay >= 0:
        yield f"--weight_decay is {args.weight_decay}; it must not be negative."
    if not 0 <= args.warmup_proportion < 1:
        yield f"--warmup_proportion is {args.warmup_proportion}; it must lie in [0, 1)."
    if args.resume_step != -1 and not args.resume_from_checkpoint:
        yield f"--resume_step {args.resume_step} does nothing alone; add --resume_from_checkpoint."
    yield from _precision_problems(args, device)
    if args.allreduce_post_accumulation_fp16 and args.reduce_dtype not in (None, "fp16"):
        yield f"--allreduce_post_accumulation_fp16 and --reduce_dtype {args.reduce_dtype} contradict; give one of them."
    if args.tensorboard_dir and importlib.util.find_spec("tensorboard") is None:
        yield "--tensorboard_dir needs TensorBoard; install it (pip install tensorboard) or leave the flag out."
    if problem := unavailable(args.optimizer):
        yield problem + "."
    if args.compile and args.disable_jit_fusions:
        yield "--compile and --disable_jit_fusions contradict; give one of them."
    if args.compile and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        yield "--compile needs a C++ compiler on the CPU, and neither CXX nor g++ is one; install g++ or leave it out."
    if args.profile_start < 0:
        yield f"--profile-start {args.profile_start} must not be negative."
    if problem := profile_problem(args.profile, device):
        yield problem
    if problem := _output_problem(args.output_dir):
        yield problem


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
