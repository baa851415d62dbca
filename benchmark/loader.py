#!/usr/bin/env python3
"""How fast the pre-training loader is, alone: sequences per second of one process.

It must be far faster than the training it feeds, 20,000 sequences/s against some 2,000 of phase 1 on a GPU, because
with several GPUs every process reads all files. Rows that are masked as they are read take longer; several maskings are
measured in turn, so that what else the machine does slows all of them. With --batches_per_step it deals samples by
length, as a run on as many GPUs does, and says what that spares the slowest of them.

  python3 benchmark/loader.py
  python3 benchmark/loader.py --masking static tokens whole_words
  python3 benchmark/loader.py --batches_per_step 8
  python3 benchmark/loader.py --world_size 64 --batches_per_step 64
  python3 benchmark/loader.py --input_dir FOLDER_OF_LDDL_SHARDS --vocab_file vocab.txt
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import h5py
import numpy as np

from benchmark.command_line import count_problems, parser_of
from common.errors import run_main
from data.loading.masking import DynamicMasking, masking_of
from data.loading.pretraining_dataset import PretrainingDataset
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import MASKING_RULES

VOCAB_SIZE, MASK = 30522, 103
STATIC = "static"


def write_shards(folder: Path, n_files: int, rows_per_file: int, max_seq_length: int, max_predictions: int) -> None:
    """Writes gzip shards of random samples, nine in ten of full length, as those made from long documents are."""
    rng = np.random.default_rng(0)
    for i in range(n_files):
        lengths = rng.integers(5, max_seq_length, (rows_per_file, 1))
        lengths[rng.random(rows_per_file) < 0.9] = max_seq_length
        columns, predictions = np.arange(max_seq_length), np.arange(max_predictions)
        is_real = columns < lengths
        # Word frequencies as text has them, or gzip would have more to read than in real shards.
        ids = rng.zipf(1.2, (rows_per_file, max_seq_length)) % (VOCAB_SIZE - 1) + 1
        n_masked = np.clip(lengths * 3 // 20, 1, max_predictions)
        is_masked = predictions < n_masked
        positions = (1 + predictions * (lengths - 1) // n_masked) * is_masked
        np.put_along_axis(ids, positions, MASK, 1)
        values = {
            "input_ids": (ids * is_real).astype(np.int32),
            "input_mask": is_real.astype(np.int8),
            "segment_ids": (is_real & (columns >= lengths // 2)).astype(np.int8),
            "masked_lm_positions": positions.astype(np.int32),
            "masked_lm_ids": (rng.integers(1, VOCAB_SIZE, is_masked.shape) * is_masked).astype(np.int32),
            "next_sentence_labels": rng.integers(0, 2, rows_per_file).astype(np.int8),
        }
        with h5py.File(folder / f"random_training_{i}.hdf5", "w") as shard:
            for name, array in values.items():
                shard.create_dataset(name, data=array, compression="gzip")


def maskings(args: argparse.Namespace, folder: Path) -> dict[str, DynamicMasking | None]:
    """By the name asked for, how rows are masked as they are read; None: not at all."""
    if args.input_dir:
        options = {"max_predictions_per_seq": args.max_predictions_per_seq, "seed": 0, "vocab_file": args.vocab_file}
        return {rule: None if rule == STATIC else masking_of(folder, rule=rule, **options) for rule in args.masking}
    # Of the random tokens some one in seven continues a word, as in text.
    special = SpecialIds(101, 102, MASK, VOCAB_SIZE, np.arange(VOCAB_SIZE) % 7 == 0)
    made = {rule: DynamicMasking(rule, 0.15, args.max_predictions_per_seq, special, 0) for rule in MASKING_RULES}
    return {rule: made.get(rule) for rule in args.masking}


def rate(batches: Iterator, batch_size: int, seconds: float) -> float:
    """Sequences per second, over at least `seconds` after a first batch; batches are assumed full."""
    next(batches)
    start, n_batches = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not n_batches:
        next(batches)
        n_batches += 1
    return n_batches * batch_size / elapsed


def excess(dataset: PretrainingDataset, n_ranks: int, batches_per_step: int) -> float:
    """How many more tokens the slowest of `n_ranks` has than their mean, in 20 micro-batches of each on average."""
    with dataset.iterate(batches_per_step=batches_per_step) as batches:
        tokens = np.array([next(batches).work.sum_lengths for _ in range(20 * n_ranks)]).reshape(20, n_ranks)
    return float((tokens.max(axis=1) / tokens.mean(axis=1)).mean() - 1)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--input_dir", help="shards to read, if not random ones in a temporary folder")
    parser.add_argument(
        "--masking",
        nargs="+",
        choices=(STATIC, *MASKING_RULES),
        default=[STATIC],
        help="the masks of the shards, or new ones by these rules, each measured",
    )
    parser.add_argument("--vocab_file", help="of the shards that are read: LDDL's, or for new masks")
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per batch")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    parser.add_argument("--num_workers", type=int, default=1, help="0: in the calling thread, else in the background")
    about = "micro-batches of an optimizer step, among which samples are dealt by length"
    parser.add_argument("--batches_per_step", type=int, default=1, help=about)
    about = (
        "ranks, of which this is one: it reads the samples of all, whose rate is told, and makes its own into batches"
    )
    parser.add_argument("--world_size", type=int, default=1, help=about)
    parser.add_argument("--files", type=int, default=6, help="random shards to make")
    parser.add_argument("--rows", type=int, default=20000, help="samples in each of them")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the best counts")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(arguments)
    count_problems(args, "batch_size", "files", "rows", "repeats", "batches_per_step", "world_size").raise_if_any()
    shape = args.max_seq_length, args.max_predictions_per_seq
    with contextlib.ExitStack() as stack:
        folder = Path(args.input_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-benchmark-")))
        if not args.input_dir:
            write_shards(folder, args.files, args.rows, *shape)
        options = {"vocab_file": args.vocab_file, "num_workers": args.num_workers, "world_size": args.world_size}
        if not args.input_dir:
            options["vocab_size"] = VOCAB_SIZE
        rates = dict.fromkeys(args.masking, 0.0)
        for name, masking in [*maskings(args, folder).items()] * args.repeats:
            in_files = range(args.max_seq_length + 1) if masking else None  # masks that are there are taken out
            options |= {"masking": masking, "n_predictions": in_files}
            dataset = PretrainingDataset(folder, args.batch_size, *shape, **options)
            with dataset.iterate(batches_per_step=args.batches_per_step) as batches:
                rates[name] = max(rates[name], rate(batches, args.batch_size * args.world_size, args.seconds))
        if (n_ranks := args.batches_per_step) > 1 and args.world_size == 1:
            more, dealt = (excess(dataset, n_ranks, n) for n in (1, n_ranks))
            print(f"the slowest of {n_ranks} ranks has {more:.2%} more tokens than the mean, and dealt {dealt:.2%}")
    for name, best in rates.items():
        relation = f", {best / rates[args.masking[0]]:.2f} of {args.masking[0]}" if name != args.masking[0] else ""
        print(f"PretrainingDataset, {name}: {best:,.0f} sequences/s, the best of {args.repeats}{relation}")


if __name__ == "__main__":
    run_main(main)
