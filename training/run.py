"""What a training run is made of, whatever it trains: optimizer, schedule, loss scale, place in the data, checkpoints.

The reduction of gradients, the sharded optimizer and the writing of checkpoints are chosen here, and the loop does not
know which it has.
"""

import dataclasses
import functools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimization import WarmupSchedule, build_optimizer, clips_itself, parameter_groups
from training.checkpointing.writer import CheckpointWriter, to_host
from training.config.settings import Settings
from training.cuda_graphs import GradientGraphs
from training.distributed.averaging import Way, way_to_average
from training.distributed.bucket_reduction import BucketReduction
from training.distributed.copy_engines import CopyEngines
from training.distributed.data_parallel import REDUCE_DTYPES, average, send_weights
from training.distributed.sharded_optimizer import ShardedOptimizer
from training.distributed.stop_signal import StopSignal
from training.distributed.world import World
from training.loss_scale import LossScale
from training.metrics.step_times import StepTimes
from training.observer import RunObserver
from training.step import TrainingStep
from training.task import Start, Task


class TrainingRun:
    """Model, optimizer, schedule and position of one stage, and what they are saved as.

    Args:
        task: with resolved settings. It makes the model.
        resumed: the checkpoint to resume; None: a fresh start. It is emptied, since BERT-large's takes gigabytes.
        observer: is told of the training.
    """

    def __init__(
        self,
        task: Task,
        start: Start,
        resumed: dict[str, Any] | None,
        world: World,
        stop_signal: StopSignal,
        observer: RunObserver,
    ):
        self.task, self.start, self.world, self.observer = task, start, world, observer
        self.settings: Settings = task.settings
        flags, device = self.settings.optimization, self.settings.device
        torch.manual_seed(flags.seed)
        self.model = task.make_model()
        self.optimizer, max_grad_norm = _make_optimizer(self.model, self.settings, world)
        self.schedule = WarmupSchedule(
            self.optimizer,
            start.total_steps,
            flags.warmup_proportion,
            flags.learning_rate,
            flags.schedule,
            flags.warmup_steps,
            flags.start_warmup_step,
        )
        self.loss_scale = _make_loss_scale(self.settings)
        self.step_times = StepTimes(device)
        self.training_step = TrainingStep(
            self.losses,
            self.optimizer,
            self.schedule,
            self.settings.batches.accumulation_steps,
            device,
            max_grad_norm=max_grad_norm,
            seed=flags.seed,
            loss_scale=self.loss_scale,
            world=world,
            must_stop=stop_signal.agreed,
            part=self.step_times.part,
            reduces_each=not self.settings.distribution.allreduce_post_accumulation,
        )
        self.samples_seen = 0
        self.scores: dict[str, float] = {}
        """Of the weights after `scored_step` steps, by the last evaluation of this process."""
        self.scored_step: int | None = None
        self.way_to_average: Way | None = None
        """Of gradients over the ranks; None on one."""
        self._seconds_before = 0.0  # of training, up to the checkpoint that is resumed
        self._clock_start = time.perf_counter()
        if resumed is not None:
            self._restore(resumed)
            resumed.clear()
        if self.settings.trains:
            self._choose_backward()

    def _choose_backward(self) -> None:
        """How gradients are made, by autograd alone or by CUDA graphs, and averaged where there are several ranks."""
        parameters, reduction = list(self.model.parameters()), None
        if self.world.size > 1:
            send_weights(self.model)
            reduction = self._make_reduction(parameters)
            self.training_step.backward = reduction.backward
        if self.settings.runtime.cuda_graphs:
            self.training_step.graphs = GradientGraphs(self.losses, parameters, reduction)

    def _make_reduction(self, parameters: list[Tensor]) -> BucketReduction:
        flags, device, dtype = self.settings.distribution, self.settings.device, self._dtype_of_buckets()
        is_sent_as_is = REDUCE_DTYPES[flags.reduced_in] == dtype
        self.way_to_average = way_to_average(flags.overlap_reduction, self.world, device, is_sent_as_is)
        average_in, options = functools.partial(average, reduce_dtype=flags.reduced_in), {}
        if self.way_to_average is Way.COPY_ENGINES:
            engines = CopyEngines(self.world, device)
            average_in, options = engines.average, {"allocate": engines.allocate}
        overlaps = self.way_to_average is not Way.AFTER
        begin = self.step_times.begin_reduction
        return BucketReduction(parameters, average_in, begin, overlaps=overlaps, dtype=dtype, **options)

    def _dtype_of_buckets(self) -> torch.dtype:
        """bf16 where gradients are sent so, the step adds none to them, and the optimizer reads them; else fp32."""
        stays_bf16 = (
            self.settings.distribution.reduced_in == "bf16"
            and self.settings.batches.accumulation_steps == 1
            and getattr(self.optimizer, "takes_bf16_gradients", False)
        )
        return torch.bfloat16 if stays_bf16 else torch.float32

    def losses(self, batch: Any) -> tuple[Tensor, ...]:
        """The task's losses of a batch on the device."""
        return self.task.losses(self.model, batch)

    @property
    def step(self) -> int:
        """Optimizer steps of this stage that were taken."""
        return self.schedule.finished_steps

    def start_clock(self) -> None:
        """Training begins."""
        self._clock_start = time.perf_counter()

    @property
    def training_seconds(self) -> float:
        """Wall clock since training began, evaluations and checkpoints included.

        A resumed run counts on from its checkpoint: what came after the checkpoint, and the start of a
        process up to its training, do not count.
        """
        return self._seconds_before + time.perf_counter() - self._clock_start

    @property
    def target_reached(self) -> bool:
        """Whether the weights as they stand were scored, and reach what the task trains for."""
        target = self.task.evaluations.target
        return target is not None and self.scored_step == self.step and target.is_reached(self.scores)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if not self.settings.trains:
            return
        # What this run was told counts, not what the saved one was.
        settings = [{**group, "params": None} for group in self.optimizer.param_groups]
        # A copy: on the CPU the moments would else stay in the file's pages, and the file is removed one day.
        self.optimizer.load_state_dict(to_host(state["optimizer"]))
        for group, told in zip(self.optimizer.param_groups, settings, strict=True):
            group.update({**told, "params": group["params"], "step": group["step"]})
        if self.start.new_stage:
            for group in self.optimizer.param_groups:
                group["step"] = 0
            self.schedule.load_state_dict({"finished_steps": 0})
            return
        self.schedule.load_state_dict(state["schedule"])
        self.training_step.load_state_dict(state["training_step"])
        self.samples_seen = state["data_position"]["samples_seen"]
        self._seconds_before = state.get("training_seconds", 0.0)  # older checkpoints do not say

    def save(self, writer: CheckpointWriter) -> None:
        """Hand the state after the last step taken to rank 0's writer. All ranks call it."""
        optimizer_state = self.optimizer.state_dict()  # of a sharded optimizer: all ranks take part
        if not self.world.is_first:
            return
        settings, dataset, stage_start = self.settings, self.task.dataset, self.task.stage.first_step
        flags = settings.checkpoints
        position = {name: getattr(dataset, name) for name in ("seed", "n_samples", "reading")}
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state,
            "schedule": self.schedule.state_dict(),
            "training_step": self.training_step.state_dict(),
            "data_position": {"samples_seen": self.samples_seen, **position},
            "training_seconds": self.training_seconds,
            "configuration": {"model": dataclasses.asdict(settings.model), "arguments": dict(settings.record)},
        }
        retention = {"keep": flags.keep_checkpoints, "keep_every": flags.keep_every, "phase_start_step": stage_start}
        writer.save(settings.output.output_dir, stage_start + self.step, state, **retention)


