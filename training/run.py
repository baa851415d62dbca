"""What a training run is made of, whatever it trains: optimizer, schedule, loss scale, place in the data, checkpoints.

A run is the same on one process and on many: the wrapper that reduces gradients, the sharded optimizer and the writing
of checkpoints are chosen here, and the loop does not know which it has. What is trained, on which data, and how it is
scored is the business of the entries, which derive their own run.
"""

import argparse
import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from common.matmul import Matmul
from common.work import Work
from optimization import WarmupSchedule, build_optimizer, clips_itself, parameter_groups
from training.checkpointing.resume import first_global_step
from training.checkpointing.writer import CheckpointWriter, to_host
from training.config.arguments import reduce_dtype
from training.config.batch_sizes import BatchSizes
from training.config.precision import Precision
from training.cuda_graphs import GradientGraphs
from training.distributed.data_parallel import data_parallel
from training.distributed.sharded_optimizer import ShardedOptimizer
from training.distributed.stop_signal import StopSignal
from training.distributed.world import World
from training.loss_scale import LossScale
from training.metrics.logger import MetricsLogger
from training.metrics.step_times import StepTimes
from training.step import TrainingStep


@dataclasses.dataclass
class TrainingSetup:
    """What a checked command line comes to."""

    device: torch.device
    precision: Precision
    execution: Any
    """How the model runs, which only the model knows what to make of."""
    batches: BatchSizes
    config: Any
    """The model's shape, a dataclass of numbers and strings."""
    dataset: Any
    """Has `iterate`, `epoch`, `n_samples` and `seed`, as the stream of micro-batches has; None where nothing is
    trained."""
    total_steps: int
    """Of this phase, which the schedule spans; 1 where nothing is trained."""
    first_step: int
    """Steps of this phase that lie behind."""
    last_step: int
    """The step of this phase after which this run ends."""
    window_start: int
    """Steps of this run before throughput is measured."""
    new_phase: bool
    """The checkpoint is phase 1's last and this is phase 2: weights and moments count, schedule and data start anew."""
    resumed: dict | None
    """The checkpoint to go on from; None: a fresh start, or the run has taken it over."""
    resumed_step: int | None
    """Its step, counted over both phases."""
    initial_weights: Any
    """What to start from instead; None: nothing, or the run has taken it over."""


