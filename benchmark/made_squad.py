#!/usr/bin/env python3
"""A SQuAD file whose windows are full, for measuring throughput as it is usually stated: at full length.

  python3 benchmark/made_squad.py made.json --n_questions 40

docs/squad.md has the command that measures with it. Each context is text of made words, some 3,000 tokens long, so that
with --max_seq_length 384 and --doc_stride 128 all windows but the last of each question are full.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.workloads.made_corpus import documents
from common.command_line import CommandLine
from common.errors import run_main
from common.words import counted
from file_utils import atomic_write

SIZE = 6000  # bytes of a context
QUESTION = "what was said of this place by those who came back from it, and when did they say so?"


def made_squad(n_questions: int) -> dict:
    """The content of the file: a question about each context, answered by its first two words."""
    text = " ".join(sentence for document in documents(n_questions * SIZE * 2) for sentence in document)
    paragraphs = []
    for number in range(n_questions):
        context = text[number * SIZE : (number + 1) * SIZE].strip()
        answer = {"text": " ".join(context.split()[:2]), "answer_start": 0}
        paragraphs.append({"context": context, "qas": [{"id": str(number), "question": QUESTION, "answers": [answer]}]})
    return {"version": "1.1", "data": [{"title": "made", "paragraphs": paragraphs}]}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("file", type=Path, help="to write")
    parser.add_argument("--n_questions", type=int, default=40, help="(default: 40)")
    return parser.parse_args(arguments)


def main() -> None:
    """Write the file."""
    args = parse_arguments()
    with atomic_write(args.file) as file:
        json.dump(made_squad(args.n_questions), file)
    print(f"{counted(args.n_questions, 'question')}: {args.file}")


if __name__ == "__main__":
    run_main(main)
