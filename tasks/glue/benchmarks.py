"""GLUE's tasks: where each keeps its texts and labels, what a model gives for one, and how it is scored.

Labels are in the order of the model's outputs, which is that of Google's and NVIDIA's programs; Hugging Face orders
MNLI's otherwise.
"""

from types import MappingProxyType
from typing import NamedTuple


class Benchmark(NamedTuple):
    """One task of GLUE."""

    name: str
    """What `--task_name` takes."""
    folder: str
    """The folder of its files."""
    texts: tuple[str, ...]
    """The columns of one text or of two."""
    label: str = "label"
    """The column of the label, in the files that have one."""
    labels: tuple[str, ...] = ("0", "1")
    """Empty: it is a number from 0 to 5."""
    metrics: tuple[str, ...] = ("accuracy",)
    """The task's score is their mean."""
    dev: tuple[tuple[str, str], ...] = (("", "dev.tsv"),)
    """Files to score on, behind the prefix of their metrics."""
    test: tuple[tuple[str, str], ...] | None = None
    """Files to predict, behind their names in GLUE's submission; None: test.tsv, behind the folder's."""
    header: tuple[str, ...] | None = None
    """The columns of training and development files that have no header."""
    has_broken_rows: bool = False
    """Some rows of these files have too few columns, since a text has a line break, and everybody leaves them out."""

    @property
    def n_outputs(self) -> int:
        return len(self.labels) or 1

    @property
    def test_files(self) -> tuple[tuple[str, str], ...]:
        return ((self.folder, "test.tsv"),) if self.test is None else self.test


PAIR, BOTH, WORDS = ("sentence1", "sentence2"), ("accuracy", "f1"), ("entailment", "not_entailment")
MNLI_WORDS = ("contradiction", "entailment", "neutral")
MNLI_DEV = (("", "dev_matched.tsv"), ("mismatched_", "dev_mismatched.tsv"))
MNLI_TEST = (("MNLI-m", "test_matched.tsv"), ("MNLI-mm", "test_mismatched.tsv"))
COLA_COLUMNS = ("source", "label", "author's mark", "sentence")
BENCHMARKS = MappingProxyType(
    {
        each.name: each
        for each in (
            Benchmark("cola", "CoLA", ("sentence",), metrics=("matthews",), header=COLA_COLUMNS),
            Benchmark("sst-2", "SST-2", ("sentence",)),
            Benchmark("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", metrics=BOTH),
            Benchmark("sts-b", "STS-B", PAIR, "score", labels=(), metrics=("pearson", "spearman")),
            Benchmark("qqp", "QQP", ("question1", "question2"), "is_duplicate", metrics=BOTH, has_broken_rows=True),
            Benchmark("mnli", "MNLI", PAIR, "gold_label", MNLI_WORDS, dev=MNLI_DEV, test=MNLI_TEST),
            Benchmark("qnli", "QNLI", ("question", "sentence"), labels=WORDS),
            Benchmark("rte", "RTE", PAIR, labels=WORDS),
            Benchmark("wnli", "WNLI", PAIR),
            Benchmark("ax", "diagnostic", PAIR, labels=MNLI_WORDS, dev=(), test=(("AX", "diagnostic.tsv"),)),
        )
    }
)
"""By name. A model of mnli predicts ax, which has nothing to train or score on."""
