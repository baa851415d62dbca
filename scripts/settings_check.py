"""What a shell script's user gave it that it does not read: NVIDIA's arguments by place, and variables with a slip.

    python3 scripts/settings_check.py SCRIPT SETTING... -- ARGUMENT...

prints a sentence for each, with what to give instead, and ends with 2 if there is one. SCRIPT is the path that the
user typed, a SETTING the name of a variable that it reads. Started by scripts/configuration.sh; it needs nothing but
Python.
"""

import difflib
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

PROJECT = Path(__file__).resolve().parent.parent
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
# NVIDIA's names, in the order of the arguments of its scripts, and the variables here; `-` marks what needs none.
PLACES = MappingProxyType(
    {
        "run_pretraining.sh": "train_batch_size=PHASE1_GLOBAL_BATCH learning_rate=PHASE1_LEARNING_RATE "
        "precision=PRECISION num_gpus=NUM_GPUS warmup_proportion=PHASE1_WARMUP train_steps=PHASE1_STEPS "
        "save_checkpoint_steps=STEPS_PER_CHECKPOINT resume_training=- create_logfile=- accumulate_gradients=- "
        "gradient_accumulation_steps=PHASE1_MICRO_BATCH seed=SEED job_name=- allreduce_post_accumulation=- "
        "allreduce_post_accumulation_fp16=REDUCE_DTYPE train_batch_size_phase2=PHASE2_GLOBAL_BATCH "
        "learning_rate_phase2=PHASE2_LEARNING_RATE warmup_proportion_phase2=PHASE2_WARMUP "
        "train_steps_phase2=PHASE2_STEPS gradient_accumulation_steps_phase2=PHASE2_MICRO_BATCH "
        "DATA_DIR_PHASE1=PHASE1_DATA_DIR DATA_DIR_PHASE2=PHASE2_DATA_DIR CODEDIR=- init_checkpoint=INIT_CHECKPOINT",
        "run_squad.sh": "init_checkpoint=INIT_CHECKPOINT epochs=EPOCHS batch_size=GLOBAL_BATCH "
        "learning_rate=LEARNING_RATE warmup_proportion=WARMUP precision=PRECISION num_gpu=NUM_GPUS seed=SEED "
        "squad_dir=SQUAD_DIR vocab_file=VOCAB_FILE OUT_DIR=OUTPUT_DIR mode=MODE CONFIG_FILE=CONFIG_FILE "
        "max_steps=MAX_STEPS",
        "run_glue.sh": "init_checkpoint=INIT_CHECKPOINT data_dir=DATA_DIR vocab_file=VOCAB_FILE "
        "config_file=CONFIG_FILE out_dir=OUTPUT_DIR task_name=GLUE_TASKS num_gpu=NUM_GPUS batch_size=GLOBAL_BATCH "
        "gradient_accumulation_steps=MICRO_BATCH learning_rate=LEARNING_RATE warmup_proportion=WARMUP epochs=EPOCHS "
        "max_steps=MAX_STEPS precision=PRECISION seed=SEEDS mode=MODE",
        "create_datasets_from_start.sh": "to_download=CORPUS",
    }
)
WORDS = MappingProxyType(
    {
        ("REDUCE_DTYPE", "true"): "fp16",
        ("REDUCE_DTYPE", "false"): "",
        ("MAX_STEPS", "-1"): "",
        ("MAX_STEPS", "-1.0"): "",
        ("MODE", "eval"): "predict eval",
        ("MODE", "train eval"): "train predict eval",
        ("INIT_CHECKPOINT", "None"): "",
        ("CORPUS", "wiki_only"): "wikicorpus_en",
        ("CORPUS", "wiki_books"): "books_wiki_en_corpus",
    }
)
LIKENESS = 0.885  # of a name to a setting's, above which it is taken for a slip


def mistakes(script: str, settings: Sequence[str], words: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
    """What is wrong, and what to give instead.

    Args:
        settings: names of the variables that the script reads.
        words: its arguments.
        variables: the environment.
    """
    places = dict(pair.split("=") for pair in PLACES.get(Path(script).name, "").split())
    by_place = list(itertools.takewhile(lambda word: not re.match("-[^0-9]", word), words)) if places else []
    names = list(places)
    if "warmup_proportion" in names and by_place[4:5] and by_place[4] in PRECISIONS:
        names.remove("warmup_proportion")  # NVIDIA's first run_squad.sh had none
    if names[12:13] == ["max_steps"] and by_place[12:13] and by_place[12] in PRECISIONS:
        names.remove("max_steps")  # a line of NVIDIA's page on GLUE leaves it out
    by_name = {name: variables[name] for name in names if name.islower() and name in variables}
    if by_place or by_name:
        theirs = by_name | dict(zip(names, by_place, strict=False))
        ours = translated(theirs, places, variables.get("NUM_GPUS", ""))
        own = [f"{name}={shlex.quote(value)}" for name, value in ours.items()]
        instead = " ".join([*own, "bash", shlex.quote(script), *map(shlex.quote, words[len(by_place) :])])
        if by_name:
            instead = f"unset {' '.join(by_name)}; {instead}"
        given = ", ".join(f"{name} {value}" for name, value in theirs.items())
        yield f"{given}: these are settings of NVIDIA's script, and here they have other names; give {instead}"
    scripts = itertools.chain.from_iterable(map(PROJECT.glob, ("*.sh", "scripts/*.sh", "scripts/*.slurm", "data/*.sh")))
    known = {name for path in scripts for name in settings_of(path)}
    for name in sorted(variables.keys() - known - by_name.keys()):
        likeness = LIKENESS if "_" in name or len(name) > 7 else 1.0  # short words are alike by chance
        if close := difflib.get_close_matches(name.upper(), settings, 1, likeness):
            yield f"{name} is set, and {script} does not read it; set {close[0]}, or take it away: unset {name}"


def settings_of(script: Path) -> list[str]:
    """The variables that a script takes from the environment."""
    return re.findall(r"\b([A-Z][A-Z0-9_]*)=\$\{\1:?-", script.read_text(encoding="utf-8"))


def translated(theirs: Mapping[str, str], places: Mapping[str, str], n_gpus: str) -> dict[str, str]:
    """The variables here for NVIDIA's settings: batches are of all GPUs, and divided into micro-batches."""
    ours = {places[name]: value for name, value in theirs.items() if places[name] != "-"}
    n_gpus = ours.get("NUM_GPUS", n_gpus)
    for name, value in ours.items():
        is_of_glue = name == "MODE" and "task_name" in places
        ours[name] = value.replace("prediction", "predict") if is_of_glue else WORDS.get((name, value), value)
    for phase in ("PHASE1_", "PHASE2_", ""):
        batch, accumulated = ours.get(f"{phase}GLOBAL_BATCH", ""), ours.pop(f"{phase}MICRO_BATCH", "")
        if batch.isdecimal() and n_gpus.isdecimal():
            ours[f"{phase}GLOBAL_BATCH"] = str(int(batch) * int(n_gpus))
        if batch.isdecimal() and accumulated.isdecimal():
            ours[f"{phase}MICRO_BATCH"] = str(int(batch) // max(int(accumulated), 1))
    return {name: value for name, value in ours.items() if value}


if __name__ == "__main__":
    _, path, *rest = sys.argv
    end = rest.index("--")
    found = list(mistakes(path, rest[:end], rest[end + 1 :], os.environ))
    print(*(f"{sentence}." for sentence in found), sep="\n")
    sys.exit(2 if found else 0)
