#!/usr/bin/env python3
"""Prepare pre-training data, one stage per call, with the stages, flags and folders of NVIDIA's script of this name.

  python3 data/bertPrep.py --action download          --dataset wikicorpus_en --source DUMP.xml.bz2
  python3 data/bertPrep.py --action text_formatting   --dataset wikicorpus_en
  python3 data/bertPrep.py --action sharding          --dataset wikicorpus_en
  python3 data/bertPrep.py --action create_hdf5_files --dataset wikicorpus_en --vocab_file VOCAB --max_seq_length 128

Datasets are wikicorpus_en, bookscorpus and, from sharding on, books_wiki_en_corpus, both together. Everything lies
under $BERT_PREP_WORKING_DIR (by default this script's folder). data/create_datasets_from_start.sh runs all stages for
both phases; docs/data.md says what each stage does.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

from tqdm import tqdm

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from data.create_pretraining_data import add_instance_arguments, create_shard, instance_options
from data.instances import InstanceOptions
from data.layout import BOOKS, BOTH, DATASETS, WIKIPEDIA, Layout, default_working_dir
from data.parallel import map_in_processes
from data.sharding import ShardingPlan, write_shards
from data.text_formatting import extract_wikipedia, fetch_local, format_books, format_wikipedia
from errors import Problems, UserError, run_main
from tokenization import load_vocab

ACTIONS = ("download", "text_formatting", "sharding", "create_hdf5_files")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--action", choices=ACTIONS, required=True, help="the stage to run")
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument(
        "--n_processes", type=int, default=os.cpu_count(), help="processes side by side (default: all cores)"
    )
    parser.add_argument(
        "--print_output_dir", action="store_true", help="only print the folder that this stage would write, for scripts"
    )
    group = parser.add_argument_group("download")
    group.add_argument("--source", help="the local dump (.xml.bz2), or the .txt file or folder of books, to take")
    group = parser.add_argument_group("text_formatting")
    group.add_argument("--skip_wikiextractor", action="store_true", help="format what was extracted before")
    group = parser.add_argument_group("sharding")
    group.add_argument(
        "--input_files",
        nargs="+",
        help="files with a document per line, spaces or commas between (default: the formatted)",
    )
    group.add_argument("--n_training_shards", type=int, default=256, help="(default: 256)")
    group.add_argument("--n_test_shards", type=int, default=256, help="(default: 256)")
    group.add_argument("--fraction_test_set", type=float, default=0.2, help="share of the sentences (default: 0.2)")
    group.add_argument("--segmentation_method", choices=("nltk",), default="nltk", help="how sentences are found")
    group = parser.add_argument_group("create_hdf5_files")
    group.add_argument("--vocab_file", help="the vocabulary, one token per line")
    group.add_argument(
        "--do_lower_case", type=int, choices=(0, 1), default=1, help="1 for uncased vocabularies (default)"
    )
    add_instance_arguments(group)
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> InstanceOptions:
    """Raises UserError with everything that is wrong with the flags of this stage."""
    problems = Problems()
    options = instance_options(args, problems)
    n_training, n_test, fraction = args.n_training_shards, args.n_test_shards, args.fraction_test_set
    problems.check(args.n_processes >= 1, f"--n_processes {args.n_processes} must be 1 or more.")
    problems.check(n_training >= 1, f"--n_training_shards {n_training} must be 1 or more.")
    problems.check(n_test >= 0, f"--n_test_shards {n_test} must not be negative.")
    problems.check(0 <= fraction < 1, f"--fraction_test_set {fraction} must lie in [0, 1).")
    problems.check(
        (n_test > 0) == (fraction > 0),
        f"--n_test_shards {n_test} and --fraction_test_set {fraction} do not fit; make both zero or neither.",
    )
    if args.dataset == BOTH and args.action in ("download", "text_formatting"):
        problems.add(f"--action {args.action} takes one corpus at a time; give --dataset {WIKIPEDIA} or {BOOKS}.")
    if not args.print_output_dir:
        with problems.collect():
            _check_working_dir(default_working_dir())
        if args.action == "download" and not args.source:
            problems.add(
                "--action download takes local files so far; give --source a Wikipedia dump or a folder of books."
            )
        if args.action == "create_hdf5_files" and not args.vocab_file:
            problems.add("--action create_hdf5_files needs --vocab_file, the vocabulary to tokenize with.")
    if args.action == "create_hdf5_files" and args.vocab_file:
        # With --print_output_dir too: so a script can have everything checked before its first stage.
        with problems.collect():
            load_vocab(args.vocab_file)
    problems.raise_if_any()
    return options


def _check_working_dir(folder: Path) -> None:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"Nothing can be written under {folder}, since {existing} is no folder that you may write to; set "
            "BERT_PREP_WORKING_DIR to one."
        )


def _split_at_commas(names: list[str]) -> list[Path]:
    """NVIDIA's form of a list of files is one word with commas; a file whose name has a comma is still one."""
    return [Path(part) for name in names for part in ([name] if Path(name).exists() else name.split(",")) if part]


