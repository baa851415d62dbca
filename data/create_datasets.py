"""The work of create_datasets_from_start.sh, whose variables it takes from the environment.

All that is wrong with them is said together, before the first stage: the last one begins after hours. Each stage is a
process of data/bertPrep.py, so that none inherits memory or threads of another.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import Problems, run_main
from data.artifacts.layout import BOTH, SQUAD, WEIGHTS
from data.bertPrep import ACTIONS, RaisingParser, Settings, add_problems, parse_arguments, settings_from
from data.document_sources import COMBINED, datasets

SOURCES = MappingProxyType({"wikicorpus_en": "WIKI_SOURCE", "bookscorpus": "BOOKS_SOURCE"})
"""Which variable names a corpus's source; SOURCE that of any other."""
NUMBERS = ("N_PROCESSES", "N_TRAINING_SHARDS", "N_TEST_SHARDS", "DUPE_FACTOR", "RANDOM_SEED")
SHARDING_FLAGS = ("N_TRAINING_SHARDS", "N_TEST_SHARDS", "FRACTION_TEST_SET")
HDF5_FLAGS = ("DO_LOWER_CASE", "DUPE_FACTOR", "MASKED_LM_PROB", "RANDOM_SEED", "COMPRESSION")
LENGTHS = ("--max_seq_length", "128", "512", "--max_predictions_per_seq", "20", "80")  # of each phase's sequences


def settings_of(arguments: Sequence[str]) -> Settings:
    """What a call of bertPrep.py is to do. Raises UserError with everything that is wrong with it."""
    problems = Problems()
    settings = settings_from(parse_arguments(arguments, RaisingParser), problems)
    add_problems(settings, problems, writes=False)
    problems.raise_if_any()
    return settings


