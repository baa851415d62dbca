"""What can be wrong with the values of the flags that all tasks share, before any file is looked at."""

import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.errors import Problem
from optimization import unavailable
from training.config.flags import not_positive
from training.config.precision import precision_problem
from training.config.settings import SHARED, Settings
from training.metrics.profiling import profile_problem


def positive_problems(*groups: object) -> Iterator[Problem]:
    """One for each flag of these groups that is given and must be above zero and is not."""
    for group in groups:
        for name, value in not_positive(group):
            yield Problem(f"--{name} is {value}", "it must be greater than zero")


def shared_problems(settings: Settings) -> Iterator[Problem]:
    """One for each value that cannot be, by itself or beside another."""
    yield from positive_problems(*(getattr(settings, kind.__name__.lower()) for kind in SHARED))
    yield from _range_problems(settings)
    yield from _precision_problems(settings)
    runtime, device = settings.runtime, settings.device
    if settings.checkpoints.resume_step != -1 and not settings.checkpoints.resume_from_checkpoint:
        yield Problem(
            f"--resume_step {settings.checkpoints.resume_step} does nothing alone", "add --resume_from_checkpoint"
        )
    reduced = settings.distribution
    if reduced.allreduce_post_accumulation_fp16 and reduced.reduce_dtype not in (None, "fp16"):
        yield Problem(
            f"--allreduce_post_accumulation_fp16 and --reduce_dtype {reduced.reduce_dtype} contradict",
            "give one of them",
        )
    if settings.output.tensorboard_dir and importlib.util.find_spec("tensorboard") is None:
        yield Problem(
            "--tensorboard_dir needs TensorBoard", "install it (pip install tensorboard) or leave the flag out"
        )
    if problem := unavailable(settings.optimization.optimizer):
        yield problem
    if runtime.compile and runtime.disable_jit_fusions:
        yield Problem("--compile and --disable_jit_fusions contradict", "give one of them")
    if runtime.compile and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        yield Problem(
            "--compile needs a C++ compiler on the CPU, and neither CXX nor g++ is one", "install g++ or leave it out"
        )
    if problem := profile_problem(settings.measurement.profile, device):
        yield problem
    if problem := _output_problem(settings.output.output_dir):
        yield problem


def _range_problems(settings: Settings) -> Iterator[Problem]:
    optimization, runtime = settings.optimization, settings.runtime
    if settings.length.num_train_epochs == math.inf:
        yield Problem("--num_train_epochs is infinite", "the schedule needs an end, so give a number")
    for group, name in (
        (optimization, "learning_rate"),
        (runtime, "init_loss_scale"),
        (runtime, "min_loss_scale"),
    ):
        if getattr(group, name) == math.inf:
            yield Problem(f"--{name} is infinite", "give a number")
    if not optimization.weight_decay >= 0:
        yield Problem(f"--weight_decay is {optimization.weight_decay}", "it must not be negative")
    if not 0 <= optimization.warmup_proportion < 1:
        yield Problem(f"--warmup_proportion is {optimization.warmup_proportion}", "it must lie in [0, 1)")
    if settings.measurement.profile_start < 0:
        yield Problem(f"--profile-start {settings.measurement.profile_start} must not be negative.")


def _precision_problems(settings: Settings) -> Iterator[Problem]:
    flags, name = settings.runtime, settings.precision_name
    if flags.fp16 and flags.precision not in (None, "fp16"):
        yield Problem(f"--fp16 (or --amp) and --precision {flags.precision} contradict", "give one of them")
    if name and (problem := precision_problem(name, settings.device)):
        yield problem
    if not 0 <= flags.loss_scale < math.inf:
        yield Problem(f"--loss_scale is {flags.loss_scale}", "give 0 for a dynamic scale, or a positive number")
    if flags.loss_scale and name != "fp16":
        yield Problem(f"--loss_scale {flags.loss_scale:g} is for fp16 alone", "add --precision fp16 or leave it out")
    if flags.min_loss_scale > flags.init_loss_scale:
        yield Problem(
            f"--min_loss_scale {flags.min_loss_scale:g} is above --init_loss_scale {flags.init_loss_scale:g}",
            "swap them",
        )


def _output_problem(folder: str) -> Problem | None:
    """Why no checkpoint could be written there, which otherwise the first one would find out."""
    path = Path(folder).absolute()
    existing = next(path for path in (path, *path.parents) if os.path.exists(path))
    if not existing.is_dir():
        return Problem(f"--output_dir {folder} cannot be a folder, since {existing} is a file", "choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Problem(
            f"--output_dir {folder} cannot be written, since {existing} is read-only for you", "choose another"
        )
    return None
