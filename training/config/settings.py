"""The settings of a run: every flag that all tasks share, and what the flags resolve to.

A command line is parsed once into these frozen groups. `tasks/setup.py` resolves what was not said and validates the
whole; below that, `Settings` is all there is, and each fact has one field. A field's help is the flag's help, a class's
docstring the title that `--help` shows its flags under.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kernels.attention.backends import CHOICES
from optimization import BETAS, EPSILON, OPTIMIZERS, SCHEDULES
from training.config.batch_sizes import BatchSizes
from training.config.flags import flag
from training.config.precision import PRECISIONS, Precision

flags = dataclasses.dataclass(frozen=True, kw_only=True)


@flags
class Length:
    """How long to train."""

    max_steps: int | None = flag(None, "optimizer steps of the whole phase, which the schedule spans", positive=True)
    num_train_epochs: float | None = flag(None, "passes over the data, in place of --max_steps", positive=True)
    steps_this_run: int | None = flag(None, "stop after this many steps of this run, with a checkpoint", positive=True)


@flags
class Optimization:
    """Batch, rate and schedule."""

    train_batch_size: int | None = flag(None, "sequences per GPU and optimizer step (default: 32)", positive=True)
    global_batch_size: int | None = flag(None, "instead of it, sequences per step over all GPUs", positive=True)
    gradient_accumulation_steps: int | None = flag(None, "micro-batches per GPU and optimizer step", positive=True)
    micro_batch_size: int | None = flag(None, "sequences a GPU takes at once (default: what fits)", positive=True)
    optimizer: str = flag("lamb", "apex_* need NVIDIA's apex", choices=OPTIMIZERS)
    learning_rate: float = flag(5e-5, "the highest rate of the schedule", positive=True)
    warmup_proportion: float | None = flag(
        None, "share of the steps with a rising rate (default: 0.01, of fine-tuning 0.1)"
    )
    schedule: str = flag("poly", "how the rate falls after warm-up", choices=SCHEDULES)
    warmup_steps: int | None = flag(None, "--schedule mlperf: warm-up in steps, in place of the share (default: 0)")
    start_warmup_step: int | None = flag(
        None, "--schedule mlperf: step that its warm-up is counted from, at most 0 (default: 0)"
    )
    beta1: float = flag(BETAS[0], "decay of the optimizer's first moment", "--beta1", "--opt_lamb_beta_1")
    beta2: float = flag(BETAS[1], "decay of its second moment", "--beta2", "--opt_lamb_beta_2")
    epsilon: float = flag(EPSILON, "added to the root of the second moment", positive=True)
    weight_decay: float = flag(0.01, "of all but biases and LayerNorm weights")
    max_grad_norm: float = flag(1.0, "the global gradient norm is clipped to this", positive=True)
    bias_correction: bool = flag(True, "of LAMB's and AdamW's moments; Google's and NVIDIA's Adam for BERT has none")
    seed: int = flag(42, "of initialization, dropout and the order of the data")

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2


@flags
class Runtime:
    """Where and in which arithmetic a run computes."""

    precision: str | None = flag(None, "of matmuls (default: bf16 on GPUs that have it, else fp32)", choices=PRECISIONS)
    fp16: bool = flag(False, "NVIDIA's names for --precision fp16", "--fp16", "--amp")
    loss_scale: float = flag(0.0, "fp16: a constant loss scale; 0: a dynamic one, as is usual")
    init_loss_scale: float = flag(2.0**20, "fp16: where a dynamic loss scale begins", positive=True)
    min_loss_scale: float = flag(1.0, "fp16: a dynamic loss scale falls no lower", positive=True)
    max_skipped_steps: int = flag(20, "fp16: give up after so many skipped steps in a row", positive=True)
    compile: bool = flag(False, "fuse each layer's element-wise work with torch.compile")
    kernels: str | None = flag(
        None, "of layers and optimizer (default: triton on Hopper in 16 bits, else torch)", choices=("torch", "triton")
    )
    attention: str | None = flag(
        None,
        "FlashAttention-2, PyTorch's SDPA, or with --kernels triton a kernel for at most 512 tokens (default: that on "
        "Hopper, else flash on GPUs in 16 bits, else sdpa)",
        choices=CHOICES,
    )
    cuda_graphs: bool | None = flag(
        None,
        "launch forward and backward pass as one CUDA graph per shape of batch; takes more memory "
        "(default: on Hopper with --kernels triton and micro-batches of at most 32,768 tokens)",
    )
    fp8_weight_gradients: bool = flag(
        False, "with --precision fp8: weight gradients in fp8 too; faster, but not yet shown to learn as well"
    )
    disable_jit_fusions: bool = flag(False, "NVIDIA's name for running without --compile, which is the default")
    deterministic: bool = flag(False, "the same bits at every run on a GPU too, by slower kernels where needed")
    layer_norm: str = flag("torch", "implementation of LayerNorm; apex needs apex", choices=("torch", "apex"))
    checkpoint_activations: bool = flag(False, "keep each layer's input alone: a fifth of the memory, a quarter slower")
    check_only: bool = flag(False, "only check flags, configuration and shards (no checkpoints), and exit")
    no_cuda: bool = flag(False, "run on the CPU even where there is a GPU")
    long_cpu_run: bool = flag(False, "train on a CPU though that is estimated to take more than a day")


@flags
class Distribution:
    """How several processes, started by torchrun, share the work; one alone has no use for these."""

    reduce_dtype: str | None = flag(None, "for averaging gradients (default: fp32)", choices=("fp32", "fp16", "bf16"))
    allreduce_post_accumulation_fp16: bool = flag(False, "NVIDIA's name for --reduce_dtype fp16")
    allreduce_post_accumulation: bool = flag(True, "reduce gradients once per step, not per micro-batch")
    overlap_reduction: bool | None = flag(
        None, "on GPUs, average gradients beside the backward pass, not after it (default: unless NVLink joins all)"
    )
    shard_optimizer: bool = flag(False, "each process keeps the optimizer's moments of its share only (ZeRO 1)")
    startup_timeout: float = flag(120.0, "seconds after which processes that are missing are named", positive=True)
    max_step_seconds: float | None = flag(
        None,
        "end the run, with the stacks of all ranks, where a step takes longer (default: 20 times the mean step, but at "
        "least 600; 0: never)",
    )
    steps_between_probes: int | None = flag(
        None,
        "at the start and every so many steps each rank times the same matmul, and slow ones are named (default: 1,000 "
        "with several GPUs; 0: never)",
    )
    local_rank: int = flag(-1, "this process's GPU, where LOCAL_RANK is not set", "--local_rank", "--local-rank")
    use_env: bool = flag(False, "insist on LOCAL_RANK in the environment, as NVIDIA's launcher did")

    @property
    def reduced_in(self) -> str:
        """The dtype's name, under either flag."""
        return "fp16" if self.allreduce_post_accumulation_fp16 else self.reduce_dtype or "fp32"


