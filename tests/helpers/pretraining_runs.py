"""Tiny pre-training runs by run_pretraining's own command line, and what they left. One of them takes a second."""

import json
import shutil
from pathlib import Path

import torch
from shards import write_shards

from training.metrics.logger import read_log

VOCAB, LENGTH, PREDICTIONS = 40, 16, 3
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


# A shape that GPUs take, and whose losses can be compared between them: heads of 32, as FlashAttention takes multiples
# of 8 only; no dropout, which FlashAttention draws in another way than what fp32 runs on.
GPU_SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def write_config(path, **changes):
    """A configuration file, with dropout 0.1 unless told otherwise; returns its path."""
    Path(path).write_text(json.dumps({**SHAPE, **changes}), encoding="utf-8")
    return path


def make_inputs(folder, **changes):
    """Training shards (30 + 25 rows) in `data`, held-out ones (7 rows) in `test`, and `config.json`; returns folder."""
    write_shards(folder / "data")
    write_shards(folder / "test", rows_per_file=(7,), name="test")
    write_config(folder / "config.json", **changes)
    return folder


def make_three_word_inputs(folder):
    """The same of three words, of which any weights find some, and a few steps learn which is the most frequent."""
    write_shards(folder / "data", vocab_size=8)
    write_shards(folder / "test", rows_per_file=(7,), name="test", vocab_size=8)
    write_config(folder / "config.json", vocab_size=8)
    return folder


def command(folder, **changes):
    """The arguments of a run on `make_inputs`'s folder: 2 micro-batches of 4 a step, every step logged."""
    flags = {
        "do_train": True,
        "no_cuda": True,
        "disable_progress_bar": True,
        "precision": "fp32",
        "input_dir": folder / "data",
        "output_dir": folder / "out",
        "config_file": folder / "config.json",
        "max_seq_length": LENGTH,
        "max_predictions_per_seq": PREDICTIONS,
        "train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "warmup_proportion": 0.25,
        "max_steps": 8,
        "log_freq": 1,
        "num_steps_per_checkpoint": 1000,
        **changes,
    }
    return as_arguments(flags)


def as_arguments(flags):
    """A command line: a flag that is True has no value, one that is None or False is left out."""
    arguments = []
    for name, value in flags.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments


def curve(output_dir):
    """What was logged, by (phase, step); a step's later line counts, as after a resume."""
    phase, logged = 1, {}
    for event in read_log(Path(output_dir) / "dllogger.json"):
        if event.get("step") == "PARAMETER":
            phase = 2 if event["data"]["arguments"].get("phase2") else 1
        elif isinstance(event.get("step"), list) and event["step"]:
            logged.setdefault((phase, event["step"][-1]), {}).update(event["data"])
    return logged


def losses(output_dir):
    """The training loss of each logged step, in order."""
    return [values["average_loss"] for values in curve(output_dir).values()]


def summary(output_dir):
    """The last line for a whole run."""
    return [event["data"] for event in read_log(Path(output_dir) / "dllogger.json") if event.get("step") == []][-1]


def copied(finished, tmp_path):
    """A copy of a finished run's folder, to do things to."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def contents(folder):
    """Every file under a folder, if there is one, but for a lock, and what it holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def equal(a, b) -> bool:
    """Whether nested dicts, lists and tuples are the same to the last bit of their tensors."""
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_equal_checkpoints(path: Path, other: Path) -> None:
    """All that a resumed run reads is the same."""
    ours, theirs = (torch.load(file, weights_only=True) for file in (path, other))
    for part in ("model", "optimizer", "schedule", "training_step", "data_position"):
        assert equal(ours[part], theirs[part]), part
