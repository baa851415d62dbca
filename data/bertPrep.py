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
folder). A stage that is finished is verified and skipped, one that was killed resumes or starts again.
data/create_datasets_from_start.sh runs all stages for both phases; docs/data.md says what each stage does.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.dask_workers import scheduler_problem
from common.errors import Problems, UserError, run_main
from common.published_models import PRETRAINED_MODELS
from common.workers import usable_cores, workers
from data import stages
from data.artifacts.layout import WEIGHTS, Layout, default_working_dir
from data.artifacts.stage_output import Preparation
from data.corpus.sharding import ShardingPlan
from data.create_pretraining_data import add_instance_arguments, instance_options
from data.document_sources import COMBINED, datasets, document_sources, formatted_texts
from data.downloaders.datasets import OTHER_DOWNLOADS, download, download_problems
from data.downloaders.folder import SQUAD_MIRROR, WEIGHTS_MIRROR, WIKI_MIRROR, DownloadOptions
from data.masked_lm.instances import InstanceOptions
from file_utils import locked
from tokenization import check_casing

ACTIONS = ("download", "text_formatting", "sharding", "create_hdf5_files", "verify")


@dataclasses.dataclass(frozen=True)
class ShardNumbers:
    """How many text shards there are, and which share of the sentences is for testing."""

    n_training_shards: int = 256
    n_test_shards: int = 256
    fraction_test_set: float = 0.2

    def add_problems(self, problems: Problems) -> None:
        """Note which numbers cannot be."""
        n_training, n_test, fraction = dataclasses.astuple(self)
        problems.check(n_training >= 1, f"--n_training_shards {n_training} must be 1 or more.")
        problems.check(n_test >= 0, f"--n_test_shards {n_test} must not be negative.")
        problems.check(0 <= fraction < 1, f"--fraction_test_set {fraction} must lie in [0, 1).")
        problems.check(
            (n_test > 0) == (fraction > 0),
            f"--n_test_shards {n_test} and --fraction_test_set {fraction} do not fit",
            "make both zero or neither",
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one call of this script is to do."""

    action: str
    layout: Layout
    overwrite: bool
    n_processes: int
    scheduler: str | None
    downloads: DownloadOptions
    skip_wikiextractor: bool
    input_files: Sequence[Path]
    """Of sharding, or folders to verify; empty for what the stages before made."""
    shards: ShardNumbers
    are_shards_named: bool
    """Whether any of their numbers was given."""
    vocab_file: Path | None
    do_lower_case: bool
    lengths: Sequence[InstanceOptions]
    random_seed: int
    compression: str
    report_file: Path | None

    def output_dirs(self) -> list[Path]:
        """The folders that the stage writes; one for each length of create_hdf5_files."""
        if self.action == "download":
            models = self.downloads.models if self.layout.dataset == WEIGHTS else ()
            folders = [self.layout.download / PRETRAINED_MODELS[name].folder for name in models]
            return folders or [self.layout.download]
        if self.action == "text_formatting":
            return [self.layout.formatted]
        if self.action == "sharding":
            return [self.layout.sharded(*dataclasses.astuple(self.shards))]
        return [
            self.layout.hdf5(
                self.do_lower_case,
                length.max_seq_length,
                length.max_predictions_per_seq,
                length.masked_lm_prob,
                self.random_seed,
                length.dupe_factor,
            )
            for length in self.lengths
        ]


class RaisingParser(argparse.ArgumentParser):
    """For programs that ask whether a command line will do: raises UserError where argparse ends the process."""

    def error(self, message: str) -> None:
        raise UserError(message)


def parse_arguments(
    arguments: Sequence[str] | None = None, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.Namespace:
    """The command line."""
    parser = parser_class(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--action", choices=ACTIONS, required=True, help="the stage to run")
    parser.add_argument("--dataset", choices=(*datasets(), *OTHER_DOWNLOADS), required=True)
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
    group.add_argument("--n_training_shards", type=int, help=f"(default: {ShardNumbers.n_training_shards})")
    group.add_argument("--n_test_shards", type=int, help=f"(default: {ShardNumbers.n_test_shards})")
    group.add_argument(
        "--fraction_test_set", type=float, help=f"share of the sentences (default: {ShardNumbers.fraction_test_set})"
    )
    group.add_argument("--segmentation_method", choices=("nltk",), default="nltk", help="how sentences are found")


def settings_from(args: argparse.Namespace, problems: Problems) -> Settings:
    """What the flags ask for; adds to `problems` what is wrong with the instances' options."""
    numbers = {field.name: getattr(args, field.name) for field in dataclasses.fields(ShardNumbers)}
    given = {name: number for name, number in numbers.items() if number is not None}
    downloads = {field.name: getattr(args, field.name) for field in dataclasses.fields(DownloadOptions)}
    return Settings(
        action=args.action,
        layout=Layout(default_working_dir(), args.dataset),
        overwrite=args.overwrite,
        n_processes=args.n_processes,
        scheduler=args.scheduler,
        downloads=DownloadOptions(**downloads),
        skip_wikiextractor=args.skip_wikiextractor,
        input_files=_split_at_commas(args.input_files or []),
        shards=ShardNumbers(**given),
        are_shards_named=bool(given),
        vocab_file=Path(args.vocab_file) if args.vocab_file else None,
        do_lower_case=bool(args.do_lower_case),
        lengths=instance_options(args, problems),
        random_seed=args.random_seed,
        compression=args.compression,
        report_file=Path(args.report_file) if args.report_file else None,
    )


def _split_at_commas(names: list[str]) -> list[Path]:
    """NVIDIA's form of a list of files is one word with commas; a file whose name has a comma is still one."""
    return [Path(part) for name in names for part in ([name] if Path(name).exists() else name.split(",")) if part]


def add_problems(settings: Settings, problems: Problems, writes: bool = True) -> None:
    """Note everything that is wrong with the settings.

    Args:
        writes: whether the stage is to be run now, so that it needs the right to write.
    """
    action, dataset, vocab_file = settings.action, settings.layout.dataset, settings.vocab_file
    settings.shards.add_problems(problems)
    problems.check(settings.n_processes >= 1, f"--n_processes {settings.n_processes} must be 1 or more.")
    if settings.scheduler and (problem := scheduler_problem(settings.scheduler)):
        problems.add(problem)
    if settings.report_file and not settings.report_file.absolute().parent.is_dir():
        problems.add(
            f"--report_file {settings.report_file} lies in no folder that is there", "make it, or give another"
        )
    if dataset in OTHER_DOWNLOADS and action != "download":
        problems.add(f"--dataset {dataset} is only downloaded", f"{action} takes {', '.join(datasets())}")
    if dataset in COMBINED and action in ("download", "text_formatting"):
        problems.add(
            f"--action {action} takes one corpus at a time", f"give --dataset {' or '.join(COMBINED[dataset])}"
        )
    if writes and action != "verify":
        with problems.collect():
            _check_working_dir(settings.layout.working_dir)
        if action == "create_hdf5_files" and not vocab_file:
            problems.add("--action create_hdf5_files needs --vocab_file, the vocabulary to tokenize with.")
    if action == "create_hdf5_files" and vocab_file:
        with problems.collect():
            check_casing(vocab_file, settings.do_lower_case)
    if action == "download" and dataset not in COMBINED:
        problems.extend(download_problems(dataset, settings.downloads))


def _check_working_dir(folder: Path) -> None:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"Nothing can be written under {folder}, since {existing} is no folder that you may write to",
            "set BERT_PREP_WORKING_DIR to one",
        )


