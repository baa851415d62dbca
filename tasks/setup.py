"""From a command line to resolved settings and a place to start, or to one list of everything that is wrong.

Files are looked at as well as flags, on all ranks: a file may be missing on one host. Nothing is written here but the
caches of a task's data, and no training begins before all of it holds, on all ranks.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import Problem, Problems, UserError
from common.words import counted
from data.loading.stream import BatchStream
from models.config import BertConfig
from tasks.execution import execution_of, execution_problems, meta_model, resolve_batches, resolve_execution
from tokenization import load_vocab
from training.checkpointing import checkpoint
from training.checkpointing.resume import find_start
from training.config.flags import parse
from training.config.problems import shared_problems
from training.config.settings import SHARED, Settings
from training.distributed.world import World
from training.entry import run_task
from training.metrics.estimate import estimate, too_long_problem
from training.task import Stage, Start, Task


def run(task: type[Task], arguments: Sequence[str] | None = None) -> None:
    """Run a task as the command line asks; None: the process's own."""
    run_task(task(parse_arguments(task, arguments)), prepare)


def parse_arguments(task: type[Task], arguments: Sequence[str] | None = None) -> Settings:
    """The settings of a task as its user gave them."""
    (own, *shared), record = parse(task.description, (task.flags, *SHARED), task.defaults, arguments, task.first_flags)
    return Settings(*shared, task=own, record=record)


def prepare(task: Task, world: World, own_folder: Callable[[], object]) -> tuple[Start, dict[str, Any] | None]:
    """Resolve and validate a task's settings, and say where the run starts and what it resumes. All ranks call it.

    The task opens its data, and has the resolved settings afterwards. `own_folder` is called on rank 0, where all else
    is right, before the checkpoint is chosen: another run must not write one meanwhile.

    Raises:
        UserError: every problem; on rank 0 what any rank found, on the others nothing to show.
    """
    problems = Problems()
    problems.extend(shared_problems(task.settings))
    problems.extend(task.problems())
    config, length = task.read_model(problems), task.settings.max_seq_length
    if config is not None and length > config.max_position_embeddings:
        problems.add(
            f"--max_seq_length {length} is longer than the model's max_position_embeddings "
            f"{config.max_position_embeddings}",
            "use shorter shards or another configuration",
        )
    if config is not None and config.type_vocab_size < 2:
        problems.add(
            f"the model's type_vocab_size is {config.type_vocab_size}, and its data are pairs of two segments",
            "give a configuration with at least 2",
        )
    settings = resolve_execution(_with_warmup(task), config)
    problems.extend(execution_problems(settings))
    settings = resolve_batches(settings, task.model_class, world, problems, task.n_read)
    note_differences("model", config, world, problems)
    task.settings = settings
    task.open_data(world, problems)
    settings = task.settings  # what the data say, where nothing was said, is filled in too
    n_steps = _count_steps(settings, task.dataset and task.dataset.n_samples)
    resumed = _find_resumed(task, n_steps, world, problems, own_folder)
    if resumed is None:
        task.read_initial_weights(problems)
    start = _start(settings, task.stage, n_steps, resumed)
    if settings.trains:
        if resumed is not None and task.dataset is not None and not start.new_stage:
            problems.extend(_position_problems(resumed["data_position"], task))
        problems.extend([_window_problem(settings, start)])
        is_known = settings.batches is not None and settings.precision is not None and settings.model is not None
        if is_known and settings.device.type == "cpu" and not settings.runtime.long_cpu_run:
            problems.extend([too_long_problem(estimate(task, start, world.size))])
    _raise_if_any_rank_has_problems(problems, world)
    task.settings = dataclasses.replace(settings, execution=execution_of(settings))
    return start, resumed


def note_differences(what: str, value: Any, world: World, problems: Problems) -> None:
    """Note where ranks, which all call it, have other values: machines may have other files under the same names."""
    seen = world.gather(value)
    others = [rank for rank, other in enumerate(seen) if None not in (other, seen[0]) and other != seen[0]]
    problems.check(
        not others,
        f"rank {', '.join(map(str, others))} and rank 0 see different files of the {what}",
        "give all machines the same",
    )


def vocabulary_problem(vocab_file: str, config: BertConfig, has_weights: bool) -> Problem | None:
    """Why a vocabulary is not this model's; None where it may be: with weights of others, a smaller one too."""
    n_tokens = len(load_vocab(vocab_file))
    if n_tokens == config.vocab_size or (has_weights and n_tokens < config.vocab_size):
        return None
    return Problem(
        f"the vocabulary {vocab_file} has {n_tokens} entries and the model's configuration says vocab_size "
        f"{config.vocab_size}",
        "use the vocabulary that the shards were made with and set vocab_size to its length",
    )


