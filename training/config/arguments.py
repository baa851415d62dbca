"""The command-line flags that pre-training and fine-tuning share, under the names NVIDIA's scripts gave them.

An argument's help says what it does and in which unit. Only values are declared here; what must hold between them is
checked by the entry that knows them all, and reported in one list.
"""

import argparse

from optimization import OPTIMIZERS, SCHEDULES
from training.config.precision import PRECISIONS
from training.metrics.profiling import KINDS


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, where there is one to show, and keeps the description's line breaks."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def add_optimization_arguments(
    parser: argparse.ArgumentParser, learning_rate: float, warmup_proportion: float, optimizer: str, schedule: str
) -> None:
    """Batch, rate and schedule; the defaults are the entry's."""
    group = parser.add_argument_group("optimization")
    group.add_argument(
        "--train_batch_size", type=int, default=None, help="sequences per GPU and optimizer step (default: 32)"
    )
    group.add_argument(
        "--global_batch_size",
        type=int,
        default=None,
        help="instead of it, sequences per optimizer step over all GPUs, so that another number of GPUs trains alike",
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=None,
        help="micro-batches per optimizer step; --train_batch_size divided by this is the micro-batch "
        "(default: as many as the micro-batch makes)",
    )
    group.add_argument(
        "--micro_batch_size",
        type=int,
        default=None,
        help="instead of it, sequences that the GPU takes at once (default: the most that fit its memory, at most 32 "
        "on a CPU)",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, default=optimizer, help="apex_* need NVIDIA's apex")
    group.add_argument("--learning_rate", type=float, default=learning_rate, help="the highest rate of the schedule")
    group.add_argument(
        "--warmup_proportion", type=float, default=warmup_proportion, help="share of the steps with a rising rate"
    )
    group.add_argument("--schedule", choices=SCHEDULES, default=schedule, help="how the rate falls after warm-up")
    group.add_argument("--weight_decay", type=float, default=0.01, help="of all but biases and LayerNorm weights")
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="the global gradient norm is clipped to this")
    group.add_argument("--seed", type=int, default=42, help="of initialisation, dropout and the order of the data")


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and in which arithmetic a run computes."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=None,
        help="arithmetic of the matrix products; parameters and optimizer state are fp32 always "
        "(default: bf16 on GPUs that have it, else fp32)",
    )
    group.add_argument("--fp16", "--amp", action="store_true", help="NVIDIA's names for --precision fp16")
    group.add_argument(
        "--loss_scale", type=float, default=0.0, help="fp16: a constant loss scale; 0: a dynamic one, as is usual"
    )
    group.add_argument("--init_loss_scale", type=float, default=2.0**20, help="fp16: where a dynamic loss scale begins")
    group.add_argument("--min_loss_scale", type=float, default=1.0, help="fp16: a dynamic loss scale falls no lower")
    group.add_argument(
        "--max_skipped_steps", type=int, default=20, help="fp16: give up after so many skipped steps in a row"
    )
    group.add_argument("--compile", action="store_true", help="fuse each layer's element-wise work with torch.compile")
    group.add_argument(
        "--kernels",
        choices=("torch", "triton"),
        default=None,
        help="what layers and optimizer run on: PyTorch's kernels, or those written by hand in Triton, for NVIDIA "
        "GPUs; --compile then fuses what is left, embeddings and heads (default: triton on Hopper GPUs in 16 bits and "
        "fp8, where that was measured to be faster, else torch)",
    )
    group.add_argument(
        "--attention",
        choices=("flash", "sdpa", "triton"),
        default=None,
        help="what attention runs on: FlashAttention-2, PyTorch's scaled_dot_product_attention, or with --kernels "
        "triton a kernel written by hand for at most 512 tokens (default: that on Hopper GPUs with --kernels triton, "
        "else flash on GPUs in 16 bits, else sdpa)",
    )
    group.add_argument(
        "--cuda_graphs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="launch forward and backward pass as one CUDA graph per shape of batch, where the processor cannot launch "
        "kernels as fast as the GPU runs them: small batches, and fp8. For one GPU; takes more memory (default: on "
        "Hopper GPUs with --kernels triton and micro-batches of at most 16,384 tokens)",
    )
    group.add_argument(
        "--disable_jit_fusions",
        action="store_true",
        help="NVIDIA's name for running without --compile, which is the default",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bits at every run on a GPU too, by slower kernels where the faster ones add up in any order",
    )
    group.add_argument(
        "--layer_norm", choices=("torch", "apex"), default="torch", help="implementation of LayerNorm; apex needs apex"
    )
    group.add_argument(
        "--checkpoint_activations",
        action="store_true",
        help="keep only each layer's input and compute the rest again: a fifth of the memory, a quarter slower",
    )
    group.add_argument(
        "--check_only",
        action="store_true",
        help="only check flags, configuration and shards (no checkpoints), and exit",
    )
    group.add_argument("--no_cuda", action="store_true", help="run on the CPU even where there is a GPU")


