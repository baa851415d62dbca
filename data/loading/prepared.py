"""Which shards to train on, and whether they are what the data preparation wrote down of them.

It imports no PyTorch, since the preparation, which starts many processes, verifies its shards by the same checks.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from common.errors import Problem, Problems, UserError
from common.words import and_others, counted
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, Manifest
from data.loading.lddl.files import lddl_files
from data.loading.shard_files import REMAKE, naming_problem, open_shard, shard_files, splits_of
from file_utils import sha256_of

MAX_FILLING_ROWS = 128  # NVIDIA's vocabularies are filled up to a multiple of 8, and others to one of 64 or 128
LDDL_PHASES = MappingProxyType({128: "phase1", 512: "phase2"})
PUBLISHED_MASKED_LM_PROB = 0.15


def find_prepared(folder: Path, max_seq_length: int, max_predictions_per_seq: int, dataset: str | None = None) -> Path:
    """The folder of shards of these lengths: `folder`, or the only one, of the `dataset`, in this working folder.

    Where that has none of ours, it may be the working folder of NVIDIA's example, with LDDL's shards of each phase.
    """
    if not folder.is_dir():
        raise UserError(f"There is no data folder {folder}", "give a folder with shards")
    if shard_files(folder) or lddl_files(folder) or (folder / FILE_NAME).exists() or (folder / JOURNAL_NAME).exists():
        return folder
    lengths = f"seq_len_{max_seq_length}_max_pred_{max_predictions_per_seq}"
    prepared = sorted(path for path in folder.glob("hdf5_*/*") if path.is_dir())
    fitting = [path for path in prepared if f"_{lengths}_" in path.parent.name and dataset in (None, path.name)]
    of_lddl = [path for path in sorted(folder.glob("pretrain/phase[12]/*/parquet")) if lddl_files(path)]
    fitting = fitting or [path for path in of_lddl if path.parts[-3] == LDDL_PHASES.get(max_seq_length)]
    if len(fitting) == 1:
        return fitting[0]
    found = f"{len(fitting)} sets of shards" if fitting else "no shards"
    there = ", ".join(str(path.relative_to(folder)) for path in fitting or prepared + of_lddl) or "no hdf5_ folder"
    raise UserError(
        f"{folder} holds {found}{f' of {dataset}' if dataset else ''} with {lengths} (there: {there})",
        "give --input_dir the one to train on, or make it with data/create_datasets_from_start.sh",
    )


def prepared_shards(folder: Path, split: str, problems: Problems) -> list[Path]:
    """The .hdf5 files of a folder of a `split`, "training" or "test", by their names; all if no name says either.

    Adds to `problems` where there are none, where some names leave it open, or where they are not what a manifest says.
    """
    files = shard_files(folder)
    splits = splits_of(files)
    named = {*splits.values()} - {"all"}
    taken = [file for file in files if splits[file] == split] if named else files
    problems.extend([naming_problem(files)])
    if len(endings := sorted({file.suffix.lower() for file in files})) > 1:
        kinds = " and ".join(ending or "no ending" for ending in endings)
        problems.add(f"The shards in {folder} have names with {kinds}, as two sets of the same rows", "move one away")
    if not taken:
        problems.add(
            f"There is no .hdf5 file{f' with the word {split!r} in its name' if named else ''} in {folder}",
            "make them with data/bertPrep.py, or give another folder",
        )
    if (folder / JOURNAL_NAME).exists() and not (folder / FILE_NAME).exists():
        problems.add(f"The shards in {folder} are unfinished", "run --action create_hdf5_files to its end")
        return taken
    with problems.collect():
        manifest = read_manifest(folder)
        if manifest is None:
            return taken
        sizes = {name: path.stat().st_size for name in manifest.outputs if (path := folder / name).is_file()}
        if wrong := [name for name, record in manifest.outputs.items() if sizes.get(name) != record.bytes]:
            problems.add(
                f"{folder / wrong[0]} is missing or of another size than {FILE_NAME} says ({len(wrong)} of "
                f"{len(manifest.outputs)} files are)",
                "run --action create_hdf5_files again, which makes only these",
            )
        if strangers := sorted({file.name for file in files} - manifest.outputs.keys()):
            problems.add(
                f"{folder / strangers[0]} is not in {FILE_NAME} ({counted(len(strangers), 'such file')})",
                f"move it away, or remove {FILE_NAME} to train on all that is there",
            )
    return taken


def vocabulary_problem(folder: Path, vocab_file: str | None, vocab_size: int) -> Problem | None:
    """What is wrong with training a model of `vocab_size` tokens on these shards, or None if nothing is known to be.

    A few more rows fill a matrix up; many more are a model of other tokens, unless `vocab_file` says that they belong.
    """
    manifest = read_manifest(folder)
    vocabulary = manifest.parameters.get("vocabulary") if manifest else None
    if vocabulary and vocab_file and sha256_of(vocab_file) != vocabulary["sha256"]:
        return Problem(
            f"--vocab_file {vocab_file} is not the vocabulary that the shards in {folder} were made with", "give that"
        )
    most = math.inf if vocab_file or not vocabulary else vocabulary["size"] + MAX_FILLING_ROWS
    if vocabulary and not vocabulary["size"] <= vocab_size <= most:
        return Problem(
            f"The shards in {folder} were made with a vocabulary of {vocabulary['size']} tokens, and the model has "
            f"{vocab_size}",
            "give the --config_file that belongs to them, or their --vocab_file with an --init_checkpoint of more rows",
        )
    return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder of shards, if there is one. Raises UserError if it cannot be read."""
    path = folder / FILE_NAME
    return Manifest.read(path) if path.is_file() else None


