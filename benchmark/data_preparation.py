#!/usr/bin/env python3
"""How long making HDF5 shards takes, in units of what the `tokenizers` library alone needs to encode the same text.

One process, one thread, sequence length 128, five duplicates, gzip: reading, tokenizing, pairing, masking, compressing
and writing, against `encode_batch_fast` of the bare library on the same sentences, in turns. Each run is a process of
its own, so that nothing is remembered from one to the next.

  python3 benchmark/data_preparation.py --vocab_file VOCAB SHARD.txt [SHARD.txt ...]
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.create_pretraining_data import create_shard
from data.instances import InstanceOptions


def seconds_of_library(shards: list[Path], vocab_file: str) -> float:
    """Encoding all sentences with BERT's normalizer, pre-tokenizer and WordPiece of the library, and taking the ids."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(vocab_file)
    start = time.perf_counter()
    for shard in shards:
        sentences = [line for line in shard.read_text(encoding="utf-8").split("\n") if line]
        for encoding in tokenizer._tokenizer.encode_batch_fast(sentences, add_special_tokens=False):
            _ = encoding.ids
    return time.perf_counter() - start


def seconds_of_ours(shards: list[Path], vocab_file: str, max_seq_length: int, max_predictions: int) -> float:
    """The whole of create_hdf5_files."""
    options = InstanceOptions(max_seq_length, max_predictions, 0.15, 0.1, 5)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for shard in shards:
            create_shard([shard], Path(folder) / f"{shard.stem}.hdf5", vocab_file, True, options, 12345)
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", type=Path, help="text shards: a sentence per line")
    parser.add_argument("--vocab_file", required=True)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns (default: 5)")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    tasks = {
        "tokenizers alone": (seconds_of_library, args.shards, args.vocab_file),
        "length 128": (seconds_of_ours, args.shards, args.vocab_file, 128, 20),
        "length 512": (seconds_of_ours, args.shards, args.vocab_file, 512, 80),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    context = multiprocessing.get_context("spawn")
    for _ in range(args.repeats):
        for name, task in tasks.items():
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                seconds[name].append(pool.submit(*task).result())
    unit = statistics.median(seconds["tokenizers alone"])
    print(f"{sum(shard.stat().st_size for shard in args.shards) / 1e6:.1f} MB of text, medians of {args.repeats}")
    for name, values in seconds.items():
        low, high = min(values) / unit, max(values) / unit
        print(f"{name:>17}: {statistics.median(values) / unit:5.2f} (from {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
