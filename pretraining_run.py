"""What one phase of pre-training is made of: model, optimizer, schedule, place in the data.

A run is the same on one process and on many: the wrapper that reduces gradients, the sharded optimizer and the writing
of checkpoints are chosen here, and the loop in run_pretraining.py does not know which it has.
"""

import argparse
import dataclasses
import functools
import math

import torch
from torch import Tensor

from data.flat_batch import PretrainingBatch
from modeling import BertForPreTraining, compile_regions
from optimization import WarmupSchedule, build_optimizer, clips_itself, parameter_groups
from pretraining_setup import Setup
from training import checkpoint
from training.checkpoint_writer import CheckpointWriter, to_host
from training.data_parallel import data_parallel
from training.distributed import World
from training.loss_scale import LossScale
from training.pretraining_arguments import reduce_dtype
from training.resume import first_global_step
from training.sharded_optimizer import ShardedOptimizer
from training.step import TrainingStep
from training.stop_signal import StopSignal


class Run:
    """Model, optimizer, schedule and position of one phase, and what they are saved as."""

    def __init__(self, args: argparse.Namespace, setup: Setup, world: World, stop_signal: StopSignal):
        self.args, self.setup, self.world = args, setup, world
        torch.manual_seed(args.seed)
        self.model = BertForPreTraining(setup.config, args.layer_norm)
        if setup.initial_weights is not None:
            checkpoint.load_initial_weights(self.model, setup.initial_weights, args.init_checkpoint)
        self.model.to(setup.device)
        self.model.bert.compute_dtype = setup.precision.compute_dtype
        self.model.bert.encoder.checkpoint_activations = args.checkpoint_activations
        self.optimizer = self._build_optimizer(sharded=args.shard_optimizer and world.size > 1)
        self.schedule = WarmupSchedule(
            self.optimizer, setup.total_steps, args.warmup_proportion, args.learning_rate, args.schedule
        )
        self.loss_scale = None
        if setup.precision.name == "fp16":
            self.loss_scale = LossScale(
                args.loss_scale or args.init_loss_scale, dynamic=args.loss_scale == 0, floor=args.min_loss_scale
            )
        self.forward = self.model
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
        )
        self.samples_seen = 0
        if setup.resumed is not None:
            self._restore(setup.resumed)
        if args.compile:
            compile_regions(self.model)
        if world.size > 1 and args.do_train:
            self.forward = data_parallel(self.model, setup.device, reduce_dtype(args))
            if args.allreduce_post_accumulation:
                self.training_step.no_sync = self.forward.no_sync

    def _build_optimizer(self, sharded: bool) -> torch.optim.Optimizer | ShardedOptimizer:
        args = self.args
        groups = parameter_groups(self.model.named_parameters(), args.weight_decay)
        # One that clips itself would clip its share by the norm of that share alone.
        self._optimizer_clips = clips_itself(args.optimizer) and not sharded
        limit = args.max_grad_norm if self._optimizer_clips else math.inf
        build = functools.partial(build_optimizer, args.optimizer, lr=args.learning_rate, max_grad_norm=limit)
        if sharded:
            return ShardedOptimizer(build, groups, self.world.rank, self.world.size)
        return build(groups)

    @property
    def step(self) -> int:
        """Optimizer steps of this phase that were taken."""
        return self.schedule.finished_steps

    def losses(self, batch: PretrainingBatch) -> tuple[Tensor, ...]:
        """Total, masked-LM and next-sentence loss of a batch on the device."""
        return self.forward(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.masked_lm_labels,
            batch.next_sentence_labels,
        )

    def predict(self, batch: PretrainingBatch) -> tuple[Tensor, Tensor]:
        """Logits of a batch on the device: masked positions (M, V), pairs (B, 2)."""
        return self.model.predict(
            batch.input_ids,
            batch.token_type_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            batch.masked_lm_positions,
            batch.next_sentence_labels.shape[0],
        )

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
