#!/usr/bin/env python3
"""Text shards to HDF5 shards of masked, paired, padded training instances.

  python3 data/create_pretraining_data.py --input_file shard.txt --output_file shard.hdf5 --vocab_file vocab.txt

The input has one sentence per line and an empty line after each document. data/bertPrep.py runs this over all shards.
Each text is tokenized once, however many duplicates are made of it.
"""

import argparse
import functools
import os
import re
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from data.instances import InstanceOptions, SpecialIds, TokenizedDocuments, make_instances
from errors import Problems, UserError, run_main
from file_utils import atomic_path
from tokenization import BertTokenizer

SHORTEST_SEQUENCE = 8  # [CLS] a [SEP] b [SEP] with something to truncate
ROWS_PER_CHUNK = 1024
DOCUMENT_END = re.compile(r"\n\s*\n")


def parse_arguments() -> argparse.Namespace:
    """The flags of NVIDIA's script of this name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_file", required=True, help="a text shard, or a folder whose .txt files become one")
    parser.add_argument("--output_file", required=True, help="the HDF5 file to write")
    parser.add_argument("--vocab_file", required=True, help="the vocabulary, one token per line")
    parser.add_argument(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="for uncased vocabularies (default)",
    )
    add_instance_arguments(parser)
    return parser.parse_args()


def add_instance_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that shape the instances, with the published values as defaults."""
    parser.add_argument("--max_seq_length", type=int, default=512, help="tokens per sequence (default: 512)")
    parser.add_argument(
        "--max_predictions_per_seq",
        type=int,
        default=None,
        help="masked tokens at most (default: 20 for 128, 80 for 512)",
    )
    parser.add_argument("--masked_lm_prob", type=float, default=0.15, help="share of tokens masked (default: 0.15)")
    parser.add_argument("--short_seq_prob", type=float, default=0.1, help="share of shortened pairs (default: 0.1)")
    parser.add_argument(
        "--dupe_factor", type=int, default=5, help="passes over the text, each masked anew (default: 5)"
    )
    parser.add_argument("--random_seed", type=int, default=12345, help="of pairs and masks (default: 12345)")


def instance_options(args: argparse.Namespace, problems: Problems) -> InstanceOptions:
    """The options in `args`; adds to `problems` what is wrong with them."""
    length, prob = args.max_seq_length, args.masked_lm_prob
    problems.check(
        length >= SHORTEST_SEQUENCE, f"--max_seq_length {length} is too short; give {SHORTEST_SEQUENCE} or more."
    )
    problems.check(0 < prob < 1, f"--masked_lm_prob {prob} must lie between 0 and 1.")
    problems.check(0 <= args.short_seq_prob <= 1, f"--short_seq_prob {args.short_seq_prob} must lie in [0, 1].")
    problems.check(args.dupe_factor >= 1, f"--dupe_factor {args.dupe_factor} must be 1 or more.")
    problems.check(args.random_seed >= 0, f"--random_seed {args.random_seed} must not be negative.")
    predictions = args.max_predictions_per_seq
    if predictions is None:
        # The published pairs are (128, 20) and (512, 80): a little more than 0.15 of the length.
        predictions = max(1, length * 5 // 32)
    problems.check(predictions >= 1, f"--max_predictions_per_seq {predictions} must be 1 or more.")
    return InstanceOptions(length, predictions, prob, args.short_seq_prob, args.dupe_factor)


@functools.cache
def _tokenizer(vocab_file: str, do_lower_case: bool) -> BertTokenizer:
    # Kept for all shards of a process: it remembers the words it has seen.
    return BertTokenizer(vocab_file, do_lower_case)


def read_documents(inputs: list[Path], tokenizer: BertTokenizer) -> TokenizedDocuments:
    """Text shards as token ids; sentences without a token and documents without a sentence are left out.

    Raises:
        UserError: a shard is not UTF-8 text.
    """
    sentences: list[str] = []
    document_starts = [0]
    for path in inputs:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"The text shard {path} cannot be read ({error}); make it again with --action sharding."
            ) from error
        for document in DOCUMENT_END.split(text):
            sentences.extend(line for line in document.split("\n") if line.strip())
            document_starts.append(len(sentences))
    ids, offsets = tokenizer.encode_batch(sentences)
    is_sentence = np.diff(offsets) > 0
    kept_before = np.concatenate([[0], np.cumsum(is_sentence)])
    return TokenizedDocuments(
        ids=ids,
        sentence_offsets=np.concatenate([offsets[:-1][is_sentence], offsets[-1:]]),
        document_offsets=np.unique(kept_before[document_starts]),
    )


def create_shard(
    inputs: list[Path],
    output: Path,
    vocab_file: str | os.PathLike,
    do_lower_case: bool,
    options: InstanceOptions,
    random_seed: int,
) -> int:
    """Write the HDF5 shard of some text; returns its number of rows.

    The rows follow from the text, the options, the seed and the output's name: the name, so that shards differ.

    Raises:
        UserError: the text cannot be read, or holds fewer than two documents.
    """
    tokenizer = _tokenizer(os.fspath(vocab_file), do_lower_case)
    documents = read_documents(inputs, tokenizer)
    if len(documents.document_offsets) < 3:
        raise UserError(
            f"{inputs[0]} holds {len(documents.document_offsets) - 1} documents, and a random next sentence needs two; "
            "make fewer shards, or give more text."
        )
    special = SpecialIds(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id, tokenizer.vocab_size)
    seed = np.random.SeedSequence([random_seed, zlib.crc32(output.name.encode())])
    n_rows, blocks = make_instances(documents, options, special, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as file:
        start = 0
        for block in blocks:
            for name, rows in vars(block).items():
                if name not in file:
                    chunks = (min(n_rows, ROWS_PER_CHUNK), *rows.shape[1:])
                    shape = (n_rows, *rows.shape[1:])
                    file.create_dataset(name, shape, rows.dtype, chunks=chunks, compression="gzip", track_times=False)
                file[name][start : start + len(rows)] = rows
            start += len(block.input_ids)
    return n_rows


def main() -> None:
    """Make one HDF5 file."""
    args = parse_arguments()
    problems = Problems()
    options = instance_options(args, problems)
    source = Path(args.input_file)
    inputs = sorted(source.glob("*.txt")) if source.is_dir() else [source]
    problems.check(inputs and inputs[0].is_file(), f"There is no text at {source}; give --input_file a text shard.")
    with problems.collect():
        _tokenizer(args.vocab_file, args.do_lower_case)
    problems.raise_if_any()
    output = Path(args.output_file)
    n_rows = create_shard(inputs, output, args.vocab_file, args.do_lower_case, options, args.random_seed)
    print(f"{n_rows:,} training instances in {output}")


if __name__ == "__main__":
    run_main(main)