def _text_shards(settings: Settings) -> tuple[Path, list[str]]:
    """The folder of text shards that the flags name or, without flags, the only one there is; and the shards' names."""
    layout = settings.layout
    if not settings.are_shards_named:
        found = layout.recorded_shards()
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise UserError(
                f"There are {len(found)} sets of text shards of {layout.dataset} "
                f"({', '.join(str(folder) for folder, _ in found)})",
                "say which with --n_training_shards, --n_test_shards and --fraction_test_set",
            )
    numbers = dataclasses.astuple(settings.shards)
    return layout.sharded(*numbers), layout.shard_names(*numbers[:2])


def run_stage(settings: Settings, preparation: Preparation) -> Iterator[str]:
    """Do what is asked for; the lines that say what was done."""
    layout = settings.layout
    if settings.action == "download":
        yield from download(preparation, settings.downloads)
    elif settings.action == "text_formatting":
        if not settings.skip_wikiextractor and (line := document_sources()[layout.dataset].extract(preparation)):
            yield line
        yield stages.format_text(preparation)
    elif settings.action == "sharding":
        n_training, n_test, fraction = dataclasses.astuple(settings.shards)
        names = layout.shard_names(n_training, n_test)
        plan = ShardingPlan(names[:n_training], names[n_training:], fraction)
        inputs = settings.input_files or list(formatted_texts(layout).values())
        yield stages.shard(preparation, plan, settings.output_dirs()[0], inputs)
    elif settings.action == "create_hdf5_files":
        texts, names = _text_shards(settings)
        folders = dict(zip(settings.output_dirs(), settings.lengths, strict=True))
        how = (settings.vocab_file, settings.do_lower_case, settings.random_seed, settings.compression)
        yield from stages.create_hdf5_files(preparation, stages.HDF5Plan(names, texts, folders, *how))
    else:
        folders = settings.input_files or layout.prepared_folders()
        yield stages.verify_folders(folders, preparation.pool, settings.vocab_file, settings.report_file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one stage."""
    args = parse_arguments(arguments)
    problems = Problems()
    settings = settings_from(args, problems)
    add_problems(settings, problems, writes=not args.print_output_dir)
    problems.raise_if_any()
    if args.print_output_dir:
        print(*settings.output_dirs(), sep="\n")
        return
    layout = settings.layout
    lock = locked(layout.working_dir / f".{settings.action}.{layout.dataset}.lock")
    # What is downloaded lies on this machine, and others need not see where.
    scheduler = None if settings.action == "download" else settings.scheduler
    with (
        # Verifying also serves people who may only read the data.
        contextlib.nullcontext() if settings.action == "verify" else lock,
        workers(settings.n_processes, scheduler, layout.working_dir) as pool,
    ):
        for line in run_stage(settings, Preparation(layout, pool, settings.overwrite)):
            print(line, flush=True)


if __name__ == "__main__":
    run_main(main)
