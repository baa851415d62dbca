"""How fast the pre-training loader is, alone: sequences per second of one process, beside a loader of NVIDIA's style.

The loader must be far faster than the training it feeds, 20,000 sequences/s against some 2,000 of phase 1 on a GPU,
because with several GPUs every process reads all files. The reference beside it is what the ancestors do: a Dataset
that converts one sample at a time, torch's RandomSampler and default collation, in one process, from the same files.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from tqdm import tqdm

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.errors import Problems, UserError, run_main
from data.loading.prepared import prepared_shards
from data.loading.pretraining_dataset import PretrainingDataset
from data.masked_lm.instances import DATASETS

VOCAB_SIZE = 30522


class PerSampleDataset(torch.utils.data.Dataset):
    """One file in memory; one sample at a time as int64 tensors, with dense masked-LM labels."""

    def __init__(self, file: Path) -> None:
        with h5py.File(file, "r") as shard:
            self.values = [shard[name][:] for name in DATASETS]

    def __len__(self) -> int:
        return len(self.values[0])

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        ids, mask, types, positions, masked_ids, label = (
            torch.from_numpy(np.asarray(values[index].astype(np.int64))) for values in self.values
        )
        padding = (positions == 0).nonzero()
        n_masked = padding[0].item() if len(padding) else len(positions)
        labels = torch.full_like(ids, -1)
        labels[positions[:n_masked]] = masked_ids[:n_masked]
        return [ids, types, mask, labels, label]


def write_shards(folder: Path, n_files: int, rows_per_file: int, max_seq_length: int, max_predictions: int) -> None:
    """Writes gzip shards of random samples, nine in ten of full length, as those made from long documents are."""
    rng = np.random.default_rng(0)
    # Word frequencies as text has them, or gzip would have more to read than in real shards.
    frequencies = 1 / np.arange(1, VOCAB_SIZE)
    for i in tqdm(range(n_files), desc="writing shards", disable=None):
        lengths = np.where(
            rng.random(rows_per_file) < 0.9, max_seq_length, rng.integers(5, max_seq_length, rows_per_file)
        )
        is_real = np.arange(max_seq_length) < lengths[:, None]
        ids = rng.choice(np.arange(1, VOCAB_SIZE), (rows_per_file, max_seq_length), p=frequencies / frequencies.sum())
        n_masked = np.minimum(max_predictions, np.maximum(1, np.round(lengths * 0.15))).astype(int)
        is_masked = np.arange(max_predictions) < n_masked[:, None]
        # Distinct places: those of the smallest random numbers, padding never among them, [CLS] left out.
        order = np.argsort(np.where(is_real, rng.random(is_real.shape), 2)[:, 1:], axis=1)[:, :max_predictions] + 1
        values = {
            "input_ids": (ids * is_real).astype(np.int32),
            "input_mask": is_real.astype(np.int8),
            "segment_ids": (is_real & (np.arange(max_seq_length) >= lengths[:, None] // 2)).astype(np.int8),
            "masked_lm_positions": (order * is_masked).astype(np.int32),
            "masked_lm_ids": (rng.integers(1, VOCAB_SIZE, order.shape) * is_masked).astype(np.int32),
            "next_sentence_labels": rng.integers(0, 2, rows_per_file).astype(np.int8),
        }
        with h5py.File(folder / f"random_training_{i}.hdf5", "w") as shard:
            for name, array in values.items():
                shard.create_dataset(name, data=array, compression="gzip")


def read_per_sample(files: Sequence[Path], batch_size: int) -> Iterator[list[torch.Tensor]]:
    """Batches of the naive loader, sample by sample, for ever."""
    for file in itertools.cycle(files):
        dataset = PerSampleDataset(file)
        sampler = torch.utils.data.RandomSampler(dataset)
        yield from torch.utils.data.DataLoader(dataset, sampler=sampler, batch_size=batch_size)


def rate(batches: Iterator, batch_size: int, seconds: float) -> float:
    """Returns sequences per second, over at least `seconds` after a first batch; batches are assumed full."""
    next(batches)
    start = time.perf_counter()
    for n_batches in itertools.count(1):
        next(batches)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return n_batches * batch_size / elapsed
    raise AssertionError("an endless count ended")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--input_dir", default=None, help="shards to read; default: random ones in a temporary folder")
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per batch")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    parser.add_argument("--num_workers", type=int, default=1, help="0: in the calling thread, else in the background")
    parser.add_argument("--files", type=int, default=6, help="random shards to make")
    parser.add_argument("--rows", type=int, default=20000, help="samples in each of them")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each loader, in turns; the best counts")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(arguments)
    if min(args.batch_size, args.files, args.rows, args.repeats) < 1:
        raise UserError("--batch_size, --files, --rows and --repeats take at least 1.")
    with contextlib.ExitStack() as stack:
        folder = Path(args.input_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-benchmark-")))
        if not args.input_dir:
            write_shards(folder, args.files, args.rows, args.max_seq_length, args.max_predictions_per_seq)
        dataset = PretrainingDataset(
            folder,
            args.batch_size,
            args.max_seq_length,
            args.max_predictions_per_seq,
            vocab_size=None if args.input_dir else VOCAB_SIZE,
            num_workers=args.num_workers,
        )
        batches = stack.enter_context(dataset.iterate())
        reference = read_per_sample(prepared_shards(folder, "training", Problems()), args.batch_size)
        ours, theirs = [], []
        for _ in tqdm(range(args.repeats), desc="measuring", disable=None):
            ours.append(rate(batches, args.batch_size, args.seconds))
            theirs.append(rate(reference, args.batch_size, args.seconds))
    print(f"per-sample loader: {max(theirs):10,.0f} sequences/s")
    print(f"PretrainingDataset: {max(ours):9,.0f} sequences/s, {max(ours) / max(theirs):.1f} times as many")


if __name__ == "__main__":
    run_main(main)