class TrainingRun:
    """Model, optimizer, schedule and position of one phase, and what they are saved as.

    Args:
        args: the command line.
        setup: what it comes to. Its checkpoint and weights are taken over.
        model: on its device, with its initial weights.
        stop_signal: asked before each micro-batch whether to stop.
    """

    loss_names: tuple[str, ...] = ("loss",)
    """Of what `losses` returns: what is trained on, then its parts."""
    metrics: tuple[tuple[str, str | None, str], ...] = ()
    """Name, unit and printed form of what this run logs besides the loop's own."""
    steps_per_evaluation: int | None = None
    """Steps between calls of `evaluate` while training; None: there are none."""

    def __init__(
        self, args: argparse.Namespace, setup: TrainingSetup, world: World, stop_signal: StopSignal, model: nn.Module
    ):
        self.args, self.setup, self.world, self.model = args, setup, world, model
        self.optimizer = self._build_optimizer(sharded=args.shard_optimizer and world.size > 1)
        self.schedule = WarmupSchedule(
            self.optimizer, setup.total_steps, args.warmup_proportion, args.learning_rate, args.schedule
        )
        self.loss_scale = None
        if setup.precision.name == "fp16":
            self.loss_scale = LossScale(
                args.loss_scale or args.init_loss_scale, dynamic=args.loss_scale == 0, floor=args.min_loss_scale
            )
        self.forward: nn.Module = model
        self.step_times = StepTimes(setup.device)
        self.training_step = TrainingStep(
            self.losses,
            self.optimizer,
            self.schedule,
            setup.batches.accumulation_steps,
            setup.device,
            max_grad_norm=math.inf if self._optimizer_clips else args.max_grad_norm,
            seed=args.seed,
            loss_scale=self.loss_scale,
            sum_over_ranks=world.sum_,
            n_ranks=world.size,
            must_stop=stop_signal.agreed,
            part=self.step_times.part,
            graphs=GradientGraphs(self.losses, model.parameters()) if args.cuda_graphs and args.do_train else None,
        )
        self.samples_seen = 0
        if setup.resumed is not None:
            self._restore(setup.resumed)
        setup.resumed = setup.initial_weights = None  # the run holds their tensors, and BERT-large's take gigabytes
        if world.size > 1 and args.do_train:
            begin_last = self.step_times.begin_reduction
            self.forward = data_parallel(model, setup.device, reduce_dtype(args), begin_last)
            if args.allreduce_post_accumulation:
                self.training_step.no_sync = self.forward.no_sync

    def losses(self, batch: Any) -> tuple[Tensor, ...]:
        """Scalars named by `loss_names` of a batch on the device, through `self.forward`."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Scores on what was held out; none where there is nothing. All ranks call it."""
        return {}

    def announce(self, logger: MetricsLogger) -> None:
        """Say for people what this run is, before its first step."""

    def device_line(self) -> str:
        """Devices, precision, kernels and size, for `announce`."""
        device, n_ranks = self.setup.device.type, self.world.size
        parameters = sum(p.numel() for p in self.model.parameters())
        devices = f"{device} x {n_ranks}" if n_ranks > 1 else device
        fast_paths = "Triton's kernels | " if self.args.kernels == "triton" else ""
        fast_paths += "CUDA graphs | " if self.args.cuda_graphs else ""
        return f"{devices} | {self.setup.precision.name} | {fast_paths}{parameters / 1e6:.1f} M parameters"

    @property
    def guessing_loss(self) -> float:
        """The loss of a model that gives every answer the same probability; a run that ends far above it is wrong."""
        raise NotImplementedError

    def flops(self, work: Work) -> float:
        """Floating-point operations of training on batches that hold so much."""
        raise NotImplementedError

    def matmuls(self, n_tokens: int) -> list[Matmul]:
        """The encoder's matmuls in a training step over so many tokens."""
        raise NotImplementedError

    def _build_optimizer(self, sharded: bool) -> torch.optim.Optimizer | ShardedOptimizer:
        args = self.args
        groups = parameter_groups(self.model.named_parameters(), args.weight_decay)
        # One that clips itself would clip its share by the norm of that share alone.
        self._optimizer_clips = clips_itself(args.optimizer) and not sharded
        limit = args.max_grad_norm if self._optimizer_clips else math.inf
        build = functools.partial(
            build_optimizer, args.optimizer, lr=args.learning_rate, max_grad_norm=limit, kernels=args.kernels
        )
        if sharded:
            return ShardedOptimizer(build, groups, self.world.rank, self.world.size)
        return build(groups)

    @property
    def step(self) -> int:
        """Optimizer steps of this phase that were taken."""
        return self.schedule.finished_steps

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        if not self.args.do_train:
            return
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        # A copy: on the CPU the moments would else stay in the file's pages, and the file is removed one day.
        self.optimizer.load_state_dict(to_host(state["optimizer"]))
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # what this run was told counts, not what the saved one was
        if self.setup.new_phase:
            for group in self.optimizer.param_groups:
                group["step"] = 0
            self.schedule.load_state_dict({"finished_steps": 0})
            return
        self.schedule.load_state_dict(state["schedule"])
        self.training_step.load_state_dict(state["training_step"])
        self.samples_seen = state["data_position"]["samples_seen"]

    def save(self, writer: CheckpointWriter) -> None:
        """Hand the state after the last step taken to rank 0's writer. All ranks call it."""
        phase_start = first_global_step(self.args)
        optimizer_state = self.optimizer.state_dict()  # of a sharded optimizer: all ranks take part
        if not self.world.is_first:
            return
        dataset = self.setup.dataset
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state,
            "schedule": self.schedule.state_dict(),
            "training_step": self.training_step.state_dict(),
            "data_position": {
                "samples_seen": self.samples_seen,
                "seed": dataset.seed,
                "n_samples": dataset.n_samples,
            },
            "configuration": {"model": dataclasses.asdict(self.setup.config), "arguments": vars(self.args)},
        }
        writer.save(
            self.args.output_dir,
            phase_start + self.step,
            state,
            keep=self.args.keep_checkpoints,
            keep_every=self.args.keep_every,
            phase_start_step=phase_start,
        )