@flags
class Output:
    """What a run writes and shows."""

    output_dir: str = flag(dataclasses.MISSING, "folder of checkpoints and logs; made where it is missing")
    log_freq: int = flag(10, "optimizer steps from one log line to the next", positive=True)
    json_summary: str | None = flag(
        None, "the log (default: OUTPUT_DIR/dllogger.json)", "--json-summary", metavar="FILE"
    )
    tensorboard_dir: str | None = flag(None, "also write what is logged as TensorBoard scalars to this folder")
    wandb_project: str | None = flag(None, "also log to this project of Weights & Biases")
    mlflow_experiment: str | None = flag(None, "also log to this experiment of MLflow, at MLFLOW_TRACKING_URI")
    disable_progress_bar: bool = flag(False, "no bar", "--disable_progress_bar", "--disable-progress-bar")
    skip_checkpoint: bool = flag(False, "write no checkpoint")

    @property
    def log_file(self) -> Path:
        return Path(self.json_summary or Path(self.output_dir) / "dllogger.json")


@flags
class Checkpoints:
    """What is saved, and what a run resumes from."""

    init_checkpoint: str | None = flag(
        None, "start from these weights, where there is no checkpoint to resume", metavar="PATH"
    )
    resume_from_checkpoint: bool = flag(False, "resume from the newest checkpoint in --output_dir, if any")
    resume_step: int = flag(-1, "resume from ckpt_RESUME_STEP.pt; -1: the newest")
    num_steps_per_checkpoint: int = flag(100, "optimizer steps between checkpoints", positive=True)
    keep_checkpoints: int = flag(3, "newest checkpoints of a phase that are kept", positive=True)
    keep_every: int | None = flag(None, "besides, every checkpoint of a multiple of this step is kept", positive=True)


@flags
class Measurement:
    """On what, and in which window, throughput is measured."""

    synthetic: str | None = flag(
        None,
        "train on random tokens: 'full' makes all sequences --max_seq_length long, a number is their mean length",
        metavar="LENGTHS",
    )
    benchmark_start: int | None = flag(None, "steps before the window (default: a fifth of the run's, at most 10)")
    benchmark_stop: int | None = flag(None, "step of this run that closes the window (default: the last)")
    measure_peak: bool = flag(False, "before training, time the encoder's matmuls by themselves, and a copy")
    profile: str | None = flag(
        None,
        "profile some steps: torch writes a trace to OUTPUT_DIR/profile; --profile alone is for Nsight",
        nargs="?",
        const="cuda",
        choices=("cuda", "torch"),
    )
    profile_start: int = flag(5, "steps of this run before those that are profiled", "--profile-start")
    profile_steps: int = flag(5, "steps that are profiled", "--profile-steps", "--profile_steps", positive=True)


SHARED = (Length, Optimization, Runtime, Distribution, Output, Checkpoints, Measurement)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides how a run goes, but for what its folder and its data hold."""

    length: Length
    optimization: Optimization
    runtime: Runtime
    """Names of a precision, kernels, attention and graphs that nobody gave are filled in when resolved."""
    distribution: Distribution
    output: Output
    checkpoints: Checkpoints
    measurement: Measurement
    task: Any
    """The task's own flags. Every task has `do_train` and `max_seq_length`."""
    record: Mapping[str, Any]
    """Every flag by its name, as logs and checkpoints keep them: as given, and where nothing was given as resolved."""
    device: torch.device | None = None
    precision: Precision | None = None
    execution: Any = None
    """How the model runs, which only the model knows what to make of."""
    model: Any = None
    """The model's shape, a dataclass of numbers and strings."""
    batches: BatchSizes | None = None

    @property
    def groups(self) -> list[Any]:
        """Every group of flags, the task's own last."""
        return [*(getattr(self, kind.__name__.lower()) for kind in SHARED), self.task]

    @property
    def precision_name(self) -> str | None:
        """The precision asked for, under either name; None leaves it to the device."""
        return self.runtime.precision or ("fp16" if self.runtime.fp16 else None)

    @property
    def trains(self) -> bool:
        return self.task.do_train

    @property
    def max_seq_length(self) -> int:
        return self.task.max_seq_length

    def with_resolved(self, group: str, **values: Any) -> "Settings":
        """A copy in which fields of a group have these values, in the record too."""
        changed = dataclasses.replace(getattr(self, group), **values)
        return dataclasses.replace(self, **{group: changed}, record={**self.record, **values})
