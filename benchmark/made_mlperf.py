#!/usr/bin/env python3
"""Stand-ins for the files of MLPerf's BERT, by their names and in their formats, to try everything without them.

  python3 benchmark/made_mlperf.py stand_ins --bert_model tiny

docs/mlperf.md has the commands that train on them. The text is of made words, the checkpoint of random weights with the
slots of LAMB, so neither accuracies nor times are the benchmark's. Documents are short, so that rows have about as many
tokens as MLPerf's, 254.
"""

import argparse
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import numpy as np
import torch

from benchmark.command_line import count_problems, parser_of
from benchmark.workloads.made_corpus import SYLLABLES, documents
from benchmark.workloads.tensor_bundle import write_tensor_bundle
from common.errors import run_main
from common.tokenizer_files import CLS, MASK, PAD, SEP, UNK
from common.words import counted
from data.mlperf.published import CHECKPOINT, CONFIG, EVALUATION_TEXT, VOCAB, part_paths
from file_utils import atomic_folder
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig

SENTENCES = 6  # of a document at most
ENDLESS = 10**12  # bytes
STEP = 28252
# From our names to Google's, one after the other.
GOOGLE_NAMES = (
    (r"^(cls\.\w+)\.bias$", r"\1.output_bias"),
    (r"^(cls\.seq_relationship)\.weight$", r"\1.output_weights"),
    (r"_embeddings\.weight$", "_embeddings"),
    (r"LayerNorm\.weight$", "LayerNorm.gamma"),
    (r"LayerNorm\.bias$", "LayerNorm.beta"),
    (r"\.weight$", ".kernel"),
    (r"\.layer\.(\d+)", r".layer_\1"),
    (r"\.", "/"),
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError with everything that is wrong."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="to write; it must not be there")
    add("--bert_model", choices=tuple(BERT_CONFIGS), default="tiny", help="shape of the checkpoint")
    add("--parts", type=int, default=2, help="files of training text")
    add("--n_documents", type=int, default=200, help="in each file of text, of about a row each")
    flags = parser.parse_args(arguments)
    problems = count_problems(flags, "parts", "n_documents")
    problems.check(not flags.folder.exists(), f"{flags.folder} is there already", "choose another name, or remove it")
    problems.raise_if_any()
    return flags


def vocabulary(size: int) -> list[str]:
    """What made words are made of, and unused tokens up to a size."""
    used = [PAD, UNK, CLS, SEP, MASK, ".", *SYLLABLES, *(f"##{each}" for each in SYLLABLES)]
    return [*used, *(f"[unused{i}]" for i in range(size - len(used)))]


def texts(n_files: int, n_documents: int) -> Iterator[str]:
    """A sentence a line, and an empty line between documents."""
    made = documents(ENDLESS)
    for _ in range(n_files):
        yield "\n\n".join("\n".join(each[:SENTENCES]) for each in itertools.islice(made, n_documents)) + "\n"


def tensors(config: BertConfig) -> Iterator[tuple[str, np.ndarray]]:
    """What the published checkpoint holds: weights by Google's names, two slots of LAMB's beside each, and counters."""
    torch.manual_seed(0)
    for name, weight in BertForPreTraining(config).state_dict().items():
        if name == "cls.predictions.decoder.weight":  # the word embeddings again
            continue
        for pattern, replacement in GOOGLE_NAMES:
            name = re.sub(pattern, replacement, name)
        array = (weight.T if name.endswith("/kernel") else weight).numpy()
        yield name, array
        yield from ((f"{name}/{slot}", np.zeros_like(array)) for slot in ("LAMB", "LAMB_1"))
    yield from ((name, np.zeros((), np.float32)) for name in ("beta1_power", "beta2_power"))
    yield "global_step", np.array(STEP, np.int64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files."""
    flags = parse_arguments(arguments)
    config = BertConfig.from_json_file(BERT_CONFIGS[flags.bert_model])
    with atomic_folder(flags.folder) as new:
        (new / "text").mkdir()
        (new / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", encoding="utf-8")
        (new / VOCAB).write_text("".join(f"{token}\n" for token in vocabulary(config.vocab_size)), encoding="utf-8")
        paths = [EVALUATION_TEXT, *part_paths(flags.parts)]
        for path, text in zip(paths, texts(len(paths), flags.n_documents), strict=True):
            (new / path).write_text(text, encoding="utf-8")
        n_bytes = write_tensor_bundle(new / CHECKPOINT, tensors(config))
    made = f"{counted(len(paths), 'text')} of {counted(flags.n_documents, 'document')}"
    print(f"{made}, a checkpoint of {n_bytes:,} bytes: {flags.folder}")


if __name__ == "__main__":
    run_main(main)
