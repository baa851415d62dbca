"""The work of create_datasets_from_start.sh, whose variables it takes from the environment.

All that is wrong with them is said together, before the first stage: the last one begins after hours. Each stage is a
process of data/bertPrep.py, so that none inherits memory or threads of another.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from common.errors import Problems, UserError, run_main
from common.published_models import PRETRAINED_MODELS
from data.artifacts.layout import WEIGHTS, Layout, default_working_dir
from data.bertPrep import parse_arguments, read_settings
from data.document_sources import COMBINED, document_sources

SOURCES = MappingProxyType({"wikicorpus_en": "WIKI_SOURCE", "bookscorpus": "BOOKS_SOURCE", "text": "TEXT_SOURCE"})
"""Which variable names a corpus's source; SOURCE that of any other."""
NEEDED = MappingProxyType(
    {
        "bookscorpus": "set it to a folder of .txt files, an archive of them, the address of one, or a file of "
        "addresses; or prepare Wikipedia alone: CORPUS=wikicorpus_en",
        "text": "set it to folders, files or addresses of Parquet, JSON lines or plain text",
    }
)
"""What to do where a variable of SOURCES is empty and must not be."""
# Variables of the names of bertPrep.py's flags.
SHARDING_FLAGS = ("N_TRAINING_SHARDS", "N_TEST_SHARDS", "FRACTION_TEST_SET")
HDF5_FLAGS = ("DO_LOWER_CASE", "DUPE_FACTOR", "MASKED_LM_PROB", "RANDOM_SEED", "COMPRESSION")
MASKING = MappingProxyType({"0": "tokens", "1": "whole_words"})
LENGTHS = ("--max_seq_length", "128", "512", "--max_predictions_per_seq", "20", "80")  # of each phase's sequences


def words_of(source: str, dataset: str) -> list[str]:
    """The words that a variable of SOURCES holds: several for a dataset that takes them, quoted as in a shell."""
    if not document_sources()[dataset].takes_several or Path(source).exists():
        return [source]
    try:
        return shlex.split(source)
    except ValueError:  # a quotation mark without its other one
        return [source]


