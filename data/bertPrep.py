#!/usr/bin/env python3
"""Prepare pre-training data, one stage per call, with the stages, flags and folders of NVIDIA's script of this name.

  python3 data/bertPrep.py --action download          --dataset wikicorpus_en
  python3 data/bertPrep.py --action text_formatting   --dataset wikicorpus_en
  python3 data/bertPrep.py --action sharding          --dataset wikicorpus_en
  python3 data/bertPrep.py --action create_hdf5_files --dataset wikicorpus_en --vocab_file VOCAB \\
      --max_seq_length 128 512 --max_predictions_per_seq 20 80
  python3 data/bertPrep.py --action verify            --dataset wikicorpus_en

Datasets are wikicorpus_en, bookscorpus and, from sharding on, books_wiki_en_corpus, both together; download also takes
squad, google_pretrained_weights and all. Everything lies under $BERT_PREP_WORKING_DIR (by default this script's
folder). A stage that is finished is verified and skipped, one that was killed goes on or starts again.
data/create_datasets_from_start.sh runs all stages for both phases; docs/data.md says what each stage does.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.dask_workers import scheduler_problem
from common.errors import Problems, UserError, run_main
from common.published_models import PRETRAINED_MODELS
from common.workers import Workers, usable_cores, workers
from data import stages
from data.artifacts.layout import BOOKS, BOTH, DATASETS, DOWNLOADS, WEIGHTS, WIKIPEDIA, Layout, default_working_dir
from data.corpus.sharding import ShardingPlan
from data.create_pretraining_data import add_instance_arguments, instance_options
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions
from data.downloaders.sources import SQUAD_MIRROR, WEIGHTS_MIRROR, WIKI_MIRROR
from data.masked_lm.instances import InstanceOptions
from file_utils import locked
from tokenization import check_casing

ACTIONS = ("download", "text_formatting", "sharding", "create_hdf5_files", "verify")
N_TRAINING_SHARDS, N_TEST_SHARDS, FRACTION_TEST_SET = 256, 256, 0.2


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--action", choices=ACTIONS, required=True, help="the stage to run")
    parser.add_argument("--dataset", choices=(*DATASETS, *DOWNLOADS), required=True)
    parser.add_argument(
        "--n_processes", type=int, default=usable_cores(), help="processes side by side (default: all usable cores)"
    )
    parser.add_argument(
        "--scheduler", help="work on the Dask cluster of this scheduler instead: tcp://HOST:PORT, or its scheduler file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what was made otherwise and lies in the way")
    parser.add_argument(
        "--print_output_dir",
        action="store_true",
        help="only print the folders that this stage writes, for scripts",
    )
    _add_download_arguments(parser.add_argument_group("download"))
    group = parser.add_argument_group("text_formatting")
    group.add_argument("--skip_wikiextractor", action="store_true", help="format what was extracted before")
    _add_sharding_arguments(parser.add_argument_group("sharding"))
    group = parser.add_argument_group("create_hdf5_files")
    group.add_argument("--vocab_file", help="the vocabulary, one token per line")
    group.add_argument(
        "--do_lower_case", type=int, choices=(0, 1), default=1, help="1 for uncased vocabularies (default)"
    )
    add_instance_arguments(group)
    group = parser.add_argument_group("verify (of --input_files, folders, or all that was prepared of the dataset)")
    group.add_argument("--report_file", help="write what was found there, as JSON")
    return parser.parse_args(arguments)


def _add_download_arguments(group) -> None:
    group.add_argument(
        "--source",
        help="wikicorpus_en: latest (default), the date of a dump (YYYYMMDD), an address or a local file; bookscorpus: "
        "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses; "
        "squad: a folder that has the files",
    )
    mirrors = (("--wiki_mirror", WIKI_MIRROR), ("--squad_mirror", SQUAD_MIRROR), ("--weights_mirror", WEIGHTS_MIRROR))
    for flag, address in mirrors:
        group.add_argument(flag, default=address, help=f"(default: {address})")
    group.add_argument(
        "--max_failed_share", type=float, default=0.05, help="of a list of books; more is a failure (default: 0.05)"
    )
    group.add_argument(
        "--models",
        nargs="+",
        choices=PRETRAINED_MODELS,
        default=list(PRETRAINED_MODELS),
        help="weights to download (default: all)",
    )


def _add_sharding_arguments(group) -> None:
    group.add_argument(
        "--input_files",
        nargs="+",
        help="files with a document per line, spaces or commas between (default: the formatted)",
    )
    group.add_argument("--n_training_shards", type=int, help=f"(default: {N_TRAINING_SHARDS})")
    group.add_argument("--n_test_shards", type=int, help=f"(default: {N_TEST_SHARDS})")
    group.add_argument("--fraction_test_set", type=float, help=f"share of the sentences (default: {FRACTION_TEST_SET})")
    group.add_argument("--segmentation_method", choices=("nltk",), default="nltk", help="how sentences are found")


def check(args: argparse.Namespace) -> list[InstanceOptions]:
    """Raises UserError with everything that is wrong with the flags of this stage; the options of each length else."""
    problems = Problems()
    options = instance_options(args, problems)
    _check_sharding(args, problems)
    problems.check(args.n_processes >= 1, f"--n_processes {args.n_processes} must be 1 or more.")
    if args.scheduler and (problem := scheduler_problem(args.scheduler)):
        problems.add(problem)
    if args.report_file and not Path(args.report_file).absolute().parent.is_dir():
        problems.add(f"--report_file {args.report_file} lies in no folder that is there", "make it, or give another")
    if args.dataset in DOWNLOADS and args.action != "download":
        problems.add(f"--dataset {args.dataset} is only downloaded", f"{args.action} takes {', '.join(DATASETS)}")
    if args.dataset == BOTH and args.action in ("download", "text_formatting"):
        problems.add(f"--action {args.action} takes one corpus at a time", f"give --dataset {WIKIPEDIA} or {BOOKS}")
    if not args.print_output_dir and args.action != "verify":
        with problems.collect():
            _check_working_dir(default_working_dir())
        if args.action == "create_hdf5_files" and not args.vocab_file:
            problems.add("--action create_hdf5_files needs --vocab_file, the vocabulary to tokenize with.")
    # What follows is checked with --print_output_dir too: so a script can ask before its first stage.
    if args.action == "create_hdf5_files" and args.vocab_file:
        with problems.collect():
            check_casing(args.vocab_file, bool(args.do_lower_case))
    if args.action == "download" and args.dataset != BOTH:
        for sentence in download_problems(args.dataset, _download_options(args)):
            problems.add(sentence)
    problems.raise_if_any()
    return options


def _check_sharding(args: argparse.Namespace, problems: Problems) -> None:
    n_training, n_test, fraction = _sharding_numbers(args)
    problems.check(n_training >= 1, f"--n_training_shards {n_training} must be 1 or more.")
    problems.check(n_test >= 0, f"--n_test_shards {n_test} must not be negative.")
    problems.check(0 <= fraction < 1, f"--fraction_test_set {fraction} must lie in [0, 1).")
    problems.check(
        (n_test > 0) == (fraction > 0),
        f"--n_test_shards {n_test} and --fraction_test_set {fraction} do not fit",
        "make both zero or neither",
    )


def _sharding_numbers(args: argparse.Namespace) -> tuple[int, int, float]:
    given = (args.n_training_shards, args.n_test_shards, args.fraction_test_set)
    defaults = (N_TRAINING_SHARDS, N_TEST_SHARDS, FRACTION_TEST_SET)
    return tuple(default if value is None else value for value, default in zip(given, defaults, strict=True))


def _check_working_dir(folder: Path) -> None:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"Nothing can be written under {folder}, since {existing} is no folder that you may write to",
            "set BERT_PREP_WORKING_DIR to one",
        )


def _split_at_commas(names: list[str]) -> list[Path]:
    """NVIDIA's form of a list of files is one word with commas; a file whose name has a comma is still one."""
    return [Path(part) for name in names for part in ([name] if Path(name).exists() else name.split(",")) if part]


