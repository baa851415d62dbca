#!/usr/bin/env python3
r"""How fast a training step is: ours in its variants, and Hugging Face's BERT on the same batch.

All variants train on the same sequences in turns within one process, so that a busy or throttling machine slows all;
those with CUDA graphs, whose memory nobody else can use, come one by one afterwards. A variant that does not fit into
memory at a batch size, or fails, is said; the others go on.

  python3 benchmark/training_step.py                                           # tiny, on a CPU in a minute
  python3 benchmark/training_step.py --bert_model large --batch_size 128 256   # phase 1
  python3 benchmark/training_step.py --bert_model large --batch_size 32 64 --max_seq_length 512 \
      --max_predictions_per_seq 80                                             # phase 2
  python3 benchmark/training_step.py --bert_model large --batch_size 32 64 --max_seq_length 384 --task squad

Ours: `eager`; `compiled`, with --compile; `triton`, with --kernels triton and --compile; `triton-attention`, with
--attention triton besides; `fp8`, all of that in fp8; `fp8-weights`, with --fp8_weight_gradients too; each with
`+graphs` for --cuda_graphs, `+all` for a last layer that also computes tokens that no loss reads, or `+all+graphs`.
Hugging Face's: `hf`, `hf-compiled`. On a GPU, utilization is against a large matmul measured in the same run. --output
adds a JSON line to a file for each variant and batch size, once it is measured.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.workloads.step_variants import MODELS, Variant, Workload, step_of, variants
from common.errors import run_main
from common.words import counted
from common.work import Matmul
from data.loading.synthetic import synthetic_problem
from models.config import BERT_CONFIGS, BertConfig
from tasks.pretraining.synthetic import synthetic_batch
from training.config.precision import PRECISIONS, precision_problem, resolve_precision
from training.environment.allocator import use_expandable_segments
from training.environment.description import describe_environment
from training.metrics.measured_peak import seconds_of_matmul
from training.metrics.throughput import ThroughputMeter

WARM_UP_STEPS = 3
SCHEMA = 1  # of --output's lines


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny", help="its shape")
    parser.add_argument("--task", choices=MODELS, default="pretraining", help="its heads")
    usual = "if not eager and hf on a CPU; on a GPU every one that it can run, but fp8, graphs and +all only when named"
    parser.add_argument("--variants", nargs="+", choices=list(variants()), metavar="NAME", help=usual)
    parser.add_argument("--batch_size", type=int, nargs="+", default=[32], help="sequences per step")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    parser.add_argument("--mean_length", type=float, help="unpadded: mean length, if not all are full")
    precisions = [name for name in PRECISIONS if name != "fp8"]
    parser.add_argument("--precision", choices=precisions, help="if not bf16 on GPUs and fp32 elsewhere")
    parser.add_argument("--optimizer", choices=("lamb", "adamw"), default="adamw", help="ours; theirs is adamw always")
    parser.add_argument("--steps", type=int, default=10, help="steps per window")
    parser.add_argument("--windows", type=int, default=3, help="windows; the median counts")
    about = "also add the results to this file, which docs/benchmarking.md describes"
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help=about)
    return parser.parse_args(arguments)


def check(args: argparse.Namespace, config: BertConfig, device: torch.device) -> None:
    """Raise a UserError for what cannot be measured here, or numbers that the model does not take."""
    problems = count_problems(args, "max_seq_length", "max_predictions_per_seq", "steps", "windows", "batch_size")
    for name, most, whose in (
        ("max_seq_length", config.max_position_embeddings, "the model's max_position_embeddings"),
        ("max_predictions_per_seq", args.max_seq_length, "--max_seq_length"),
    ):
        value = getattr(args, name)
        problems.check(value <= most, f"--{name} is {value}", f"{whose} allows {most} at most")
    if args.mean_length is not None:
        problems.extend([synthetic_problem(args.mean_length, args.max_seq_length, "--mean_length")])
    if args.precision:
        problems.extend([precision_problem(args.precision, device)])
    if args.output:
        is_there = args.output.absolute().parent.is_dir()
        problems.check(is_there, f"--output is {args.output}, in a folder that is not there", "make the folder first")
    for name in args.variants or ():
        is_new = not variants()[name].all_tokens or args.task == "pretraining"
        problems.check(is_new, f"--variants has {name}, and --task {args.task} reads all tokens anyway", "leave it out")
        if problem := variants()[name].problem(device):
            problems.add(f"--variants has {name}: {problem}", "leave it out")
    problems.raise_if_any()


def chosen_variants(named: Sequence[str] | None, device: torch.device) -> dict[str, Variant]:
    """Those that are named, or the usual ones that can run here; says which cannot."""
    known = variants()
    if named is not None:
        return {name: known[name] for name in named}
    chosen = {}
    for name, variant in known.items():
        is_usual = not (variant.execution.in_fp8 or variant.by_graphs or variant.all_tokens)
        on_gpu = device.type == "cuda" and is_usual
        if on_gpu or name in ("eager", "hf"):
            if problem := variant.problem(device):
                print(f"{name} is left out: {problem}")
            else:
                chosen[name] = variant
    return chosen


def measure_all(
    chosen: dict[str, Variant], args: argparse.Namespace, work: Workload, compute_dtype: torch.dtype, failed: list[str]
) -> dict[str, list[dict]]:
    """The windows of each variant at one batch size, taken in turns; none of those that do not fit into memory, nor of
    those that failed for another reason, which are added to `failed`."""
    torch._dynamo.reset()  # or code for this batch's shapes would be made for any
    steps: dict[str, Callable[[], None]] = {}
    windows: dict[str, list[dict]] = {name: [] for name in chosen}
    for name, variant in chosen.items():
        with _failing_alone(name, work, failed):
            steps[name] = build(variant, compute_dtype, args.optimizer, work)
    for _ in range(args.windows):
        for name in list(steps):
            with _failing_alone(name, work, failed):
                windows[name].append(measure(steps, name, args.steps, work))
    return {name: found for name, found in windows.items() if len(found) == args.windows}


def build(variant: Variant, compute_dtype: torch.dtype, optimizer: str, work: Workload) -> Callable[[], None]:
    """A variant's step, warm."""
    step = step_of(variant, compute_dtype, optimizer, work)
    for _ in range(WARM_UP_STEPS):
        step()
    return step


