#!/usr/bin/env python3
"""Prepare pre-training data, one stage per call, with the stages, flags and folders of NVIDIA's script of this name.

  python3 data/bertPrep.py --action download          --dataset wikicorpus_en
  python3 data/bertPrep.py --action text_formatting   --dataset wikicorpus_en
  python3 data/bertPrep.py --action sharding          --dataset wikicorpus_en
  python3 data/bertPrep.py --action create_hdf5_files --dataset wikicorpus_en --vocab_file VOCAB \\
      --max_seq_length 128 512 --max_predictions_per_seq 20 80
  python3 data/bertPrep.py --action verify            --dataset wikicorpus_en

Datasets are wikicorpus_en, bookscorpus, text (Parquet, JSON lines or plain text of any origin) and, from sharding on,
books_wiki_en_corpus, the first two together; download also takes squad, glue or one of its tasks (cola, sst-2, mrpc,
sts-b, qqp, mnli, qnli, rte, wnli, ax), google_pretrained_weights, and all, which is all but glue. Everything lies under
$BERT_PREP_WORKING_DIR (by default this script's folder). A stage that is finished is verified and skipped, one
that was killed resumes or starts again.
data/create_datasets_from_start.sh runs all stages for both phases; docs/data.md says what each stage does.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from common.command_line import CommandLine
from common.dask_workers import scheduler_problem
from common.errors import Problems, run_main
from common.published_models import PRETRAINED_MODELS
from common.workers import usable_cores, workers
from data import stages
from data.artifacts.layout import Layout, default_working_dir
from data.artifacts.stage_output import Preparation
from data.corpus.document_files import KINDS
from data.corpus.documents import LINES, WHOLE_FILES, FormatOptions
from data.corpus.sharding import ShardingPlan
from data.create_pretraining_data import add_instance_arguments, instance_options
from data.document_sources import COMBINED, datasets, document_sources, formatted_texts
from data.downloaders.datasets import OTHER_DOWNLOADS, download, download_problems
from data.downloaders.folder import DownloadOptions
from data.masked_lm.instances import InstanceOptions
from file_utils import locked
from tokenization import BertTokenizer, open_tokenizer

ACTIONS = ("download", "text_formatting", "sharding", "create_hdf5_files", "verify")
SHARDS = (256, 256, 0.2)  # the defaults of --n_training_shards, --n_test_shards and --fraction_test_set
CASING = ("--do_lower_case 0 (DO_LOWER_CASE=0)", "--do_lower_case 1 (DO_LOWER_CASE=1)")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    add = parser.add_argument
    add("--action", choices=ACTIONS, required=True, help="the stage to run")
    add("--dataset", choices=(*datasets(), *OTHER_DOWNLOADS), required=True)
    processes = "processes side by side (default: all usable cores)"
    add("--n_processes", type=int, default=usable_cores(), help=processes)
    cluster = "work on the Dask cluster of this scheduler instead: tcp://HOST:PORT, or its scheduler file"
    add("--scheduler", help=cluster)
    add("--overwrite", action="store_true", help="replace what was made otherwise and lies in the way")
    add("--print_output_dir", action="store_true", help="only print the folders that this stage writes, for scripts")

    add = parser.add_argument_group("download").add_argument
    add(
        "--source",
        nargs="+",
        help="wikicorpus_en: latest (default), the date of a dump (YYYYMMDD), an address or a local file; bookscorpus: "
        "a folder of .txt files, such a file, an archive of them, the address of either, or a file of addresses; "
        "text: one or several of folders, files, addresses and files of addresses, with NAME= of its corpus before "
        f"each or not; names of files end with {', '.join(KINDS)}; "
        "squad: a folder that has the files",
    )
    for flag in ("--wiki_mirror", "--squad_mirror", "--glue_mirror", "--weights_mirror"):
        add(flag, default=getattr(DownloadOptions, flag.removeprefix("--")), help="(default: %(default)s)")
    failures = "of books, or of a text's lines; more is a failure (default: 0.05)"
    add("--max_failed_share", type=float, default=0.05, help=failures)
    models = "weights to download (default: all)"
    add("--models", nargs="+", choices=PRETRAINED_MODELS, default=list(PRETRAINED_MODELS), help=models)

    add = parser.add_argument_group("text_formatting").add_argument
    add("--skip_wikiextractor", action="store_true", help="format what was extracted before")
    of_text = FormatOptions()
    column = "text: the Parquet column or JSON key of the documents, for download too (default: %(default)s)"
    add("--text_column", default=of_text.text_column, help=column)
    plain = "text: what a document is in .txt, the whole file or each line (default: %(default)s)"
    add("--text_documents", choices=(WHOLE_FILES, LINES), default=of_text.text_documents, help=plain)
    words = "drop an article's lines of fewer, such as headings, and lists; 0: nothing (default: %(default)s)"
    add("--min_words", type=int, default=of_text.min_words, help=words)

    add = parser.add_argument_group("sharding").add_argument
    files = "files with a document per line, spaces or commas between (default: the formatted)"
    add("--input_files", nargs="+", default=[], help=files)
    add("--n_training_shards", type=int, help="(default: 256)")
    add("--n_test_shards", type=int, help="(default: 256)")
    add("--fraction_test_set", type=float, help="share of the sentences (default: 0.2)")
    add("--segmentation_method", choices=("nltk",), default="nltk", help="how sentences are found")

    group = parser.add_argument_group("create_hdf5_files")
    group.add_argument("--vocab_file", type=Path, help="the vocabulary, one token per line")
    cased = "1 for uncased vocabularies (default: what the files beside the vocabulary, or its words, say)"
    group.add_argument("--do_lower_case", type=int, choices=(0, 1), help=cased)
    add_instance_arguments(group)

    group = parser.add_argument_group("verify (of --input_files, folders, or every folder of the dataset)")
    group.add_argument("--report_file", type=Path, help="write what was found there, as JSON")
    return parser.parse_args(arguments)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one call of this script is to do."""

    flags: argparse.Namespace
    layout: Layout
    shards: tuple[int, int, float]  # how many for training, for testing, and the test set's share of sentences
    lengths: Sequence[InstanceOptions]
    tokenizer: BertTokenizer | None  # of create_hdf5_files, where there is a vocabulary

    @property
    def downloads(self) -> DownloadOptions:
        source, *more = self.flags.source or [None]
        names = {field.name for field in dataclasses.fields(DownloadOptions)} - {"source", "more_sources"}
        return DownloadOptions(source, more, **{name: getattr(self.flags, name) for name in names})

    @property
    def formatting(self) -> FormatOptions:
        names = (field.name for field in dataclasses.fields(FormatOptions))
        return FormatOptions(**{name: getattr(self.flags, name) for name in names})

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the command line says of the rows, beyond the defaults: the parameters of each length."""
        usual = parse_arguments(["--action", "verify", "--dataset", self.flags.dataset])
        names = ("max_seq_length", "max_predictions_per_seq", "masked_lm_prob", "short_seq_prob", "dupe_factor")
        own = {name: getattr(self.flags, name) for name in ("random_seed", "do_lower_case")}
        each = [{name: getattr(options, name) for name in names} | own for options in self.lengths]
        given = [name for name in (*names, *own) if getattr(self.flags, name) != getattr(usual, name)]
        return [{name: values[name] for name in given} for values in each]

    def output_dirs(self) -> list[Path]:
        """The folders that the stage writes; one for each length of create_hdf5_files."""
        flags, layout = self.flags, self.layout
        if flags.action == "download":
            return [layout.download]
        if flags.action == "text_formatting":
            return [layout.formatted]
        if flags.action == "sharding":
            return [layout.sharded(*self.shards)]
        lower_case = self.tokenizer.do_lower_case if self.tokenizer else flags.do_lower_case != 0
        return [layout.hdf5(lower_case, flags.random_seed, length) for length in self.lengths]


def read_settings(arguments: Sequence[str] | None = None, to_run: bool = True) -> Settings:
    """What the command line asks for.

    Args:
        to_run: the stage is to be run now, so that it needs a vocabulary.

    Raises:
        UserError: everything that is wrong with it.
    """
    flags = parse_arguments(arguments)
    problems = Problems()
    given = (flags.n_training_shards, flags.n_test_shards, flags.fraction_test_set)
    shards = tuple(default if number is None else number for number, default in zip(given, SHARDS, strict=True))
    layout = Layout(default_working_dir(), flags.dataset)
    tokenizer = None
    if flags.action == "create_hdf5_files" and flags.vocab_file:
        said = flags.do_lower_case if flags.do_lower_case is None else bool(flags.do_lower_case)
        with problems.collect():
            tokenizer = open_tokenizer(flags.vocab_file, said, flags=CASING)
    settings = Settings(flags, layout, shards, instance_options(flags, problems), tokenizer)
    _add_problems(settings, problems, to_run and not flags.print_output_dir)
    problems.raise_if_any()
    return settings


def _add_problems(settings: Settings, problems: Problems, to_run: bool) -> None:
    flags, (n_training, n_test, fraction) = settings.flags, settings.shards
    action, dataset, report_file = flags.action, flags.dataset, flags.report_file
    check = problems.check
    check(n_training >= 1, f"--n_training_shards {n_training} must be 1 or more.")
    check(n_test >= 0, f"--n_test_shards {n_test} must not be negative.")
    check(0 <= fraction < 1, f"--fraction_test_set {fraction} must lie in [0, 1).")
    shares = f"--n_test_shards {n_test} and --fraction_test_set {fraction}"
    check((n_test > 0) == (fraction > 0), f"{shares} do not fit", "make both zero or neither")
    check(flags.min_words >= 0, f"--min_words {flags.min_words} must not be negative.")
    is_share = action == "download" or 0 <= flags.max_failed_share <= 1  # download tells of it itself
    check(is_share, f"--max_failed_share {flags.max_failed_share} must lie in [0, 1].")
    check(flags.text_column, "--text_column is empty", "name the column or key of the documents")
    check(flags.n_processes >= 1, f"--n_processes {flags.n_processes} must be 1 or more.")
    is_writable = report_file is None or report_file.absolute().parent.is_dir()
    check(is_writable, f"--report_file {report_file} lies in no folder that is there", "make it, or give another")
    if dataset in OTHER_DOWNLOADS and action != "download":
        problems.add(f"--dataset {dataset} is only downloaded", f"{action} takes {', '.join(datasets())}")
    if dataset in COMBINED and action in ("download", "text_formatting"):
        parts = " or ".join(COMBINED[dataset])
        problems.add(f"--action {action} takes one corpus at a time", f"give --dataset {parts}")
    if action == "create_hdf5_files" and to_run and not flags.vocab_file:
        problems.add("--action create_hdf5_files needs --vocab_file, the vocabulary to tokenize with.")
    if flags.scheduler and (problem := scheduler_problem(flags.scheduler)):
        problems.add(problem)
    if action == "download" and dataset not in COMBINED:
        problems.extend(download_problems(dataset, settings.downloads))


def run_stage(settings: Settings, preparation: Preparation) -> Iterator[str]:
    """Do what is asked for; the lines that say what was done."""
    flags, layout = settings.flags, settings.layout
    # NVIDIA's form of a list of files is one word with commas; a file whose name has a comma is still one.
    words = (part for name in flags.input_files for part in ([name] if Path(name).exists() else name.split(",")))
    input_files = [Path(word) for word in words if word]
    if flags.action == "download":
        yield from download(preparation, settings.downloads)
    elif flags.action == "text_formatting":
        if not flags.skip_wikiextractor and (line := document_sources()[layout.dataset].extract(preparation)):
            yield line
        yield stages.format_text(preparation, settings.formatting)
    elif flags.action == "sharding":
        n_training, n_test, fraction = settings.shards
        names = layout.shard_names(n_training, n_test)
        plan = ShardingPlan(names[:n_training], names[n_training:], fraction)
        inputs = input_files or list(formatted_texts(layout).values())
        yield stages.shard(preparation, plan, layout.sharded(*settings.shards), inputs)
    elif flags.action == "create_hdf5_files":
        are_named = {flags.n_training_shards, flags.n_test_shards, flags.fraction_test_set} != {None}
        texts = stages.text_shards(preparation, layout.sharded(*settings.shards) if are_named else None)
        folders = dict(zip(settings.output_dirs(), settings.lengths, strict=True))
        how = (settings.tokenizer, flags.random_seed, flags.compression)
        yield from stages.create_hdf5_files(preparation, texts, folders, *how)
    else:
        prepared = (layout.working_dir.glob(f"{kind}_*/{layout.dataset}") for kind in ("hdf5", "sharded"))
        folders = input_files or sorted(path for paths in prepared for path in paths)
        yield stages.verify_folders(folders, preparation.pool, flags.vocab_file, flags.report_file, settings.asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one stage."""
    settings = read_settings(arguments)
    flags, layout = settings.flags, settings.layout
    if flags.print_output_dir:
        print(*settings.output_dirs(), sep="\n")
        return
    lock = locked(layout.working_dir / f".{flags.action}.{layout.dataset}.lock")
    # What is downloaded lies on this machine, and others need not see where.
    scheduler = None if flags.action == "download" else flags.scheduler
    with (
        # Verifying also serves people who may only read the data.
        contextlib.nullcontext() if flags.action == "verify" else lock,
        workers(flags.n_processes, scheduler, layout.working_dir) as pool,
    ):
        for line in run_stage(settings, Preparation(layout, pool, flags.overwrite)):
            print(line, flush=True)


if __name__ == "__main__":
    run_main(main)