class Datasets:
    """What the variables ask for.

    Args:
        variables: by name, all of those at the top of the script.
        extra: more flags for every stage.
    """

    def __init__(self, variables: Mapping[str, str], extra: Sequence[str]):
        self.variables = variables
        self.extra = list(extra)
        self.corpus = variables["CORPUS"]
        self.corpora = tuple(reversed(COMBINED.get(self.corpus, (self.corpus,))))
        self.stages = variables["STAGES"].split()
        self.downloads = variables["EXTRA_DOWNLOADS"].split()
        self.models = variables["PRETRAINED_MODELS"].split()
        self.downloads_vocabulary = "download" in self.stages and WEIGHTS in self.downloads
        names = ("N_PROCESSES", *SHARDING_FLAGS, *HDF5_FLAGS)
        self.flags = [(f"--{name.lower()}", variables[name]) for name in names]
        masking = variables["WHOLE_WORD_MASKING"]
        self.flags += [("--masking", MASKING.get(masking, masking)), ("--models", *self.models)]
        if variables["SCHEDULER"]:
            self.flags.append(("--scheduler", variables["SCHEDULER"]))

    def datasets_of(self, stage: str) -> tuple[str, ...]:
        """What a stage is called with, one after the other."""
        if stage == "download":
            return (*self.downloads, *self.corpora)
        return self.corpora if stage == "text_formatting" else (self.corpus,)

    def call(self, stage: str, dataset: str) -> list[str]:
        """The arguments of bertPrep.py."""
        flags, lengths = self.flags, LENGTHS
        if (
            stage == "verify" and "create_hdf5_files" not in self.stages
        ):  # of rows that were made at any time, in any way
            of_rows = {f"--{name.lower()}" for name in HDF5_FLAGS} | {"--masking"}
            flags, lengths = [flag for flag in flags if flag[0] not in of_rows], ()
        call = ["--action", stage, "--dataset", dataset, *(word for flag in flags for word in flag), *lengths]
        source = self.variables.get(SOURCES.get(dataset, "SOURCE"))
        if stage == "download" and dataset in self.corpora and source:
            call += ["--source", *words_of(source, dataset)]
        if stage == "create_hdf5_files" and (vocab_file := self.vocab_file()):
            call += ["--vocab_file", vocab_file]
        return [*call, *self.extra]

    def vocab_file(self) -> str:
        """The vocabulary that was given or has come with the weights; empty if there is none yet."""
        if self.variables["VOCAB_FILE"] or not self.downloads_vocabulary:
            return self.variables["VOCAB_FILE"]
        weights = Layout(default_working_dir(), WEIGHTS).download
        folders = (PRETRAINED_MODELS[name].folder for name in self.models if name in PRETRAINED_MODELS)
        paths = (weights / folder / "vocab.txt" for folder in folders)
        return next((str(path) for path in paths if path.is_file()), "")

    def check(self) -> None:
        """Raises UserError with everything that is wrong with the variables."""
        problems, readable = Problems(), []
        if not self.variables["VOCAB_FILE"] and "create_hdf5_files" in self.stages:
            how = f"set it to the vocabulary to tokenize with, or download one: EXTRA_DOWNLOADS={WEIGHTS}"
            problems.check(self.downloads_vocabulary, "VOCAB_FILE is empty", how)
            model, casing = (
                PRETRAINED_MODELS.get(self.models[0]) if self.models else None,
                self.variables["DO_LOWER_CASE"],
            )
            if self.downloads_vocabulary and model and casing != (right := str(int(model.do_lower_case))):
                what = f"DO_LOWER_CASE is {casing}, and {self.models[0]}, whose vocabulary is taken, needs {right}"
                problems.add(what, f"set DO_LOWER_CASE={right}, or VOCAB_FILE to another vocabulary")
        for flag in self.flags:
            with problems.collect():
                parse_arguments(["--action", "verify", "--dataset", "all", *flag])
                readable.append(flag)
        self.flags = readable  # the others are told of, and must not hide what else is wrong
        for stage in self.stages:
            for dataset in self.datasets_of(stage):
                if stage == "download" and dataset in NEEDED and not self.variables[SOURCES[dataset]]:
                    problems.add(f"{SOURCES[dataset]} is empty", NEEDED[dataset])
                    continue
                with problems.collect():
                    read_settings(self.call(stage, dataset), to_run=False)
        if problems.found:
            raise UserError(dict.fromkeys(problems.found))

    def run(self, run_stage: Callable[[list[str]], object] | None = None) -> None:
        """Run the stages, and print where the shards are.

        `run_stage` does one, from the arguments of bertPrep.py; None: in a process of its own.
        """
        run_stage = run_stage or _in_a_process
        made = [] if "create_hdf5_files" not in self.stages else self.output_dirs("create_hdf5_files")
        for stage in self.stages:
            print(f"== {stage}: {self.corpus}", flush=True)
            # Of what was made here only; in the working folder there may be older things.
            more = ["--input_files", *self.output_dirs("sharding"), *made] if stage == "verify" and made else []
            for dataset in self.datasets_of(stage):
                run_stage([*self.call(stage, dataset), *more])
        if made:
            print("The shards of both phases are ready:", *made, sep="\n")

    def output_dirs(self, stage: str) -> list[str]:
        """The folders that a stage writes."""
        settings = read_settings(self.call(stage, self.corpus), to_run=False)
        return list(map(str, settings.output_dirs()))


def _in_a_process(arguments: list[str]) -> None:
    if status := subprocess.run([sys.executable, Path(__file__).with_name("bertPrep.py"), *arguments]).returncode:
        sys.exit(status)


def main() -> None:
    """Check the variables and run the stages. Arguments: flags for every stage."""
    wanted = Datasets(os.environ, sys.argv[1:])
    wanted.check()
    wanted.run()


if __name__ == "__main__":
    run_main(main)