def _with_warmup(task: Task) -> Settings:
    """The task's settings with the warm-up that nobody gave."""
    settings, flags = task.settings, task.settings.optimization
    if flags.schedule == "mlperf":
        steps, start = flags.warmup_steps or 0, flags.start_warmup_step or 0
        return settings.with_resolved("optimization", warmup_steps=steps, start_warmup_step=start)
    if flags.warmup_proportion is None:
        return settings.with_resolved("optimization", warmup_proportion=task.warmup_proportion)
    return settings


def _count_steps(settings: Settings, n_samples: int | None) -> int | None:
    """Optimizer steps of this stage; None where nothing is trained, or where a problem leaves them unknown."""
    steps, epochs, batches = settings.length.max_steps, settings.length.num_train_epochs, settings.batches
    if steps is None and epochs is not None:
        known = n_samples is not None and batches is not None and 0 < epochs < math.inf
        steps = math.ceil(epochs * n_samples / batches.overall) if known else None
    return steps if settings.trains and steps is not None and steps > 0 else None


def _find_resumed(
    task: Task, n_steps: int | None, world: World, problems: Problems, own_folder: Callable[[], object]
) -> dict[str, Any] | None:
    settings, resumed = task.settings, None
    # Rank 0 alone chooses, or ranks might see different ones in a folder that changes. What is only checked may resume
    # from a checkpoint that is yet to be written.
    if world.is_first and not settings.runtime.check_only:
        with problems.collect():
            if not problems.found:
                own_folder()
            model = settings.model and meta_model(task.model_class, settings.model)
            resumed = find_start(settings, task.stage, n_steps or math.inf, model)
    step = world.broadcast(resumed and resumed["step"])
    if step is not None and not world.is_first:
        with problems.collect():
            resumed = checkpoint.load_checkpoint(Path(settings.output.output_dir) / f"ckpt_{step}.pt")
    return resumed


def _start(settings: Settings, stage: Stage, n_steps: int | None, resumed: dict[str, Any] | None) -> Start:
    total_steps = n_steps or 1
    step = resumed and resumed["step"]
    first_step = 0 if step is None else step - stage.first_step
    this_run, asked = settings.length.steps_this_run, settings.measurement.benchmark_start
    last_step = min(total_steps, first_step + this_run) if this_run else total_steps
    window_start = min(10, (last_step - first_step) // 5) if asked is None else asked
    new_stage = stage.continues and step == stage.first_step
    return Start(total_steps, first_step, last_step, window_start, new_stage, resumed_step=step)


def _position_problems(position: dict[str, Any], task: Task) -> Iterator[Problem]:
    """Why a checkpoint's place in the data is none in this dataset."""
    seed, n_samples, reading = task.dataset.seed, task.dataset.n_samples, task.dataset.reading
    remedy = f"go on with the {task.data_flags} it was made with, or start anew with --init_checkpoint"
    if (position["seed"], position["n_samples"]) != (seed, n_samples):
        yield Problem(
            f"the checkpoint stands at a place among {position['n_samples']} sequences in the order of seed "
            f"{position['seed']}, and the data now holds {n_samples} with seed {seed}",
            remedy,
        )
    if (then := position.get("reading", BatchStream.reading)) != reading:  # older checkpoints do not say
        yield Problem(f"the checkpoint's sequences were {then}, and this run's are {reading}", remedy)


def _window_problem(settings: Settings, start: Start) -> Problem | None:
    """Why the window of the throughput measures nothing; None where it does."""
    first, stop, n_steps = start.window_start, settings.measurement.benchmark_stop, start.last_step - start.first_step
    closes_early = stop is not None and stop <= first
    table = (
        (first < 0, f"--benchmark_start {first} must not be negative."),
        (closes_early, f"--benchmark_stop {stop} must be greater than --benchmark_start {first}."),
        (first >= n_steps, f"--benchmark_start {first} leaves nothing to measure in {counted(n_steps, 'step')}."),
    )
    return next((Problem(what) for is_wrong, what in table if is_wrong and n_steps > 0), None)


def _raise_if_any_rank_has_problems(problems: Problems, world: World) -> None:
    ranks_of: dict[Problem, list[int]] = {}
    for rank, found in enumerate(world.gather(problems.found)):
        for problem in dict.fromkeys(found):  # a folder for training and evaluation is checked twice
            ranks_of.setdefault(problem, []).append(rank)
    named = []
    for problem, ranks in ranks_of.items():
        prefix = "" if len(ranks) == world.size else f"rank {', '.join(map(str, ranks))}: "
        named.append(Problem(prefix + problem.problem, problem.remedy))
    if named:
        raise UserError(named if world.is_first else [])