def masked_lm_prob_of(folder: Path, parameters: Mapping[str, Any]) -> tuple[float, str]:
    """The share of tokens that a folder's shards were masked with, and who says so: its manifest's `parameters`, its
    name, or nobody, in which case it is the published one.
    """
    if (probability := parameters.get("masked_lm_prob")) is not None:
        return probability, FILE_NAME
    if named := re.search(r"masked_lm_prob_(\d*\.?\d+)", str(folder.absolute())):
        return float(named[1]), "as the folder's name says"
    return PUBLISHED_MASKED_LM_PROB, "as published"


def check_shards(files: Sequence[Path], max_seq_length: int, n_predictions: range, problems: Problems) -> np.ndarray:
    """Adds what is wrong with the files' datasets to `problems`, alike ones as one; returns their row counts, int64.

    Rows must be `max_seq_length` tokens wide, and one of `n_predictions` masked positions.
    """
    rows_per_file = np.zeros(len(files), dtype=np.int64)
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for i, file in enumerate(files):
        try:
            with open_shard(file) as datasets:
                complaints = list(_complaints(datasets, max_seq_length, n_predictions))
                rows_per_file[i] = 0 if complaints else len(datasets["input_ids"])
        except UserError as error:
            complaints = [(each.problem.removeprefix(f"{file} "), each.remedy) for each in error.problems]
        for complaint in complaints:
            found[complaint].append(file)
    for (what, remedy), where in found.items():
        problems.add(f"{where[0]}{and_others(len(where))} {what}", remedy)
    return rows_per_file


def _complaints(
    datasets: Mapping[str, h5py.Dataset], max_seq_length: int, n_predictions: range
) -> Iterator[tuple[str, str]]:
    """Yields pairs of what is wrong and its remedy, as halves of a sentence that starts with the file's name."""
    if len({len(values) for values in datasets.values()}) > 1:
        yield "has datasets with different numbers of rows", REMAKE
    n_tokens = range(max_seq_length, max_seq_length + 1)
    for names, asked, unit, flag in (
        (("input_ids", "input_mask", "segment_ids"), n_tokens, "tokens", "--max_seq_length"),
        (("masked_lm_positions", "masked_lm_ids"), n_predictions, "predictions", "--max_predictions_per_seq"),
    ):
        widths = {datasets[name].shape[1] for name in names}
        if len(widths) > 1 or not widths <= {*asked}:
            found = " and ".join(map(str, sorted(widths)))
            relation = "not of" if len(asked) == 1 else "not of at most"
            what = f"holds sequences of {found} {unit}, {relation} the {flag} {asked[-1]} asked for"
            yield what, "ask for what it holds, give another folder or make it again"
