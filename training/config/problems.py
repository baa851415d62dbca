"""What can be wrong with the values of the flags that all tasks share, before any file is looked at."""

import dataclasses
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import Problem
from optimization import unavailable
from training.config.precision import precision_problem
from training.config.settings import Optimization, Output, Settings
from training.metrics.boards import asked_for


def shared_problems(settings: Settings) -> Iterator[Problem]:
    """One for each value that cannot be, by itself or beside another; of the task's own flags, those by themselves."""
    for group in settings.groups:
        yield from _positive_problems(group)
    yield from (Problem(problem, remedy) for is_wrong, problem, remedy in _checks(settings) if is_wrong)
    name = settings.precision_name
    found = unavailable(settings.optimization.optimizer), name and precision_problem(name, settings.device)
    yield from (problem for problem in (*found, _output_problem(settings.output.output_dir)) if problem)


def _positive_problems(group: Any) -> Iterator[Problem]:
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if field.metadata["positive"] and value is not None:
            if not value > 0:
                yield Problem(f"--{field.name} is {value}", "it must be greater than zero")
            elif value == math.inf and field.name != "max_grad_norm":
                yield Problem(f"--{field.name} is infinite", "give a number")


def _checks(settings: Settings) -> Iterator[tuple[Any, str, str]]:
    """(whether something is wrong, what, remedy) of values that are wrong by themselves or contradict each other."""
    contradict, runtime = "give one of them", settings.runtime
    yield from _optimizer_checks(settings.optimization)

    named, scale, least = runtime.precision, runtime.loss_scale, runtime.min_loss_scale
    is_other = runtime.fp16 and named not in (None, "fp16")
    yield is_other, f"--fp16 (or --amp) and --precision {named} contradict", contradict
    yield not 0 <= scale < math.inf, f"--loss_scale is {scale}", "give 0 for a dynamic scale, or a positive number"
    is_for_others = scale and settings.precision_name != "fp16"
    yield is_for_others, f"--loss_scale {scale:g} is for fp16 alone", "add --precision fp16 or leave it out"
    above = f"--min_loss_scale {least:g} is above --init_loss_scale {runtime.init_loss_scale:g}"
    yield least > runtime.init_loss_scale, above, "swap them"

    fused = runtime.compile and runtime.disable_jit_fusions
    yield fused, "--compile and --disable_jit_fusions contradict", contradict
    on_cpu, compiler = settings.device.type == "cpu", os.environ.get("CXX", "g++")
    lacks_compiler = runtime.compile and on_cpu and not shutil.which(compiler)
    yield lacks_compiler, f"--compile needs a C++ compiler on the CPU, and there is no {compiler}", "install g++"

    step, resumes = settings.checkpoints.resume_step, settings.checkpoints.resume_from_checkpoint
    yield step != -1 and not resumes, f"--resume_step {step} does nothing alone", "add --resume_from_checkpoint"
    dtype, in_fp16 = settings.distribution.reduce_dtype, settings.distribution.allreduce_post_accumulation_fp16
    is_other = in_fp16 and dtype not in (None, "fp16")
    yield is_other, f"--allreduce_post_accumulation_fp16 and --reduce_dtype {dtype} contradict", contradict
    limit = settings.distribution.max_step_seconds
    is_none = limit is not None and not 0 <= limit < math.inf
    yield is_none, f"--max_step_seconds is {limit}", "give seconds, or 0 for no limit"
    steps = settings.distribution.steps_between_probes
    yield steps is not None and steps < 0, f"--steps_between_probes is {steps}", "give steps, or 0 for no probe"
    yield from _board_checks(settings.output)
    start, nsight = settings.measurement.profile_start, settings.measurement.profile == "cuda"
    yield start < 0, f"--profile-start is {start}", "it must not be negative"
    yield nsight and on_cpu, "--profile is for Nsight, which needs a GPU", "give --profile torch on a CPU"


def _board_checks(flags: Output) -> Iterator[tuple[Any, str, str]]:
    for flag, kind, _ in asked_for(flags):
        lacks = importlib.util.find_spec(kind.package) is None
        yield lacks, f"--{flag} needs {kind.title}", f"install it (pip install {kind.installed_by})"
        lacks = kind.variable and not os.environ.get(kind.variable)
        remedy = f"give the server's address (export {kind.variable}=http://HOST:5000)"
        yield lacks, f"--{flag} is given and {kind.variable} is not set", remedy


def _optimizer_checks(flags: Optimization) -> Iterator[tuple[Any, str, str]]:
    """Those of the optimizer and its schedule."""
    decay, share = flags.weight_decay, flags.warmup_proportion
    yield not decay >= 0, f"--weight_decay is {decay}", "it must not be negative"
    yield flags.seed >= 2**63, f"--seed is {flags.seed}", "give a number below 2 ** 63"
    for name, value in (("beta1", flags.beta1), ("beta2", flags.beta2), ("warmup_proportion", share)):
        yield value is not None and not 0 <= value < 1, f"--{name} is {value}", "it must lie in [0, 1)"
    steps, start, counts_steps = flags.warmup_steps, flags.start_warmup_step, flags.schedule == "mlperf"
    for name, value in (("warmup_steps", steps), ("start_warmup_step", start)):
        is_for_another = value is not None and not counts_steps
        yield is_for_another, f"--{name} {value} is of --schedule mlperf alone", "give --warmup_proportion instead"
    what = f"--schedule mlperf counts its warm-up in steps, and --warmup_proportion is {share}"
    yield counts_steps and share is not None, what, "give --warmup_steps instead"
    yield (steps or 0) < 0, f"--warmup_steps is {steps}", "it must not be negative"
    yield (start or 0) > 0, f"--start_warmup_step is {start}", "it must not be above 0, or rates would be negative"


def _output_problem(folder: str) -> Problem | None:
    """Why no checkpoint could be written there, which otherwise the first one would find out."""
    path = Path(folder).absolute()
    existing = next(path for path in (path, *path.parents) if os.path.exists(path))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return None
    reason = "is read-only for you" if existing.is_dir() else "is a file"
    return Problem(f"--output_dir {folder} cannot be written, since {existing} {reason}", "choose another")
