#!/usr/bin/env python3
r"""How fast a training step is: ours in its variants, and Hugging Face's BERT on the same batch.

All variants train on the same sequences in turns within one process, so that a busy or throttling machine slows all;
only those with CUDA graphs, whose memory nobody else can use, come one by one afterwards. At each of several batch
sizes; a variant's best one counts, as each may have another. Sequences are full unless a mean length is given. What
does not fit into memory is said and left out. A variant that fails is shown with its error and the others go on; it
then ends with status 1.

  python3 benchmark/training_step.py                                           # tiny, on a CPU in a minute
  python3 benchmark/training_step.py --bert_model large --batch_size 128 256   # phase 1
  python3 benchmark/training_step.py --bert_model large --batch_size 32 64 --max_seq_length 512 \
      --max_predictions_per_seq 80                                             # phase 2
  python3 benchmark/training_step.py --bert_model large --batch_size 32 64 --max_seq_length 384 --task squad

Ours: `eager`; `compiled`, with --compile; `triton`, with --kernels triton and --compile; `triton-attention`, with
--attention triton besides; `fp8`, all of that in fp8; each with `+graphs` behind it for --cuda_graphs. Hugging Face's:
`hf`, `hf-compiled`. On a GPU, utilisation is against a large matrix product measured in the same run, and memory is a
variant's own: the weights and moments of the others, which lie beside, are taken off the peak. What a graph keeps for
itself PyTorch does not count, so there it is left out.
"""

import argparse
import contextlib
import gc
import importlib.util
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark.tables import markdown_table
from benchmark.workloads.hugging_face_step import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    hugging_face_step,
    padded_inputs,
    padded_question_inputs,
)
from common.errors import Problems, run_main
from common.work import Work
from data.loading.flat_batch import PretrainingBatch
from data.loading.synthetic import synthetic_problem
from kernels.launch import triton_problem
from modeling import BertForPreTraining, BertForQuestionAnswering, prepare_model
from models.config import BERT_CONFIGS, BertConfig, Execution
from models.flops import bert_flops, question_answering_flops
from optimization import build_optimizer, clip_and_step, gradient_norm, parameter_groups
from tasks.pretraining.synthetic import synthetic_batch
from training.config.precision import PRECISIONS, Precision, precision_problem, resolve_precision
from training.cuda_graphs import GradientGraphs
from training.environment.allocator import use_expandable_segments
from training.metrics.throughput import ThroughputMeter

MATRIX_SIZE = 8192
WARM_UP_STEPS = 3
MODELS = MappingProxyType({"pretraining": BertForPreTraining, "squad": BertForQuestionAnswering})
ENCODER_INPUTS = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")
PRETRAINING_INPUTS = ("masked_lm_positions", "masked_lm_labels", "next_sentence_labels")


OURS = ("eager", "compiled", "triton", "triton-attention", "fp8")
GRAPHS = "+graphs"
THEIRS = ("hf", "hf-compiled")


