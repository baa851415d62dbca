#!/usr/bin/env python3
"""How fast a pre-training step is, and how much faster than Hugging Face's BERT on the same batch.

Both train on the same sequences with the same optimizer and precision, in turns within one process, so that a busy
machine slows both. Hugging Face's model is run as its documentation shows: padded tensors, SDPA attention, autocast for
bf16, labels over all positions. On a GPU the utilisation is against a matrix product measured in the same run.

  python3 benchmark/training_step.py --bert_model tiny --batch_size 32                                  # CPU
  python3 benchmark/training_step.py --bert_model large --batch_size 256 --precision bf16 --compile     # GPU, phase 1
"""

import argparse
import contextlib
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configuration import BertConfig
from data.flat_batch import PretrainingBatch
from data.synthetic import synthetic_batch
from modeling import BertForPreTraining, compile_regions
from optimization import build_optimizer, clip_gradients, gradient_norm, parameter_groups
from training.precision import PRECISIONS, resolve_precision
from training.pretraining_arguments import BERT_CONFIGS
from training.throughput import ThroughputMeter, bert_flops

MATRIX_SIZE = 8192


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences per step (default: 32)")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--max_predictions_per_seq", type=int, default=20)
    parser.add_argument("--mean_length", type=float, default=None, help="unpadded: mean length (default: all full)")
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: bf16 on GPUs, fp32 elsewhere")
    parser.add_argument("--compile", action="store_true", help="ours with compiled regions, theirs compiled whole")
    parser.add_argument("--optimizer", choices=("lamb", "adamw"), default="adamw", help="theirs is adamw always")
    parser.add_argument("--steps", type=int, default=10, help="steps per window (default: 10)")
    parser.add_argument("--windows", type=int, default=3, help="windows; the median counts (default: 3)")
    parser.add_argument("--skip_hugging_face", action="store_true")
    return parser.parse_args()


def our_step(args, config, batch, device, precision) -> Callable[[], None]:
    """One step of our model on the batch, as a function to call again and again."""
    torch.manual_seed(0)
    model = BertForPreTraining(config).to(device)
    model.bert.compute_dtype = precision.compute_dtype
    optimizer = build_optimizer(args.optimizer, parameter_groups(model.named_parameters()), 1e-4)
    if args.compile:
        compile_regions(model)
    inputs = {
        field.name: getattr(batch, field.name)
        for field in dataclasses.fields(batch)
        if not field.name.startswith(("n_", "sum_", "first_"))
    }

    def step() -> None:
        model(**inputs).loss.backward()
        clip_gradients(optimizer.param_groups, gradient_norm(optimizer.param_groups), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hugging_face_step(args, config, batch, device, precision) -> Callable[[], None]:
    """The same for Hugging Face's model."""
    import transformers

    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**dataclasses.asdict(config))).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    inputs = padded_inputs(batch)
    forward = torch.compile(model) if args.compile else model
    autocast = contextlib.nullcontext()
    if precision.compute_dtype != torch.float32:
        autocast = torch.autocast(device.type, dtype=precision.compute_dtype)

    def step() -> None:
        with autocast:
            loss = forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def padded_inputs(batch: PretrainingBatch) -> dict[str, torch.Tensor]:
    """The real sequences of a flat batch as (B, S) tensors, with the masked ids in a dense row of labels."""
    n_sequences = len(batch.next_sentence_labels)
    lengths = batch.cu_seqlens[: n_sequences + 1].diff().tolist()
    labels = torch.full_like(batch.input_ids, -100)
    real = batch.masked_lm_labels != -100
    labels[batch.masked_lm_positions[real]] = batch.masked_lm_labels[real]

    def rectangle(flat: torch.Tensor, fill: int) -> torch.Tensor:
        rows = flat[: sum(lengths)].split(lengths)
        return torch.stack([F.pad(row, (0, batch.max_seqlen - len(row)), value=fill) for row in rows])

    return {
        "input_ids": rectangle(batch.input_ids, 0),
        "token_type_ids": rectangle(batch.token_type_ids, 0),
        "attention_mask": rectangle(torch.ones_like(batch.input_ids), 0),
        "labels": rectangle(labels, -100),
        "next_sentence_label": batch.next_sentence_labels,
    }


def measure(step: Callable[[], None], args, batch: PretrainingBatch, flops, device) -> dict:
    """One window of steps."""
    meter = ThroughputMeter(0, args.steps, flops, device)
    for _ in range(args.steps):
        step()
        meter.add(len(batch.next_sentence_labels), batch.n_tokens, batch.sum_squared_lengths, batch.n_masked)
        meter.end_step()
    return meter.result()


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


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(args.precision, device)
    precision.apply()
    config = BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])
    batch = synthetic_batch(
        args.batch_size, args.max_seq_length, args.max_predictions_per_seq, config.vocab_size, args.mean_length
    ).to(device)
    flops = functools.partial(
        bert_flops, config.encoder_parameters, config.hidden_size, config.num_hidden_layers, config.vocab_size
    )
    builders = {"ours": our_step} if args.skip_hugging_face else {"ours": our_step, "Hugging Face": hugging_face_step}
    peak = matrix_product_tflops(precision.compute_dtype, device) if device.type == "cuda" else None

    steps, rates, results = {}, {name: [] for name in builders}, {}
    for name, build in builders.items():
        steps[name] = build(args, config, batch, device, precision)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            steps[name]()
    for _ in range(args.windows):
        for name, step in steps.items():
            results[name] = measure(step, args, batch, flops, device)
            rates[name].append(results[name]["sequences_per_second"])

    print(f"{args.bert_model}, {args.batch_size} sequences, {batch.n_tokens:,} tokens, {precision.name}, {device.type}")
    for name, values in rates.items():
        rate = statistics.median(values)
        tflops = results[name]["model_tflops_per_second"] * rate / results[name]["sequences_per_second"]
        line = f"{name:>12}: {rate:9.1f} sequences/s (from {min(values):.1f} to {max(values):.1f})"
        if peak:
            line += f", {tflops:.0f} model TFLOP/s, {tflops / peak:.1%} of the {peak:.0f} of a matrix product"
            line += f", at most {results[name]['peak_memory_allocated_bytes'] / 2**30:.1f} GiB"
        print(line)
    if len(rates) == 2:
        ours, theirs = (statistics.median(values) for values in rates.values())
        print(f"ours / Hugging Face: {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
