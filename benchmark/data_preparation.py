#!/usr/bin/env python3
"""How long making HDF5 shards takes, in units of what the `tokenizers` library alone needs to encode the same text.

One process, one thread, five duplicates: reading, tokenizing, pairing, masking, compressing and writing, against
`encode_batch_fast` of the bare library on the same sentences, in turns. Each run is a process of its own, so that
nothing is remembered from one to the next. Both lengths together may take 4 times the unit at most.

  python3 benchmark/data_preparation.py --vocab_file VOCAB SHARD.txt [SHARD.txt ...]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import count_problems, parser_of
from benchmark.timing import in_fresh_process, in_turns
from benchmark.workloads.shards import PUBLISHED_LENGTHS, make_shards
from common.errors import run_main


def seconds_of_library(shards: Sequence[Path], vocab_file: str) -> float:
    """Encoding all sentences with BERT's normalizer, pre-tokenizer and WordPiece of the library, and taking the ids."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(vocab_file)
    start = time.perf_counter()
    for shard in shards:
        sentences = [line for line in shard.read_text(encoding="utf-8").split("\n") if line]
        for encoding in tokenizer._tokenizer.encode_batch_fast(sentences, add_special_tokens=False):
            _ = encoding.ids
    return time.perf_counter() - start


def seconds_of_ours(shards: Sequence[Path], vocab_file: str, *options: Any) -> float:
    """The whole of create_hdf5_files; `options` as `make_shards` takes them."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for shard in shards:
            make_shards(shard, Path(folder), vocab_file, *options)
        return time.perf_counter() - start


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("shards", nargs="+", type=Path, help="text shards: a sentence per line")
    parser.add_argument("--vocab_file", required=True, help="of WordPiece, a token per line")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    count_problems(args, "repeats").raise_if_any()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    options = {
        "length 128": (PUBLISHED_LENGTHS[:1],),
        "length 512": (PUBLISHED_LENGTHS[1:],),
        "both lengths": (PUBLISHED_LENGTHS,),
        "both, whole words": (PUBLISHED_LENGTHS, "whole_words"),
        "both, lzf": (PUBLISHED_LENGTHS, "tokens", "lzf"),
        "both, none": (PUBLISHED_LENGTHS, "tokens", "none"),
    }
    measurements = {"tokenizers alone": partial(in_fresh_process, seconds_of_library, args.shards, args.vocab_file)}
    for name, of_name in options.items():
        measurements[name] = partial(in_fresh_process, seconds_of_ours, args.shards, args.vocab_file, *of_name)
    n_bytes = sum(shard.stat().st_size for shard in args.shards)
    print(f"{n_bytes / 1e6:.1f} MB of text; the least, the median and the most of {args.repeats}")
    seconds = in_turns(measurements, args.repeats)
    unit = min(seconds["tokenizers alone"])
    for name, times in seconds.items():
        least, median, most = (of(times) / unit for of in (min, statistics.median, max))
        print(f"{name:>17}: {least:6.2f} {median:6.2f} {most:6.2f}")


if __name__ == "__main__":
    run_main(main)