def execution_of(variant: str, compute_dtype: torch.dtype = torch.float32) -> Execution:
    """How a variant runs, in this dtype if it has none of its own."""
    variant = variant.removesuffix(GRAPHS)
    return Execution(
        torch.bfloat16 if variant == "fp8" else compute_dtype,
        compiled=variant not in ("eager", "hf"),
        kernels="triton" if variant in ("triton", "triton-attention", "fp8") else "torch",
        attention="triton" if variant in ("triton-attention", "fp8") else None,
        in_fp8=variant == "fp8",
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny", help="(default: tiny)")
    parser.add_argument("--task", choices=MODELS, default="pretraining", help="(default: pretraining)")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=(*OURS, *(name + GRAPHS for name in OURS), *THEIRS),
        default=None,
        help="(default: eager and hf on a CPU; on a GPU all that it can, but fp8 and graphs only when named)",
    )
    parser.add_argument("--batch_size", type=int, nargs="+", default=[32], help="sequences per step (default: 32)")
    parser.add_argument("--max_seq_length", type=int, default=128, help="(default: 128)")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="(default: 20)")
    parser.add_argument("--mean_length", type=float, default=None, help="unpadded: mean length (default: all full)")
    parser.add_argument(
        "--precision",
        choices=[name for name in PRECISIONS if name != "fp8"],
        default=None,
        help="of all but the variant fp8 (default: bf16 on GPUs, fp32 elsewhere)",
    )
    parser.add_argument("--optimizer", choices=("lamb", "adamw"), default="adamw", help="ours; theirs is adamw always")
    parser.add_argument("--steps", type=int, default=10, help="steps per window (default: 10)")
    parser.add_argument("--windows", type=int, default=3, help="windows; the median counts (default: 3)")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace, config: BertConfig, device: torch.device) -> list[str]:
    """The variants to measure.

    Raises:
        UserError: variants that are asked for cannot run here, or numbers that the model does not take.
    """
    problems = Problems()
    for name in ("max_seq_length", "max_predictions_per_seq", "steps", "windows"):
        problems.check(getattr(args, name) >= 1, f"--{name} is {getattr(args, name)}", "it must be 1 or more")
    problems.check(min(args.batch_size) >= 1, f"--batch_size is {min(args.batch_size)}", "it must be 1 or more")
    for name, most, whose in (
        ("max_seq_length", config.max_position_embeddings, "the model's max_position_embeddings"),
        ("max_predictions_per_seq", args.max_seq_length, "--max_seq_length"),
    ):
        problems.check(
            getattr(args, name) <= most, f"--{name} is {getattr(args, name)}", f"{whose} allows {most} at most"
        )
    if args.mean_length is not None:
        problems.extend([synthetic_problem(args.mean_length, args.max_seq_length, "--mean_length")])
    if args.precision and (problem := precision_problem(args.precision, device)):
        problems.add(problem + ".")
    for name in args.variants or ():
        if problem := _problem(name, device):
            problems.add(f"--variants has {name}: {problem}", "leave it out")
    problems.raise_if_any()
    if args.variants is None:
        reasons = {name: _problem(name, device) for name in _usual_variants(device)}
        for name, reason in reasons.items():
            if reason:
                print(f"{name} is left out: {reason}")
        return [name for name, reason in reasons.items() if reason is None]
    return list(dict.fromkeys(args.variants))


def _usual_variants(device: torch.device) -> list[str]:
    if device.type == "cpu":
        return ["eager", "hf"]
    return [name for name in (*OURS, *THEIRS) if name != "fp8"]


def _problem(variant: str, device: torch.device) -> str | None:
    """Why it cannot run here."""
    if variant.endswith(GRAPHS) and device.type != "cuda":
        return "CUDA graphs need an NVIDIA GPU"
    if variant in THEIRS and importlib.util.find_spec("transformers") is None:
        return "Hugging Face's model needs transformers, of requirements-dev.txt"
    if variant in THEIRS or execution_of(variant).kernels == "torch":
        return None
    if problem := triton_problem(device):
        return problem
    return precision_problem("fp8", device) if execution_of(variant).in_fp8 else None