def _make_optimizer(model: nn.Module, settings: Settings, world: World) -> tuple[Optimizer | ShardedOptimizer, float]:
    """The optimizer, and the norm that is left to the step to clip gradients to; inf where the optimizer clips."""
    flags = settings.optimization
    sharded = settings.distribution.shard_optimizer and world.size > 1
    # One that clips itself would clip its share by the norm of that share alone.
    optimizer_clips = clips_itself(flags.optimizer) and not sharded
    of_optimizer, of_step = (flags.max_grad_norm, math.inf) if optimizer_clips else (math.inf, flags.max_grad_norm)
    options = {"lr": flags.learning_rate, "max_grad_norm": of_optimizer, "kernels": settings.runtime.kernels}
    options |= {"bias_correction": flags.bias_correction, "betas": flags.betas, "eps": flags.epsilon}
    build = functools.partial(build_optimizer, flags.optimizer, **options)
    groups = parameter_groups(model, flags.weight_decay)
    optimizer = ShardedOptimizer(build, groups, world.rank, world.size) if sharded else build(groups)
    return optimizer, of_step


def _make_loss_scale(settings: Settings) -> LossScale | None:
    """None where gradients need none, which is in every precision but fp16."""
    if settings.precision.name != "fp16":
        return None
    runtime = settings.runtime
    first = runtime.loss_scale or runtime.init_loss_scale
    return LossScale(first, dynamic=not runtime.loss_scale, floor=runtime.min_loss_scale)