def measure(steps: dict[str, Callable[[], None]], name: str, n_steps: int, work: Workload) -> dict[str, Any]:
    """One window of a variant; one that fails is in `steps` no more, and leaves its memory to the others."""
    step = steps.pop(name)
    meter = ThroughputMeter(0, n_steps, work.flops, work.batch.input_ids.device)
    for _ in range(n_steps):
        step()
        meter.end_step(work.batch.work)
    steps[name] = step
    return meter.result()


def release_memory() -> None:
    """Give back what nobody holds, cycles of objects included: what else runs here needs it."""
    gc.collect()
    torch.cuda.empty_cache()


@contextlib.contextmanager
def _failing_alone(name: str, work: Workload, failed: list[str]) -> Iterator[None]:
    """Say what ran out of memory, show and note what failed, release what it held, and go on."""
    variant = f"{name} with {counted(work.batch.work.n_sequences, 'sequence')}"
    try:
        yield
    except Exception as error:  # whatever it is, the others are worth their table
        if isinstance(error, torch.OutOfMemoryError):
            print(f"{variant}: out of memory", flush=True)
        else:
            traceback.print_exc()
            failed.append(variant)
        traceback.clear_frames(error.__traceback__)  # they hold the step's tensors for as long as the error lives
        release_memory()


def rate(windows: Sequence[dict]) -> float:
    """The median of their sequences/s."""
    return statistics.median(window["sequences_per_second"] for window in windows)


def keep(
    args: argparse.Namespace, precision: str, environment: dict[str, Any], name: str, size: int, windows: list[dict]
) -> None:
    """Add a variant's windows at one batch size to `--output`, with what it takes to repeat them."""
    line = {
        "schema": SCHEMA,
        "model": args.bert_model,
        **{key: getattr(args, key) for key in ("task", "max_seq_length", "mean_length", "optimizer", "steps")},
        "precision": "fp8" if variants()[name].execution.in_fp8 else precision,
        "variant": name,
        "batch_size": size,
        "sequences_per_second": rate(windows),
        "windows": windows,
        "environment": environment,
    }
    if not variants()[name].is_ours:
        line["transformers"] = importlib.metadata.version("transformers")
    with args.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(arguments)
    use_expandable_segments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    check(args, config, device)
    chosen = chosen_variants(args.variants, device)
    precision = resolve_precision(args.precision, device)
    precision.apply()
    environment = describe_environment()
    peak = 0.0
    if device.type == "cuda":
        large = Matmul("", 8192, 8192, 8192)
        peak = large.flops / seconds_of_matmul(large, precision.compute_dtype, device)
        release_memory()

    alone = [{name: variant} for name, variant in chosen.items() if variant.by_graphs]
    together = {name: variant for name, variant in chosen.items() if not variant.by_graphs}
    found: dict[tuple[str, int], list[dict]] = {}
    failed: list[str] = []
    shape = args.max_seq_length, args.max_predictions_per_seq, config.vocab_size, args.mean_length
    for batch_size in args.batch_size:
        work = Workload(args.task, config, synthetic_batch(batch_size, *shape).to(device))
        for group in (together, *alone):
            for name, windows in measure_all(group, args, work, precision.compute_dtype, failed).items():
                found[name, batch_size] = windows
                if args.output:
                    keep(args, precision.name, environment, name, batch_size, windows)
                print(f"{name} with {counted(batch_size, 'sequence')}: {rate(windows):,.1f} sequences/s", flush=True)
            release_memory()

    tokens = args.max_seq_length if args.mean_length is None else f"{args.mean_length:g} on average"
    print(f"{args.bert_model}, {args.task}, tokens per sequence: {tokens}, {precision.name}, {device.type}")
    theirs = max((rate(windows) for (name, _), windows in found.items() if not chosen[name].is_ours), default=0.0)
    rows = []
    for (name, size), windows in sorted(found.items()):
        rates = [window["sequences_per_second"] for window in windows]
        tflops = statistics.median(window["model_tflops_per_second"] for window in windows)
        cells = f"{rate(windows):,.1f}", f"{min(rates):,.1f} - {max(rates):,.1f}", f"{tflops:,.3g}"
        of_peak = f"{tflops * 1e12 / peak:.1%}" if peak and not chosen[name].execution.in_fp8 else ""
        rows.append([name, str(size), *cells, of_peak, f"{rate(windows) / theirs:.2f}" if theirs else ""])
    header = "variant", "batch", "sequences/s", "from - to", "model TFLOP/s", "of a product", "of Hugging Face's best"
    print(markdown_table(header, rows))
    if peak:
        print(f"matrix product: {peak / 1e12:,.0f} TFLOP/s in {precision.name}; fp8 has no peak of one format")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
