"""Tiny fine-tuning runs by run_squad's own command line. One of them takes a second."""

import json
import random

from corpora import WORDS, write_vocab
from pretraining_runs import as_arguments, write_config

N_WORDS_OF_VOCABULARY = 246  # write_vocab's: five special tokens, WORDS and the full stop


def write_squad(path, n_questions=24, seed=0, share_without_answer=0.0):
    """Questions of one word about contexts of many windows or few; the answer is what follows it. Returns the path."""
    rng = random.Random(seed)
    paragraphs = []
    for number in range(n_questions):
        words = rng.sample(WORDS, rng.randint(6, 40))
        asked = rng.randrange(len(words) - 2)
        answer = " ".join(words[asked + 1 : asked + 1 + rng.randint(1, 2)])
        start = len(" ".join(words[: asked + 1])) + 1
        question = {"id": f"{path.stem}-{number}", "question": words[asked]}
        question["answers"] = [{"text": answer, "answer_start": start}]
        if rng.random() < share_without_answer:
            question |= {"is_impossible": True, "answers": []}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "made", "paragraphs": paragraphs}]}))
    return path


def make_inputs(folder, **changes):
    """vocab.txt, config.json, train.json and dev.json; returns the folder."""
    write_vocab(folder / "vocab.txt")
    write_config(folder / "config.json", vocab_size=N_WORDS_OF_VOCABULARY, **changes)
    write_squad(folder / "train.json")
    write_squad(folder / "dev.json", n_questions=9, seed=1)
    return folder


def command(folder, **changes):
    """The arguments of a run on `make_inputs`'s folder: 2 micro-batches of 4 a step, every step logged, then scored."""
    flags = {
        "do_train": True,
        "do_eval": True,
        "no_cuda": True,
        "disable_progress_bar": True,
        "precision": "fp32",
        "train_file": folder / "train.json",
        "predict_file": folder / "dev.json",
        "vocab_file": folder / "vocab.txt",
        "config_file": folder / "config.json",
        "output_dir": folder / "out",
        "max_seq_length": 32,
        "doc_stride": 8,
        "max_query_length": 8,
        "train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "predict_batch_size": 4,
        "learning_rate": 0.003,
        "max_steps": 8,
        "log_freq": 1,
        "n_processes": 1,
        **changes,
    }
    return as_arguments(flags)
