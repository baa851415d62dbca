"""The work of scripts/quickstart.sh, whose variables it takes from the environment.

All of it is one process, as a start of Python with PyTorch takes seconds. What the steps print goes to one log file.
Arguments are flags of run_pretraining.py.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark import report
from benchmark.logs import read_run
from benchmark.reports.quickstart_card import card
from common.errors import UserError, run_main
from common.packages import project_command
from common.words import counted
from data import bertPrep, train_vocab
from data.create_datasets import Datasets
from models.config import BERT_CONFIGS
from tasks.pretraining.task import PretrainingTask
from tasks.setup import run
from tasks.squad.task import SquadTask

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
CORPUS = "books_wiki_en_corpus"
DATA = MappingProxyType(
    {
        "CORPUS": CORPUS,
        "WIKI_SOURCE": str(SAMPLE / "wikicorpus_sample.xml.bz2"),
        "BOOKS_SOURCE": str(SAMPLE / "books"),
        "TEXT_SOURCE": "",
        "EXTRA_DOWNLOADS": "",
        "PRETRAINED_MODELS": "bert_large_uncased",
        "SCHEDULER": "",
        "DO_LOWER_CASE": "1",
        "WHOLE_WORD_MASKING": "0",
        "MASKED_LM_PROB": "0.15",
        "N_TRAINING_SHARDS": "4",
        "N_TEST_SHARDS": "1",
        "FRACTION_TEST_SET": "0.1",
        "DUPE_FACTOR": "5",
        "COMPRESSION": "gzip",
        "RANDOM_SEED": "12345",
    }
)
"""Variables of create_datasets_from_start.sh."""
LINES_SHOWN = 15  # of the log, where a step fails


class Quickstart:
    """The steps, in `OUTPUT_DIR`, which has nothing in it that they make."""

    def __init__(self, variables: Mapping[str, str], extra: Sequence[str]):
        self._variables, self._extra = variables, extra
        self._folder = Path(variables["OUTPUT_DIR"])
        self._vocab_file = Path(variables["VOCAB_FILE"] or self._folder / "vocab.txt")
        self._config_file = self._folder / "bert_config.json"
        self._report = self._folder / "report"

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Each by what it does, in words."""
        stages = "PHASE1", "PHASE2", "SQUAD"
        steps = {name: counted(int(self._variables[f"{name}_STEPS"]), "step") for name in stages}
        yield "the sample corpus, 150 kB of text, to HDF5 shards", self.prepare
        yield f"pre-training, phase 1: {steps['PHASE1']} at sequence length 128", self.phase1
        yield f"pre-training, phase 2: {steps['PHASE2']} at sequence length 512", self.phase2
        yield f"fine-tuning on questions about the sample: {steps['SQUAD']}", self.fine_tune
        yield "answering other questions", self.answer
        yield "a report with pictures", self.report

    def prepare(self) -> None:
        """Shards of both phases, a vocabulary where none was given, and the model's shape."""
        variables = {**DATA, "VOCAB_FILE": str(self._vocab_file), "N_PROCESSES": self._variables["N_PROCESSES"]}
        Datasets({**variables, "STAGES": "download text_formatting sharding"}, []).run(bertPrep.main)
        if not self._variables["VOCAB_FILE"]:
            texts = Path(os.environ["BERT_PREP_WORKING_DIR"]) / "formatted_one_article_per_line"
            words = ["--vocab_size", self._variables["VOCAB_SIZE"], "--vocab_file", str(self._vocab_file)]
            train_vocab.main([*words, "--input_files", str(texts)])
        Datasets({**variables, "STAGES": "create_hdf5_files verify"}, []).run(bertPrep.main)
        shape = json.loads(BERT_CONFIGS["tiny"].read_text(encoding="utf-8"))
        shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # which is slow to draw on a CPU
        shape["vocab_size"] = len(self._vocab_file.read_text(encoding="utf-8").splitlines())
        self._config_file.write_text(json.dumps(shape, indent=2), encoding="utf-8")

    def phase1(self) -> None:
        """Ends with a checkpoint and scores."""
        self._pretrain(
            "PHASE1", "--max_seq_length", "128", "--max_predictions_per_seq", "20", "--warmup_proportion", "0.2843"
        )

    def phase2(self) -> None:
        """Starts from phase 1's last checkpoint."""
        lengths = ("--max_seq_length", "512", "--max_predictions_per_seq", "80", "--warmup_proportion", "0.128")
        self._pretrain("PHASE2", *lengths, "--phase2", "--phase1_end_step", self._variables["PHASE1_STEPS"])

    def fine_tune(self) -> None:
        """Scored on the questions that it was trained on."""
        newest = max((self._folder / "pretraining").glob("ckpt_*.pt"), key=lambda path: int(path.stem[5:]))
        train = ("--do_train", "--train_file", str(SAMPLE / "squad" / "train-v2.0.json"), "--init_checkpoint", newest)
        flags = {"max_steps": "SQUAD_STEPS", "learning_rate": "SQUAD_LEARNING_RATE", "log_freq": "LOG_FREQ"}
        self._squad("train", *train, "--train_batch_size", "16", "--micro_batch_size", "16", *self._flags(flags))

    def answer(self) -> None:
        """Scored on questions that it has not seen."""
        self._squad("dev", "--do_predict", "--resume_from_checkpoint")

    def report(self) -> None:
        """One page of both runs."""
        runs = [str(self._folder / name) for name in ("pretraining", "squad")]
        report.main([*runs, "--output_dir", str(self._report), "--title", "BERT on the sample corpus"])

    def card(self) -> dict[str, str]:
        """What came of it, by what it is."""
        pretraining, squad = (read_run(self._folder / name / "dllogger.json") for name in ("pretraining", "squad"))
        return {**card(pretraining, squad), "report": str(self._report / "report.html")}

    def _pretrain(self, name: str, *flags: str) -> None:
        sizes = {"GLOBAL_BATCH": "global_batch_size", "MICRO_BATCH": "micro_batch_size", "STEPS": "max_steps"}
        settings = {flag: f"{name}_{suffix}" for suffix, flag in (sizes | {"LEARNING_RATE": "learning_rate"}).items()}
        data = os.environ["BERT_PREP_WORKING_DIR"]
        where = ("--input_dir", data, "--eval_dir", data, "--dataset", CORPUS, "--output_dir")
        what = ("--do_train", "--resume_from_checkpoint", *self._model(), *where, str(self._folder / "pretraining"))
        run(PretrainingTask, [*what, *self._flags({**settings, "log_freq": "LOG_FREQ"}), *flags, *self._extra])

    def _squad(self, questions: str, *flags: object) -> None:
        where = ("--predict_file", str(SAMPLE / "squad" / f"{questions}-v2.0.json"), "--version_2_with_negative")
        # None is forked to tokenize: this process has used a GPU.
        what = ("--do_eval", "--n_processes", "1", *self._model(), "--output_dir", str(self._folder / "squad"))
        run(SquadTask, [*what, *where, *map(str, flags)])

    def _model(self) -> tuple[str, ...]:
        files = ("--config_file", str(self._config_file), "--vocab_file", str(self._vocab_file))
        return (*files, "--disable_progress_bar")

    def _flags(self, settings: Mapping[str, str]) -> list[str]:
        return [word for flag, name in settings.items() for word in (f"--{flag}", self._variables[name])]


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Inside, what is printed goes to the log's end; where an error comes out, the last lines of it are shown."""
    try:
        # By lines: processes that are forked would write what is held back once more.
        with (
            log.open("a", buffering=1, encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield
    except KeyboardInterrupt:
        print(flush=True)
        raise
    except BaseException:  # a stop by a signal is a SystemExit
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
        print(f" failed\nThe last lines of {log}:", *(f"  {line}" for line in last), sep="\n", flush=True)
        raise


def main(extra: Sequence[str] | None = None) -> None:
    """All steps, the report card, and what to do next."""
    if "PHASE1_STEPS" not in os.environ:
        started_by = project_command("bash", "scripts/quickstart.sh")
        raise UserError("benchmark/quickstart.py takes its settings from a script", f"start that: {started_by}")
    quickstart = Quickstart(os.environ, sys.argv[1:] if extra is None else extra)
    log, started = Path(os.environ["OUTPUT_DIR"]) / "quickstart.log", time.perf_counter()
    print(f"Details: {log}")
    steps = list(quickstart.steps())
    for number, (what, step) in enumerate(steps, 1):
        print(f"{number}/{len(steps)} {what} ...", end="", flush=True)
        began = time.perf_counter()
        with printing_to(log):
            print(f"== {what}")
            step()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # the next step reports its own
        print(f" {time.perf_counter() - began:.0f} s", flush=True)
    print(f"\nDone in {time.perf_counter() - started:.0f} seconds.\n")
    rows = quickstart.card()
    width = max(map(len, rows))
    print("BERT on the sample corpus", *(f"  {name:{width}}  {value}" for name, value in rows.items()), "", sep="\n")
    print("Next: throughput, real data, and BERT-large on it", *next_commands(), sep="\n  ")


def next_commands() -> Iterator[str]:
    """Three that work when pasted. BERT-large is for GPUs."""
    measure = project_command("bash", "scripts/measure_throughput_pretrain.sh")
    yield measure if torch.cuda.is_available() else f'BERT_MODEL=tiny BATCH_SIZES="8 16" {measure} 2 12'
    yield f"CORPUS=wikicorpus_en {project_command('bash', 'data/create_datasets_from_start.sh')}"
    yield f"DATASET=wikicorpus_en {project_command('bash', 'scripts/run_pretraining.sh')}"


if __name__ == "__main__":
    run_main(main)