def add_distribution_arguments(parser: argparse.ArgumentParser) -> None:
    """How several processes, started by torchrun, share the work."""
    group = parser.add_argument_group(
        "distribution (processes are started by torchrun; one alone has no use for these)"
    )
    group.add_argument(
        "--reduce_dtype",
        choices=("fp32", "fp16", "bf16"),
        default=None,
        help="what gradients are sent and averaged in between GPUs (default: fp32)",
    )
    group.add_argument(
        "--allreduce_post_accumulation_fp16", action="store_true", help="NVIDIA's name for --reduce_dtype fp16"
    )
    group.add_argument(
        "--allreduce_post_accumulation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="reduce gradients once per optimizer step; --no-..., for comparison, once per micro-batch",
    )
    group.add_argument(
        "--shard_optimizer",
        action="store_true",
        help="each process keeps and updates the optimizer's moments of its share of the parameters only (ZeRO 1)",
    )
    group.add_argument(
        "--startup_timeout",
        type=float,
        default=120.0,
        help="seconds within which all processes must have started, or the missing ones are named",
    )
    group.add_argument(
        "--local_rank",
        "--local-rank",
        type=int,
        default=-1,
        help="the GPU of this process, from launchers that do not set LOCAL_RANK; torchrun does",
    )
    group.add_argument(
        "--use_env", action="store_true", help="insist on LOCAL_RANK in the environment, as NVIDIA's launcher did"
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run writes and shows."""
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", required=True, help="folder of checkpoints and logs; made where it is missing")
    group.add_argument("--log_freq", type=int, default=10, help="optimizer steps from one log line to the next")
    group.add_argument(
        "--json-summary", default=None, help="the log, in DLLogger's lines (default: OUTPUT_DIR/dllogger.json)"
    )
    group.add_argument(
        "--tensorboard_dir", default=None, help="also write what is logged as TensorBoard scalars to this folder"
    )
    group.add_argument(
        "--disable_progress_bar", "--disable-progress-bar", action="store_true", help="no bar; log lines stay"
    )
    group.add_argument("--skip_checkpoint", action="store_true", help="write no checkpoint")


def add_measurement_arguments(parser: argparse.ArgumentParser) -> None:
    """On what, and in which window, throughput is measured."""
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--synthetic",
        metavar="LENGTHS",
        default=None,
        help="train on random tokens, for which no data is needed: 'full' makes all sequences --max_seq_length long, "
        "a number is the mean of uniformly drawn lengths",
    )
    group.add_argument(
        "--benchmark_start",
        type=int,
        default=None,
        help="steps of this run before the window opens, for compilation and warm-up "
        "(default: a fifth of the run's steps, 10 at most)",
    )
    group.add_argument(
        "--benchmark_stop", type=int, default=None, help="step of this run that closes the window (default: the last)"
    )
    group.add_argument(
        "--measure_peak",
        action="store_true",
        help="before training, time the encoder's matrix products by themselves and a copy: what this device does at "
        "most",
    )
    group.add_argument(
        "--profile",
        nargs="?",
        const="cuda",
        default=None,
        choices=KINDS,
        help="profile some steps: torch writes OUTPUT_DIR/profile/trace_rank0.json; --profile alone is for Nsight, "
        "started with --capture-range cudaProfilerApi",
    )
    group.add_argument("--profile-start", type=int, default=5, help="steps of this run before those that are profiled")
    group.add_argument("--profile-steps", "--profile_steps", type=int, default=5, help="steps that are profiled")


def add_length_arguments(parser: argparse.ArgumentParser, num_train_epochs: float | None = None) -> None:
    """How long to train; the default is the entry's."""
    group = parser.add_argument_group("length of the run")
    group.add_argument(
        "--max_steps", type=int, default=None, help="optimizer steps of the whole phase, which the schedule spans"
    )
    group.add_argument(
        "--num_train_epochs", type=float, default=num_train_epochs, help="the same in passes over the data"
    )
    group.add_argument(
        "--steps_this_run", type=int, default=None, help="stop after this many steps of this run, with a checkpoint"
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What is saved, and what a run goes on from; returns the group, for an entry with more to say about it."""
    group = parser.add_argument_group("checkpoints")
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
    return group


def precision_name(args: argparse.Namespace) -> str | None:
    """The precision asked for, under either name; None leaves it to the device."""
    return args.precision or ("fp16" if args.fp16 else None)


def reduce_dtype(args: argparse.Namespace) -> str:
    """What gradients are reduced in, under either name."""
    return "fp16" if args.allreduce_post_accumulation_fp16 else args.reduce_dtype or "fp32"