class Workload:
    """A batch, and what a model is given of it and counts for it."""

    def __init__(self, args: argparse.Namespace, config: BertConfig, batch_size: int, device: torch.device):
        self.task, self.config = args.task, config
        self.batch: PretrainingBatch = synthetic_batch(
            batch_size, args.max_seq_length, args.max_predictions_per_seq, config.vocab_size, args.mean_length
        ).to(device)
        lengths = self.batch.cu_seqlens[: batch_size + 1].diff()
        self._positions: tuple[Tensor, Tensor] = (lengths // 2).long(), (lengths - 1).long()

    def inputs(self) -> dict[str, Tensor]:
        """Of our model."""
        if self.task == "pretraining":
            return {name: getattr(self.batch, name) for name in (*ENCODER_INPUTS, *PRETRAINING_INPUTS)}
        start, end = self._positions
        return {name: getattr(self.batch, name) for name in ENCODER_INPUTS} | {
            "start_positions": start,
            "end_positions": end,
        }

    def padded(self) -> dict[str, Tensor]:
        """Of Hugging Face's."""
        if self.task == "pretraining":
            return padded_inputs(self.batch)
        return padded_question_inputs(self.batch, self._positions)

    def flops(self, work: Work) -> float:
        """Forward and backward, of the model, whoever runs it: see models/flops.py."""
        return (question_answering_flops if self.task == "squad" else bert_flops)(self.config, work)


def our_step(
    execution: Execution, optimizer: str, work: Workload, device: torch.device, by_graphs: bool
) -> Callable[[], None]:
    """One step of our model on the batch, as a function to call again and again."""
    torch.manual_seed(0)
    with device:  # where weights are drawn in milliseconds and not in many seconds
        model = MODELS[work.task](work.config)
    prepare_model(model, device, execution)
    groups = parameter_groups(model.named_parameters())
    optimizer = build_optimizer(optimizer, groups, LEARNING_RATE, kernels=execution.kernels)
    inputs = work.inputs()
    graphs = GradientGraphs(lambda batch: model(**inputs)[:1], model.parameters()) if by_graphs else None

    def step() -> None:
        if graphs is not None:
            graphs(work.batch, 1.0, accumulates=False)
        else:
            model(**inputs).loss.backward()
        clip_and_step(optimizer, gradient_norm(optimizer.param_groups), MAX_GRAD_NORM)
        optimizer.zero_grad(set_to_none=True)

    return step


def build(
    name: str, args: argparse.Namespace, work: Workload, precision: Precision, device: torch.device
) -> Callable[[], None]:
    """A variant's step, warm."""
    execution = execution_of(name, precision.compute_dtype)
    if name not in THEIRS:
        step = our_step(execution, args.optimizer, work, device, by_graphs=name.endswith(GRAPHS))
    else:
        step = hugging_face_step(
            work.config, work.padded(), args.task, execution.compute_dtype, device, execution.compiled
        )
    for _ in range(WARM_UP_STEPS):
        step()
    return step


def measure(step: Callable[[], None], n_steps: int, work: Workload, device: torch.device) -> dict:
    """One window of steps."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    meter = ThroughputMeter(0, n_steps, work.flops, device)
    for _ in range(n_steps):
        step()
        meter.add(work.batch.work)
        meter.end_step()
    return meter.result()


def measured_together(names: Sequence[str]) -> list[list[str]]:
    """Variants that take turns: all without graphs; and one by one those with, whose memory serves nobody else."""
    taking_turns = [name for name in names if not name.endswith(GRAPHS)]
    return [taking_turns, *([name] for name in names if name.endswith(GRAPHS))]


def measure_all(
    names: Sequence[str],
    args: argparse.Namespace,
    work: Workload,
    precision: Precision,
    device: torch.device,
    failed: list[str],
) -> dict[str, list[dict]]:
    """The windows of each variant at one batch size, taken in turns; none of those that do not fit into memory.

    Args:
        failed: is added what failed for another reason.
    """
    torch._dynamo.reset()  # or code for this batch's shapes would be made for any
    steps: dict[str, Callable[[], None]] = {}
    at_rest: dict[str, int] = {}
    windows: dict[str, list[dict]] = {name: [] for name in names}
    for name in names:
        before = allocated(device)
        with _failing_alone(name, work, failed):
            steps[name] = build(name, args, work, precision, device)
            at_rest[name] = allocated(device) - before
    for _ in range(args.windows):
        for name in list(steps):
            with _failing_alone(name, work, failed):
                windows[name].append(_window(steps, name, at_rest[name], args.steps, work, device))
    return {name: found for name, found in windows.items() if len(found) == args.windows}


def _window(
    steps: dict[str, Callable[[], None]], name: str, at_rest: int, n_steps: int, work: Workload, device: torch.device
) -> dict:
    """One window of a variant; one that fails is in `steps` no more, and leaves its memory to the others."""
    step = steps.pop(name)
    others = allocated(device) - at_rest
    window = measure(step, n_steps, work, device)
    steps[name] = step
    return window | {"others_bytes": others}


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def release_memory(device: torch.device) -> None:
    """Give back what nobody holds, cycles of objects included: what else runs here needs it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _failing_alone(name: str, work: Workload, failed: list[str]) -> Iterator[None]:
    """Say what ran out of memory, show and note what failed, release what it held, and go on."""
    variant = f"{name} with {len(work.batch.next_sentence_labels)} sequences"
    try:
        yield
    except Exception as error:  # whatever it is, the others are worth their table
        if isinstance(error, torch.OutOfMemoryError):
            print(f"{variant}: out of memory", flush=True)
        else:
            traceback.print_exc()
            failed.append(variant)
        traceback.clear_frames(error.__traceback__)  # they hold the step's tensors for as long as the error lives
        release_memory(work.batch.input_ids.device)


def matrix_product_tflops(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP/s of a large product of random matrices: the ceiling of this GPU, as it is now."""
    a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype) for _ in range(2))
    for _ in range(5):
        a @ b
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(20):
        a @ b
    end.record()
    end.synchronize()
    return 20 * 2 * MATRIX_SIZE**3 / (start.elapsed_time(end) / 1e3) / 1e12


def rate(windows: Sequence[dict]) -> float:
    """The median of their sequences/s."""
    return statistics.median(window["sequences_per_second"] for window in windows)


def row(name: str, batch_size: int, windows: Sequence[dict], peak: float | None, best: float | None) -> list[str]:
    """A line of the table."""
    rates = [window["sequences_per_second"] for window in windows]
    tflops = statistics.median(window["model_tflops_per_second"] for window in windows)
    last = windows[-1]
    memory = last.get("peak_memory_allocated_bytes", 0) - last["others_bytes"]
    return [
        name,
        str(batch_size),
        f"{rate(windows):,.1f}",
        f"{min(rates):,.1f} - {max(rates):,.1f}",
        f"{tflops:,.3g}",
        f"{tflops / peak:.1%}" if peak and not execution_of(name).in_fp8 else "",
        f"{memory / 2**30:.1f}" if memory > 0 and not name.endswith(GRAPHS) else "",
        f"{rate(windows) / best:.2f}" if best else "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(arguments)
    use_expandable_segments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    names = check(args, config, device)
    precision = resolve_precision(args.precision, device)
    precision.apply()
    peak = matrix_product_tflops(precision.compute_dtype, device) if device.type == "cuda" else None

    found: dict[tuple[str, int], list[dict]] = {}
    failed: list[str] = []
    for batch_size in args.batch_size:
        work = Workload(args, config, batch_size, device)
        for group in measured_together(names):
            for name, windows in measure_all(group, args, work, precision, device, failed).items():
                found[name, batch_size] = windows
                print(f"{name} with {batch_size} sequences: {rate(windows):,.1f} sequences/s", flush=True)
            release_memory(device)

    best = {name: max((rate(w) for (n, _), w in found.items() if n == name), default=0.0) for name in names}
    theirs = max((best[name] for name in names if name in THEIRS), default=0.0)
    ours = max((best[name] for name in names if name not in THEIRS), default=0.0)
    lengths = f"{args.max_seq_length} tokens" if args.mean_length is None else f"{args.mean_length:g} tokens on average"
    print(f"{args.bert_model}, {args.task}, sequences of {lengths}, {precision.name}, {device.type}")
    heads = ("variant", "batch", "sequences/s", "from - to", "model TFLOP/s", "of a matrix product", "GiB")
    rows = [row(name, size, windows, peak, theirs) for (name, size), windows in sorted(found.items())]
    print(markdown_table((*heads, "to the best of Hugging Face"), rows))
    if peak:
        print(f"matrix product: {peak:,.0f} TFLOP/s in {precision.name}; fp8 has no peak of one format")
    if ours and theirs:
        print(f"ours / Hugging Face: {ours / theirs:.2f}")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