def _download_options(args: argparse.Namespace) -> DownloadOptions:
    return DownloadOptions(
        source=args.source,
        models=args.models,
        max_failed_share=args.max_failed_share,
        overwrite=args.overwrite,
        wiki_mirror=args.wiki_mirror,
        squad_mirror=args.squad_mirror,
        weights_mirror=args.weights_mirror,
    )


def output_dirs(args: argparse.Namespace, layout: Layout, options: list[InstanceOptions]) -> list[Path]:
    """The folders that the stage writes; one for each length of create_hdf5_files."""
    if args.action == "download":
        models = [PRETRAINED_MODELS[name].folder for name in args.models] if args.dataset == WEIGHTS else []
        return [layout.download / model for model in models] or [layout.download]
    if args.action == "text_formatting":
        return [layout.formatted_files[0].parent]
    if args.action == "sharding":
        return [layout.sharded(*_sharding_numbers(args))]
    return [
        layout.hdf5(
            bool(args.do_lower_case),
            length.max_seq_length,
            length.max_predictions_per_seq,
            length.masked_lm_prob,
            args.random_seed,
            length.dupe_factor,
        )
        for length in options
    ]


def _text_shards(args: argparse.Namespace, layout: Layout) -> tuple[Path, list[str]]:
    """The folder of text shards that the flags name or, without flags, the only one there is; and the shards' names."""
    if (args.n_training_shards, args.n_test_shards, args.fraction_test_set) == (None, None, None):
        found = layout.recorded_shards()
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise UserError(
                f"There are {len(found)} sets of text shards of {layout.dataset} "
                f"({', '.join(str(folder) for folder, _ in found)})",
                "say which with --n_training_shards, --n_test_shards and --fraction_test_set",
            )
    numbers = _sharding_numbers(args)
    return layout.sharded(*numbers), layout.shard_names(*numbers[:2])


