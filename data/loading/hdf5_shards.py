"""Finding, checking and reading pre-training shards: one HDF5 file each, written by our scripts or by NVIDIA's.

Everything that shapes and types can tell is checked for all files before any work, since reading them whole would take
minutes; what only the contents can tell is checked once per file, when it is read.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from common.errors import Problems, UserError
from data.loading.flat_batch import PaddedSamples
from data.masked_lm.instances import DATASETS

REMAKE = "make it again with data/bertPrep.py --action create_hdf5_files"


def find_shards(folder: str | os.PathLike, split: str, problems: Problems) -> list[Path]:
    """Returns the .hdf5 files of a folder, sorted by name: those with `split`, "training" or "test", in their name.

    Training and test shards lie side by side, as NVIDIA's scripts leave them. If no name holds either word, all are
    taken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problems.add(f"There is no data folder {folder}", "give a folder with .hdf5 files")
        return []
    files = sorted(file for file in folder.glob("*.hdf5") if not file.name.startswith("."))
    if not files:
        problems.add(f"There is no .hdf5 file in {folder}", "make them with data/bertPrep.py, or give another folder")
        return []
    if not any("training" in file.name or "test" in file.name for file in files):
        return files
    named = [file for file in files if split in file.name]
    problems.check(named, f"No .hdf5 file in {folder} has '{split}' in its name", "give another folder")
    return named


def check_shards(
    files: Sequence[Path], max_seq_length: int, max_predictions_per_seq: int, problems: Problems
) -> np.ndarray:
    """Adds what is wrong with the files' datasets to `problems`, alike ones as one; returns their row counts, int64."""
    rows_per_file = np.zeros(len(files), dtype=np.int64)
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for i, file in enumerate(files):
        try:
            with h5py.File(file, "r") as shard:
                complaints = _shape_complaints(shard, max_seq_length, max_predictions_per_seq)
                if not complaints:
                    rows_per_file[i] = len(shard["input_ids"])
        except OSError as error:
            complaints = [(f"cannot be read as HDF5 ({error})", REMAKE)]
        for complaint in complaints:
            found[complaint].append(file)
    for (what, remedy), where in found.items():
        others = f" (as do {len(where) - 1} others)" if len(where) > 1 else ""
        problems.add(f"{where[0]}{others} {what}", f"{remedy}")
    return rows_per_file


def _shape_complaints(shard: h5py.File, max_seq_length: int, max_predictions_per_seq: int) -> list[tuple[str, str]]:
    """Returns pairs of what is wrong and its remedy, as halves of a sentence that starts with the file's name."""
    missing = [name for name in DATASETS if not isinstance(shard.get(name), h5py.Dataset)]
    if missing:
        return [(f"lacks the dataset {', '.join(missing)}", f"give pre-training shards, or {REMAKE}")]
    complaints = []
    for name, n_dimensions in DATASETS.items():
        if shard[name].ndim != n_dimensions:
            complaints.append((f"holds {name} with {shard[name].ndim} dimensions instead of {n_dimensions}", REMAKE))
        if shard[name].dtype.kind not in "iu":
            complaints.append((f"holds {name} as {shard[name].dtype} instead of integers", REMAKE))
    if complaints:
        return complaints

    if len({len(shard[name]) for name in DATASETS}) > 1:
        complaints.append(("has datasets with different numbers of rows", REMAKE))
    for names, asked, unit, flag in (
        (("input_ids", "input_mask", "segment_ids"), max_seq_length, "tokens", "--max_seq_length"),
        (("masked_lm_positions", "masked_lm_ids"), max_predictions_per_seq, "predictions", "--max_predictions_per_seq"),
    ):
        widths = {shard[name].shape[1] for name in names}
        if len(widths) > 1:
            complaints.append((f"has different widths of {', '.join(names)}", REMAKE))
        elif widths != {asked}:
            width = widths.pop()
            complaints.append(
                (
                    f"holds sequences of {width} {unit}, not of the {flag} {asked} asked for",
                    f"ask for {flag} {width} or give another folder",
                )
            )
    return complaints


def read_shard(file: Path, vocab_size: int | None = None) -> PaddedSamples:
    """Reads a whole shard, of any integer types.

    A masked position counts as real if its place is before the number of positions that are not zero: position 0 is
    [CLS], which is never masked, and NVIDIA's files, as ours, are padded with zeros.

    Raises:
        UserError: the file cannot be read, or an id, mask or position in it is impossible.
    """
    try:
        with h5py.File(file, "r") as shard:
            values = {name: shard[name][:] for name in DATASETS}
    except (OSError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error})", f"{REMAKE}") from error

    for name in ("input_ids", "masked_lm_ids"):
        _check_range(file, name, values[name], vocab_size, "give the --vocab_file and --config_file it was made with")
    for name in ("segment_ids", "next_sentence_labels"):
        _check_range(file, name, values[name], 2, REMAKE)

    lengths = np.count_nonzero(values["input_mask"], axis=1)
    is_real = np.arange(values["input_mask"].shape[1]) < lengths[:, None]
    wrong = (values["input_mask"] != is_real).any(axis=1) | (lengths == 0)
    if wrong.any():
        raise UserError(f"Row {wrong.argmax()} of input_mask in {file} is not ones followed by zeros", f"{REMAKE}")

    positions = values["masked_lm_positions"]
    n_masked = np.count_nonzero(positions, axis=1)
    is_masked = np.arange(positions.shape[1]) < n_masked[:, None]
    wrong = ((positions != 0) != is_masked).any(axis=1) | ((positions < 0) | (positions >= lengths[:, None])).any(
        axis=1
    )
    if wrong.any():
        raise UserError(
            f"Row {wrong.argmax()} of masked_lm_positions in {file} has a zero before a position, or a position "
            "outside its sequence",
            f"{REMAKE}",
        )

    return PaddedSamples(
        input_ids=values["input_ids"].astype(np.int32, copy=False),
        segment_ids=values["segment_ids"].astype(np.int8, copy=False),
        lengths=lengths.astype(np.int32),
        masked_lm_positions=positions.astype(np.int32, copy=False),
        masked_lm_ids=values["masked_lm_ids"].astype(np.int32, copy=False),
        n_masked=n_masked.astype(np.int32),
        next_sentence_labels=values["next_sentence_labels"].astype(np.int8, copy=False),
    )


def _check_range(file: Path, name: str, values: np.ndarray, limit: int | None, remedy: str) -> None:
    if values.size == 0:
        return
    limit = 2**31 if limit is None else limit
    for value in (values.min(), values.max()):
        if not 0 <= value < limit:
            raise UserError(f"{file} holds {value} in {name}, which takes 0 to {limit - 1}", f"{remedy}")