class Datasets:
    """What the variables ask for.

    Args:
        variables: by name, all of those at the top of the script.
        extra: more flags for every stage.
    """

    def __init__(self, variables: Mapping[str, str], extra: Sequence[str], script: str):
        self.variables = variables
        self.extra = list(extra)
        self.corpus = variables["CORPUS"]
        self.corpora = tuple(reversed(COMBINED.get(self.corpus, (self.corpus,))))
        self.stages = variables["STAGES"].split()
        self.downloads = variables["EXTRA_DOWNLOADS"].split()
        self.models = variables["PRETRAINED_MODELS"].split()
        self.without_books = f"Without books, prepare Wikipedia alone: CORPUS=wikicorpus_en bash {script}"

    def call(self, stage: str, dataset: str) -> list[str]:
        """The arguments of bertPrep.py, without the extra ones."""
        call = ["--action", stage, "--dataset", dataset, "--n_processes", self.variables["N_PROCESSES"]]
        if self.variables["SCHEDULER"]:
            call += ["--scheduler", self.variables["SCHEDULER"]]
        if stage == "download":
            if dataset == WEIGHTS:
                call += ["--models", *self.models]
            elif dataset != SQUAD and self.source(dataset):
                call += ["--source", self.source(dataset)]
        if stage == "sharding":
            call += self._flags(SHARDING_FLAGS)
        if stage == "create_hdf5_files":
            call += [*self._flags(SHARDING_FLAGS), *self._flags(HDF5_FLAGS), *LENGTHS]
            if self.variables["WHOLE_WORD_MASKING"] == "1":
                call += ["--whole_word_masking"]
            if self.vocab_file():
                call += ["--vocab_file", self.vocab_file()]
        return call

    def source(self, corpus: str) -> str:
        """Where a corpus's documents come from."""
        return self.variables.get(SOURCES.get(corpus, "SOURCE"), "")

    def _flags(self, names: Sequence[str]) -> list[str]:
        return [word for name in names for word in (f"--{name.lower()}", self.variables[name])]

    def vocab_file(self) -> str:
        """The vocabulary that was given or has come with the weights; empty if there is none yet."""
        vocab_file = self.variables["VOCAB_FILE"]
        if not vocab_file and self.has_vocabulary_downloaded:
            folder, *_ = settings_of(self.call("download", WEIGHTS)).output_dirs()
            vocab_file = str(folder / "vocab.txt")
        return vocab_file if Path(vocab_file).is_file() else ""

    @property
    def has_vocabulary_downloaded(self) -> bool:
        """Whether one comes with the weights, in the stage download."""
        return bool(self.models) and "download" in self.stages and WEIGHTS in self.downloads

    def problems(self) -> Problems:
        """Everything that is wrong with the variables."""
        problems = Problems()
        self._add_words(problems)
        self._add_vocabulary(problems)
        not_whole = [name for name in NUMBERS if not re.fullmatch(r"-?[0-9]+", self.variables[name])]
        for name in not_whole:
            problems.add(f"{name} is '{self.variables[name]}'", "set it to a whole number")
        if not_whole or self.corpus not in datasets():
            return problems
        with problems.collect():
            settings_of([*self.call("create_hdf5_files", self.corpus), *self.extra])
        if "download" in self.stages:
            for corpus in self.corpora:
                self._add_source(corpus, problems)
            if WEIGHTS in self.downloads:
                with problems.collect():
                    settings_of(self.call("download", WEIGHTS))
        return problems

    def _add_words(self, problems: Problems) -> None:
        *some, last = ACTIONS
        words = f"its words are {', '.join(some)} and {last}"
        *some, last = datasets()
        problems.check(self.corpus in datasets(), f"CORPUS is '{self.corpus}'", f"choose {', '.join(some)} or {last}")
        for stage in self.stages:
            problems.check(stage in ACTIONS, f"STAGES holds '{stage}'", words)
        problems.check(self.stages, "STAGES is empty", words)
        for name in self.downloads:
            known = name in (SQUAD, WEIGHTS)
            problems.check(known, f"EXTRA_DOWNLOADS holds '{name}'", f"its words are {SQUAD} and {WEIGHTS}")
        for name in ("WHOLE_WORD_MASKING", "DO_LOWER_CASE"):
            value = self.variables[name]
            problems.check(value in ("0", "1"), f"{name} is '{value}'", "set it to 1 or 0")

    def _add_vocabulary(self, problems: Problems) -> None:
        given = self.variables["VOCAB_FILE"]
        comes = Path(given).is_file() if given else self.has_vocabulary_downloaded
        if "create_hdf5_files" not in self.stages or comes:
            return
        how = "set it to the vocabulary to tokenize with"
        if given:
            problems.add(f"VOCAB_FILE is '{given}', and there is no such file", how)
        else:
            problems.add("VOCAB_FILE is empty", f"{how}, or download one: EXTRA_DOWNLOADS={WEIGHTS}")

    def _add_source(self, corpus: str, problems: Problems) -> None:
        n_before = len(problems.found)
        if corpus == "bookscorpus" and not self.source(corpus):
            what = "a folder of .txt files, an archive of them, the address of one, or a file of addresses"
            problems.add("BOOKS_SOURCE is empty", f"set it to {what}")
        else:
            with problems.collect():
                settings_of(self.call("download", corpus))
        if len(problems.found) > n_before and corpus == "bookscorpus" and self.corpus == BOTH:
            problems.add(self.without_books)

    def run(self) -> None:
        """Run the stages, and print where the shards are."""
        for stage in self.stages:
            print(f"== {stage}: {self.corpus}", flush=True)
            if stage == "download":
                for dataset in (*self.downloads, *self.corpora):
                    self._run(stage, dataset)
            elif stage == "text_formatting":
                for corpus in self.corpora:
                    self._run(stage, corpus)
            elif stage == "verify" and "create_hdf5_files" in self.stages:
                # What was made here; in the working folder there may be older things.
                made = [*self.output_dirs("sharding"), *self.output_dirs("create_hdf5_files")]
                self._run(stage, self.corpus, "--input_files", *made)
            else:
                self._run(stage, self.corpus)
        if "create_hdf5_files" in self.stages:
            print("The shards of both phases are ready:", *self.output_dirs("create_hdf5_files"), sep="\n")

    def output_dirs(self, stage: str) -> list[str]:
        """The folders that a stage writes."""
        return list(map(str, settings_of([*self.call(stage, self.corpus), *self.extra]).output_dirs()))

    def _run(self, stage: str, dataset: str, *more: str) -> None:
        script = Path(__file__).with_name("bertPrep.py")
        status = subprocess.run([sys.executable, script, *self.call(stage, dataset), *self.extra, *more]).returncode
        if status:
            if stage == "download" and dataset == "bookscorpus" and self.corpus == BOTH:
                print(f"error: {self.without_books}", file=sys.stderr)
            sys.exit(status)


def main() -> None:
    """Check the variables and run the stages. Arguments: how the script was called, and flags for every stage."""
    script, *extra = sys.argv[1:]
    wanted = Datasets(os.environ, extra, script)
    wanted.problems().raise_if_any()
    wanted.run()


if __name__ == "__main__":
    run_main(main)