def run_stage(args: argparse.Namespace, layout: Layout, options: list[InstanceOptions], pool: Workers) -> list[str]:
    """Do what is asked for; returns the lines that say what was done."""
    preparation = stages.Preparation(layout, pool, args.overwrite)
    if args.action == "text_formatting":
        lines = []
        if args.dataset == WIKIPEDIA and not args.skip_wikiextractor:
            print(stages.extract(preparation), flush=True)
        return [*lines, stages.format_text(preparation)]
    if args.action == "sharding":
        n_training, n_test, fraction = _sharding_numbers(args)
        names = layout.shard_names(n_training, n_test)
        plan = ShardingPlan(names[:n_training], names[n_training:], fraction)
        inputs = _split_at_commas(args.input_files) if args.input_files else layout.formatted_files
        return [stages.shard(preparation, plan, output_dirs(args, layout, options)[0], inputs)]
    texts, names = _text_shards(args, layout)
    folders = dict(zip(output_dirs(args, layout, options), options, strict=True))
    plan = stages.HDF5Plan(
        names, texts, folders, Path(args.vocab_file), bool(args.do_lower_case), args.random_seed, args.compression
    )
    return stages.create_hdf5_files(preparation, plan)


def main(arguments: list[str] | None = None) -> None:
    """Run one stage."""
    args = parse_arguments(arguments)
    options = check(args)
    layout = Layout(default_working_dir(), args.dataset)
    if args.print_output_dir:
        print(*output_dirs(args, layout, options), sep="\n")
        return
    writes = args.action != "verify"  # which also serves people who may only read the data
    with (
        locked(layout.working_dir / f".{args.action}.{args.dataset}.lock") if writes else contextlib.nullcontext(),
        # What is downloaded lies on this machine, and others need not see where.
        workers(args.n_processes, None if args.action == "download" else args.scheduler, layout.working_dir) as pool,
    ):
        if args.action == "download":
            lines = download(layout, _download_options(args), pool)
        elif args.action == "verify":
            folders = _split_at_commas(args.input_files) if args.input_files else layout.prepared_folders()
            lines = [stages.verify_folders(folders, pool, args.vocab_file, args.report_file)]
        else:
            lines = run_stage(args, layout, options, pool)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    run_main(main)