def output_dir(args: argparse.Namespace, layout: Layout, options: InstanceOptions) -> Path:
    """The folder that the stage writes."""
    if args.action == "download":
        return layout.download
    if args.action == "text_formatting":
        return layout.formatted_files[0].parent
    if args.action == "sharding":
        return layout.sharded(args.n_training_shards, args.n_test_shards, args.fraction_test_set)
    return layout.hdf5(
        bool(args.do_lower_case),
        options.max_seq_length,
        options.max_predictions_per_seq,
        options.masked_lm_prob,
        args.random_seed,
        options.dupe_factor,
    )


def download(args: argparse.Namespace, layout: Layout) -> str:
    """Take the local source into the working folder."""
    if args.dataset == WIKIPEDIA:
        fetch_local(Path(args.source), layout.dump, "dump")
        return str(layout.dump)
    fetch_local(Path(args.source), layout.download, "books")
    return str(layout.download)


def text_formatting(args: argparse.Namespace, layout: Layout) -> str:
    """One document per line."""
    formatted = layout.formatted_files[0]
    if args.dataset == BOOKS:
        return f"{format_books(layout.download, formatted):,} books in {formatted}"
    if not args.skip_wikiextractor:
        print(f"extracting {layout.dump} with wikiextractor, which says nothing until it is done", flush=True)
        print(f"{extract_wikipedia(layout.dump, layout.extracted, args.n_processes):,} articles extracted", flush=True)
    return f"{format_wikipedia(layout.extracted, formatted):,} articles with prose in {formatted}"


def sharding(args: argparse.Namespace, layout: Layout, folder: Path) -> str:
    """Sentences, spread over shards."""
    names = layout.shard_names(args.n_training_shards, args.n_test_shards)
    plan = ShardingPlan(names[: args.n_training_shards], names[args.n_training_shards :], args.fraction_test_set)
    inputs = _split_at_commas(args.input_files) if args.input_files else layout.formatted_files
    record = write_shards(inputs, folder, plan, args.n_processes)
    return (
        f"{record['documents']:,} documents, {record['sentences']:,} sentences by {record['sentence_splitter']}, "
        f"in {len(names)} shards in {folder}"
    )


def create_hdf5_files(args: argparse.Namespace, layout: Layout, options: InstanceOptions, folder: Path) -> str:
    """Every text shard to its HDF5 shard."""
    texts = layout.sharded(args.n_training_shards, args.n_test_shards, args.fraction_test_set)
    names = layout.shard_names(args.n_training_shards, args.n_test_shards)
    missing = [name for name in names if not (texts / f"{name}.txt").is_file()]
    left_over = sorted(file.name for file in folder.glob("*.hdf5") if file.stem not in names)
    problems = Problems()
    if missing:
        problems.add(
            f"There is no text shard {texts / missing[0]}.txt ({len(missing)} of {len(names)} are missing); run "
            "--action sharding with the same numbers of shards first."
        )
    if left_over:
        problems.add(
            f"{folder} holds {left_over[0]}, one of {len(left_over)} shards that an earlier run with more shards left "
            "and training would read; remove the folder, or move them away."
        )
    problems.raise_if_any()
    create = functools.partial(
        _create_named_shard,
        texts=texts,
        folder=folder,
        vocab_file=args.vocab_file,
        do_lower_case=bool(args.do_lower_case),
        options=options,
        random_seed=args.random_seed,
    )
    rows = map_in_processes(create, names, args.n_processes, "create_hdf5_files", task_name=str)
    n_rows = sum(tqdm(rows, total=len(names), unit="shard", desc=f"HDF5, length {options.max_seq_length}"))
    return f"{n_rows:,} training instances in {len(names)} shards in {folder}"


def _create_named_shard(name: str, texts: Path, folder: Path, **options) -> int:
    return create_shard([texts / f"{name}.txt"], folder / f"{name}.hdf5", **options)


def main(arguments: list[str] | None = None) -> None:
    """Run one stage."""
    args = parse_arguments(arguments)
    options = check(args)
    layout = Layout(default_working_dir(), args.dataset)
    folder = output_dir(args, layout, options)
    if args.print_output_dir:
        print(folder)
    elif args.action == "download":
        print(download(args, layout))
    elif args.action == "text_formatting":
        print(text_formatting(args, layout))
    elif args.action == "sharding":
        print(sharding(args, layout, folder))
    else:
        print(create_hdf5_files(args, layout, options, folder))


if __name__ == "__main__":
    run_main(main)
