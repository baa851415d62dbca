"""What a run asks of the task that it trains and scores.

A task is one folder in tasks/ with one class derived from `Task`, and one line in `tasks/table.py`; nothing else knows
a task by name. It lives as long as its run: made of the parsed settings, it reads its model's shape, opens its data,
makes its model, and then turns batches into losses and models into scores.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from common.errors import Problem, Problems
from common.work import Matmul, Work
from training.config.settings import Settings
from training.distributed.world import World
from training.evaluation import Evaluations
from training.observer import RunObserver


class Stage(NamedTuple):
    """The part of a longer training that a run is, where parts share a folder of checkpoints. Most tasks have one."""

    first_step: int = 0
    """The step, counted over all stages, after which this one begins."""
    continues: bool = False
    """It begins from the last checkpoint of the stage before it: weights and moments, with schedule and data anew."""
    checkpoint_required: Problem | None = None
    """What to say where this stage has no checkpoint of its own yet; None: it may begin."""
    flag: str = ""
    """The flag that says where the stage before it ends."""


class Start(NamedTuple):
    """Where in its stage a run begins and ends, in optimizer steps of the stage."""

    total_steps: int
    """Of the stage, which the schedule spans; 1 where nothing is trained."""
    first_step: int
    last_step: int
    window_start: int
    """Steps of this run before throughput is measured."""
    new_stage: bool
    """The checkpoint is the last of the stage before: its weights and moments count, schedule and data start anew."""
    resumed_step: int | None
    """The checkpoint's step, counted over all stages; None: a fresh start."""


class Task(abc.ABC):
    """A workload. The attributes below say what it is; `settings` are resolved from `open_data` on."""

    name: ClassVar[str]
    description: ClassVar[str]
    """What `--help` begins with."""
    flags: ClassVar[type]
    """The task's own flags: a dataclass of `training.config.flags`, with `do_train` and `max_seq_length`."""
    first_flags: ClassVar[tuple[str, ...]] = ()
    """The ten, by field, that `--help` explains; `--help all` explains the others too."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Of shared flags, by name, where they differ from those in `training.config.settings`."""
    warmup_proportion: ClassVar[float] = 0.01
    """Where no flag says it."""
    data_flags: ClassVar[str] = "--seed"
    """The flags that choose the training data and its order, for messages."""
    model_class: ClassVar[type[nn.Module]]
    """Made of a configuration and the name of a LayerNorm. Its forward pass returns losses."""
    loss_names: ClassVar[tuple[str, ...]] = ("loss",)
    """Of what `losses` returns: what is trained on, then its parts."""
    metrics: ClassVar[tuple[tuple[str, str | None, str], ...]] = ()
    """Name, unit and printed form of what the task logs besides the loop's own."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.dataset: Any = None
        """Has `iterate`, `epoch`, `n_samples`, `seed` and `reading`; None where nothing is trained."""

    @abc.abstractmethod
    def problems(self) -> Iterator[Problem]:
        """What is wrong with the task's flags, before any file is looked at."""

    @abc.abstractmethod
    def read_model(self, problems: Problems) -> Any:
        """The model's configuration; None, with problems noted, where it cannot be read."""

    @abc.abstractmethod
    def open_data(self, world: World, problems: Problems) -> None:
        """Open what is trained and scored on. Where there are problems, `settings` have no model and no batches."""

    def read_initial_weights(self, problems: Problems) -> None:  # noqa: B027  # a task may have none
        """Read what `make_model` starts from. Called where no checkpoint is resumed."""

    @abc.abstractmethod
    def make_model(self) -> nn.Module:
        """The model on its device, ready to run, with its initial weights."""

    @abc.abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        """Scalars named by `loss_names`, of a batch on the device; the first depends on all parameters of the model."""

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Scores on what was held out; none where there is nothing. All ranks call it."""
        return {}

    @abc.abstractmethod
    def flops(self, work: Work) -> float:
        """Floating-point operations of training on batches that hold so much, forward and backward."""

    @abc.abstractmethod
    def matmuls(self, n_sequences: int) -> list[Matmul]:
        """The encoder's matmuls in a training step over so many full sequences."""

    @property
    def n_read(self) -> int | None:
        """Tokens of a full sequence that the losses read; None: all. Known once the flags are parsed."""
        return None

    @property
    @abc.abstractmethod
    def guessing_loss(self) -> float:
        """The loss of a model that gives every answer the same probability; a run that ends far above it is wrong."""

    def announce(self, devices: str, start: Start) -> Iterator[str]:
        """Lines for people before the first step, of which one begins with `devices`, the run's hardware in words."""
        yield devices

    def observer(self, world: World, start: Start, started: float, tell: Callable[[str], object]) -> RunObserver:
        """Who is told of the training while it goes. All ranks call it, before the model is made.

        Args:
            started: when the process began, on the clock of `time.perf_counter`.
            tell: prints a line for people.
        """
        return RunObserver()

    @property
    def stage_name(self) -> str:
        """What lines about the run's steps begin with."""
        return self.name

    def scores_in_words(self, scores: Mapping[str, float]) -> dict[str, str]:
        """What people are shown of what `evaluate` returned: names, and values with their units."""
        return {name.replace("_", " "): f"{value:.4g}" for name, value in scores.items()}

    @property
    def stage(self) -> Stage:
        return Stage()

    @property
    def evaluations(self) -> Evaluations:
        """When `evaluate` is called besides after the last step, and which score ends the training."""
        return Evaluations()

    def warnings(self, scores: dict[str, float]) -> Iterator[str]:
        """What is unlike what was expected of the scores before the first step."""
        yield from ()
