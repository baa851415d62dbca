"""GLUE's files in their official layouts, written by hand, and tiny runs on them by run_glue's own command line."""

import random

from corpora import WORDS, write_vocab
from pretraining_runs import as_arguments, write_config
from squad_runs import N_WORDS_OF_VOCABULARY

PARSES = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
MNLI = ("index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2")
STS = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2")
MRPC = ("#1 ID", "#2 ID", "#1 String", "#2 String")
PAIR = ("index", "sentence1", "sentence2")
QNLI = ("index", "question", "sentence")
VOTES = ("label1", "label2", "label3", "label4", "label5")
# Folder, columns of training, development and test files, texts' and label's columns, and labels, by the task's name.
# CoLA's files to train and score on have no header, which is what None says.
LAYOUTS = {
    "cola": ("CoLA", None, None, ("index", "sentence"), "01"),
    "sst-2": ("SST-2", ("sentence", "label"), ("sentence", "label"), ("index", "sentence"), "01"),
    "mrpc": ("MRPC", ("Quality", *MRPC), ("Quality", *MRPC), ("index", *MRPC), "01"),
    "sts-b": ("STS-B", (*STS, "score"), (*STS, "score"), STS, ("0.000", "1.25", "5.0", "3")),
    "qqp": (
        "QQP",
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        ("id", "question1", "question2"),
        "01",
    ),
    "mnli": (
        "MNLI",
        (*MNLI, "label1", "gold_label"),
        (*MNLI, *VOTES, "gold_label"),
        MNLI,
        ("neutral", "entailment", "contradiction"),
    ),
    "qnli": ("QNLI", (*QNLI, "label"), (*QNLI, "label"), QNLI, ("entailment", "not_entailment")),
    "rte": ("RTE", (*PAIR, "label"), (*PAIR, "label"), PAIR, ("entailment", "not_entailment")),
    "wnli": ("WNLI", (*PAIR, "label"), (*PAIR, "label"), PAIR, "01"),
    "ax": ("diagnostic", None, None, PAIR, ("neutral", "entailment", "contradiction")),
}
TEXTS = ("sentence", "sentence1", "sentence2", "question", "question1", "question2", "#1 String", "#2 String")
LABELS = ("label", "Quality", "score", "is_duplicate", "gold_label")


def write_glue(folder, task, n_train=24, n_dev=9, n_test=7, seed=0):
    """The task's folder under `folder`, whose labels follow from the first word; returns it and the rows of each file.

    A row is its texts, and its label where the file has one.
    """
    name, train, dev, test, labels = LAYOUTS[task]
    files = {"train.tsv": (train, n_train), "dev.tsv": (dev, n_dev), "test.tsv": (test, n_test)}
    if task == "mnli":
        files = {"train.tsv": (train, n_train)}
        for kind, more in (("matched", 0), ("mismatched", 3)):
            files |= {f"dev_{kind}.tsv": (dev, n_dev + more), f"test_{kind}.tsv": (test, n_test + more)}
    if task == "ax":
        files = {"diagnostic.tsv": (test, n_test)}
    path, rows = folder / name, {}
    path.mkdir(parents=True)
    for number, (file, (columns, n)) in enumerate(files.items()):
        lines, rows[file] = _lines(columns, n, labels, random.Random(seed + number))
        (path / file).write_text("\n".join(lines) + "\n" * (file != "dev.tsv"), encoding="utf-8")
    return path, rows


def _lines(columns, n, labels, rng):
    lines, rows = ["\t".join(columns)] if columns else [], []
    for index in range(n):
        texts = [" ".join(rng.sample(WORDS, rng.randint(1, 14))) for _ in range(2)]
        label = labels[WORDS.index(texts[0].split()[0]) % len(labels)]
        if columns is None:
            lines.append(f"gj04\t{label}\t{'*' if label == '0' else ''}\t{texts[0]}")
            rows.append((texts[0], label))
            continue
        values, left = {"index": str(index), "id": str(index)}, iter(texts)
        values |= {column: next(left) for column in columns if column in TEXTS}
        is_labelled = any(column in LABELS for column in columns)
        values |= {column: label for column in columns if column in LABELS}
        lines.append("\t".join(values.get(column, "x y") for column in columns))
        rows.append((*(values[column] for column in columns if column in TEXTS), *([label] if is_labelled else [])))
    return lines, rows


def make_inputs(folder, *tasks, **changes):
    """vocab.txt, config.json and the files of these tasks, in `glue`; returns the folder."""
    write_vocab(folder / "vocab.txt")
    write_config(folder / "config.json", vocab_size=N_WORDS_OF_VOCABULARY, **changes)
    for task in tasks:
        write_glue(folder / "glue", task)
    return folder


def command(folder, task="rte", **changes):
    """The arguments of a run on `make_inputs`'s folder: 2 micro-batches of 4 a step, every step logged, then scored."""
    flags = {
        "task_name": task,
        "data_dir": folder / "glue",
        "do_train": True,
        "do_eval": True,
        "no_cuda": True,
        "disable_progress_bar": True,
        "precision": "fp32",
        "vocab_file": folder / "vocab.txt",
        "config_file": folder / "config.json",
        "output_dir": folder / "out",
        "max_seq_length": 16,
        "train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "eval_batch_size": 4,
        "learning_rate": 0.003,
        "max_steps": 8,
        "log_freq": 1,
        **changes,
    }
    return as_arguments(flags)
