#!/usr/bin/env python3
"""Text shards to HDF5 shards of masked, paired, padded training instances.

  python3 data/create_pretraining_data.py --input_file shard.txt --vocab_file vocab.txt \\
      --max_seq_length 128 512 --max_predictions_per_seq 20 80 --output_file phase1/shard.hdf5 phase2/shard.hdf5

The input has one sentence per line and an empty line after each document. data/bertPrep.py runs this over all shards.
Each text is tokenized once, however many lengths and duplicates are made of it.
"""

import argparse
import dataclasses
import functools
import hashlib
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import numpy as np

from common.command_line import CommandLine
from common.errors import Problems, UserError, run_main
from common.words import counted
from data.artifacts.manifest import FileRecord
from data.corpus.text_files import why_not
from data.masked_lm.hdf5_writer import COMPRESSIONS, write_instances
from data.masked_lm.instances import InstanceOptions, SpecialIds, TokenizedDocuments, make_instances
from data.masked_lm.masking import MASKING_RULES
from data.masked_lm.shares import unknown_problem
from tokenization import UNK, BertTokenizer, open_tokenizer

SHORTEST_SEQUENCE = 8  # [CLS] a [SEP] b [SEP] with something to truncate
BYTES_AT_A_TIME = 2**22  # of text: strings take many times the memory of their tokens
MAX_TEXT_BYTES = 200 * 10**6  # of one shard, whose tokens and pairs are in memory as a whole


def parse_arguments() -> argparse.Namespace:
    """The flags of NVIDIA's script of this name."""
    parser = CommandLine(__doc__)
    add = parser.add_argument
    add("--input_file", type=Path, required=True, help="a text shard, or a folder whose .txt files become one")
    add("--output_file", type=Path, required=True, nargs="+", help="the HDF5 file to write, one for each length")
    add("--vocab_file", required=True, help="the vocabulary, one token per line")
    cased = argparse.BooleanOptionalAction
    casing = "for uncased vocabularies (default: what the files beside the vocabulary, or its words, say)"
    add("--do_lower_case", action=cased, help=casing)
    add_instance_arguments(parser)
    return parser.parse_args()


def add_instance_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that shape the instances and their files, with the published values as defaults."""
    add = functools.partial(parser.add_argument, nargs="+", type=int)
    add("--max_seq_length", default=[512], help="tokens per sequence, or several (default: 512)")
    add("--max_predictions_per_seq", help="masked tokens at most, for each length (default: 20 for 128, 80 for 512)")
    add = parser.add_argument
    add("--masked_lm_prob", type=float, default=0.15, help="share of tokens masked (default: 0.15)")
    add("--short_seq_prob", type=float, default=0.1, help="share of shortened pairs (default: 0.1)")
    add("--dupe_factor", type=int, default=5, help="passes over the text, each masked anew (default: 5)")
    add("--random_seed", type=int, default=12345, help="of pairs and masks (default: 12345)")
    rules = "; ".join(f"{name}: {rule.what}" for name, rule in MASKING_RULES.items())
    add("--masking", choices=tuple(MASKING_RULES), default="tokens", help=f"{rules} (default: tokens)")
    add(
        "--whole_word_masking",
        action="store_const",
        dest="masking",
        const="whole_words",
        help="mask all pieces of a word, or none of them: --masking whole_words",
    )
    files = "of the HDF5 files: gzip is the smallest (default), lzf is fast and for h5py only"
    add("--compression", choices=tuple(COMPRESSIONS), default="gzip", help=files)


def instance_options(args: argparse.Namespace, problems: Problems) -> list[InstanceOptions]:
    """The options in `args`, of each length; adds to `problems` what is wrong with them."""
    lengths = args.max_seq_length
    # The published pairs are (128, 20) and (512, 80): a little more than 0.15 of the length.
    predictions = args.max_predictions_per_seq or [max(1, length * 5 // 32) for length in lengths]
    pairs = list(zip(lengths, predictions, strict=False))
    shortest, fewest = min(lengths), min(predictions)
    both = f"--max_predictions_per_seq {' '.join(map(str, predictions))}"
    for is_right, problem in (
        (shortest >= SHORTEST_SEQUENCE, f"--max_seq_length {shortest} must be {SHORTEST_SEQUENCE} or more."),
        (0 < args.masked_lm_prob < 1, f"--masked_lm_prob {args.masked_lm_prob} must lie between 0 and 1."),
        (0 <= args.short_seq_prob <= 1, f"--short_seq_prob {args.short_seq_prob} must lie in [0, 1]."),
        (args.dupe_factor >= 1, f"--dupe_factor {args.dupe_factor} must be 1 or more."),
        (args.random_seed >= 0, f"--random_seed {args.random_seed} must not be negative."),
        (fewest >= 1, f"--max_predictions_per_seq {fewest} must be 1 or more."),
        (len(predictions) == len(lengths), f"{both} must be one for each of the {len(lengths)} --max_seq_length."),
        (all(few <= many for many, few in pairs), f"{both} must not be more than --max_seq_length has tokens."),
        (len(set(pairs)) == len(pairs), f"{both}: the same is asked for twice; leave one out."),
    ):
        problems.check(is_right, problem)
    of_all = args.masked_lm_prob, args.short_seq_prob, args.dupe_factor, args.masking
    return [InstanceOptions(length, number, *of_all) for length, number in pairs]


@functools.cache
def _tokenizer(vocab_file: str | Path, do_lower_case: bool | None) -> BertTokenizer:
    # Kept for all shards of a process: it remembers the words it has seen.
    return open_tokenizer(vocab_file, do_lower_case)


def read_documents(
    inputs: Sequence[Path], tokenizer: BertTokenizer
) -> tuple[TokenizedDocuments, list[str], dict[str, int]]:
    """Text shards as token ids; sentences without a token and documents without a sentence are left out.

    Returns:
        the documents, of each file the SHA-256 of what was read, and what was counted.

    Raises:
        UserError: a shard is not UTF-8 text, or there is too much for one HDF5 shard.
    """
    # They grow in place; arrays of numpy would have to be joined, which takes all memory twice.
    ids, line_lengths, has_text = array("i"), array("i"), bytearray()
    hashes, n_bytes = [], 0
    for path in inputs:
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                while whole_lines := file.readlines(BYTES_AT_A_TIME):
                    block = b"".join(whole_lines)
                    digest.update(block)
                    n_bytes += len(block)
                    if n_bytes > MAX_TEXT_BYTES:
                        raise UserError(
                            f"With {path} there are more than {MAX_TEXT_BYTES / 1e6:,.0f} MB of text for one HDF5 "
                            "shard, which would take a process more than 1 GiB of memory",
                            "make more shards (--n_training_shards, --n_test_shards)",
                        )
                    # Lone surrogates, which other programs write, are deleted by the tokenizer like control characters.
                    text = block.decode("utf-8", "surrogatepass").replace("\r\n", "\n").replace("\r", "\n")
                    lines = text.removesuffix("\n").split("\n")
                    block_ids, offsets = tokenizer.encode_batch(lines)
                    has_text.extend(bool(line.strip()) for line in lines)
                    ids.frombytes(block_ids.view(np.uint8))
                    line_lengths.frombytes(np.diff(offsets).astype(np.intc).view(np.uint8))
        except (OSError, UnicodeDecodeError) as error:
            remedy = "make it again with --action sharding"
            raise UserError(f"The text shard {path} cannot be read ({error})", remedy) from error
        line_lengths.append(0)  # a document ends with its file
        has_text.append(False)
        hashes.append(digest.hexdigest())
    documents, counts = _documents_of_lines(np.frombuffer(ids, np.intc), line_lengths, has_text)
    return documents, hashes, {**counts, "unknown_tokens": int(np.count_nonzero(documents.ids == tokenizer.vocab[UNK]))}


def _documents_of_lines(
    ids: np.ndarray, line_lengths: array, has_text: bytearray
) -> tuple[TokenizedDocuments, dict[str, int]]:
    """Documents out of lines, of which those without text end one; and how many of what there is."""
    lengths, is_sentence = np.frombuffer(line_lengths, np.intc), np.frombuffer(has_text, bool)
    ends = np.flatnonzero(~is_sentence)
    # Per document: its sentences, and those that have a token.
    given, kept = (np.diff(np.cumsum(lines)[ends], prepend=0) for lines in (is_sentence, lengths > 0))
    documents = TokenizedDocuments(
        ids=ids,
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths[lengths > 0], dtype=np.int64)]),
        document_offsets=np.concatenate([[0], np.cumsum(kept[kept > 0])]),
    )
    counts = {
        "documents": kept > 0,
        "sentences": lengths > 0,
        "documents_of_one_sentence": kept == 1,
        "documents_without_a_token": (given > 0) & (kept == 0),
        "sentences_without_a_token": is_sentence & (lengths == 0),
    }
    return documents, {name: int(np.count_nonzero(each)) for name, each in counts.items()} | {"text_tokens": len(ids)}


def create_shards(
    inputs: Sequence[Path],
    outputs: Sequence[tuple[InstanceOptions, Path]],
    vocab_file: str | Path,
    do_lower_case: bool | None,
    random_seed: int,
    compression: str = "gzip",
    text_sha256: str | None = None,
) -> list[FileRecord]:
    """Write the HDF5 shards of some text, one for each of the options, each of them whole or not at all.

    A shard's rows follow from the text, its options, the seed and its file's name: the name, so that shards differ.
    What else is made in the same call makes no difference.

    Args:
        compression: a key of COMPRESSIONS.
        text_sha256: of a single input, as it was written.

    Returns:
        each file's record, with what was counted in its text and in its rows.

    Raises:
        UserError: the text cannot be read, is another than expected, holds fewer than two documents or is too large.
    """
    tokenizer = _tokenizer(vocab_file, do_lower_case)
    documents, hashes, of_text = read_documents(inputs, tokenizer)
    if text_sha256 not in (None, hashes[0]):
        raise UserError(f"{inputs[0]} is not as it was written", "run --action sharding again, which makes it anew")
    if of_text["documents"] < 2:
        raise UserError(
            f"{inputs[0]} holds {counted(of_text['documents'], 'document')}, and a random next sentence needs two",
            "make fewer shards, or give more text",
        )
    special = SpecialIds.of(tokenizer.vocab)
    records = []
    for options, output in outputs:
        seed = np.random.SeedSequence([random_seed, zlib.crc32(output.name.encode())])
        in_a_row = np.zeros(len(documents.ids), dtype=bool)
        record = write_instances(output, *make_instances(documents, options, special, seed, in_a_row), compression)
        counts = {**record.counts, **of_text, "text_tokens_in_no_row": int(np.count_nonzero(~in_a_row))}
        records.append(dataclasses.replace(record, counts=counts))
    return records


def describe(count: Callable[[str], int], do_lower_case: bool | None) -> Iterator[str]:
    """What became of the text, in lines for people, the last of them a warning where much of it is unknown.

    Args:
        count: a number by its name, of one record of `create_shards` or summed over several.
    """
    n_tokens, n_unknown, n_in_no_row = map(count, ("text_tokens", "unknown_tokens", "text_tokens_in_no_row"))
    shares = f"{n_unknown / max(1, n_tokens):.2%} are [UNK], and {n_in_no_row / max(1, n_tokens):.2%} are in no row"
    single = f"{count('documents_of_one_sentence'):,} of {count('documents'):,} documents have one sentence"
    yield f"  of {n_tokens:,} tokens of text {shares}; {single}"
    n_documents, n_sentences = (count(f"{what}_without_a_token") for what in ("documents", "sentences"))
    if n_documents or n_sentences:
        yield f"  left out: {counted(n_documents, 'document')} and {counted(n_sentences, 'sentence')} without a token"
    if problem := unknown_problem(n_unknown, n_tokens, do_lower_case):
        yield f"warning: {problem}"


def main() -> None:
    """Make one HDF5 file of each length."""
    args = parse_arguments()
    problems = Problems()
    options = instance_options(args, problems)
    source, outputs, n_lengths = args.input_file, args.output_file, len(args.max_seq_length)
    inputs = (
        sorted(path for path in source.iterdir() if not why_not(PurePath(path.name))) if source.is_dir() else [source]
    )
    problems.check(inputs and inputs[0].is_file(), f"There is no text at {source}", "give --input_file a text shard")
    problems.check(
        len(outputs) == n_lengths == len({output.absolute() for output in outputs}),
        f"--output_file must name {n_lengths} different files, one for each --max_seq_length.",
    )
    with problems.collect():
        tokenizer = _tokenizer(args.vocab_file, args.do_lower_case)
    problems.raise_if_any()
    print(tokenizer)
    pairs = list(zip(options, outputs, strict=True))
    records = create_shards(inputs, pairs, args.vocab_file, args.do_lower_case, args.random_seed, args.compression)
    for output, record in zip(outputs, records, strict=True):
        print(f"{record.counts['rows']:,} training instances in {output}")
        print(*describe(record.counts.__getitem__, tokenizer.do_lower_case), sep="\n")


if __name__ == "__main__":
    run_main(main)
