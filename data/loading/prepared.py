"""Which shards to train on, from what the data preparation wrote down.

A trainer with a default path of its own trains on nothing, or on the wrong thing, as soon as the preparation was called
with another shard count, vocabulary or seed. Here the folder is looked up by what it holds, and its manifest is held
against the files: a preparation that was killed, a shard that was lost on the way to another machine, a vocabulary that
is not the one the shards were made with are found before training and not after it.
"""

from pathlib import Path
from typing import Any

from common.errors import Problem, Problems, UserError
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, Manifest
from data.loading.hdf5_shards import find_shards
from file_utils import sha256_of


def find_prepared(folder: Path, max_seq_length: int, max_predictions_per_seq: int, dataset: str | None = None) -> Path:
    """The folder of shards of these lengths: `folder`, or the one under it, as the preparation's working folder has.

    Args:
        dataset: which corpus to take, where there are several.

    Raises:
        UserError: there is none, or more than one.
    """
    if not folder.is_dir():
        raise UserError(f"There is no data folder {folder}", "give a folder with .hdf5 files")
    if any(folder.glob("*.hdf5")) or (folder / FILE_NAME).exists() or (folder / JOURNAL_NAME).exists():
        return folder
    lengths = f"seq_len_{max_seq_length}_max_pred_{max_predictions_per_seq}"
    prepared = sorted(path for path in folder.glob("hdf5_*/*") if path.is_dir())
    fitting = [path for path in prepared if f"_{lengths}_" in path.parent.name and dataset in (None, path.name)]
    if len(fitting) == 1:
        return fitting[0]
    of_dataset = f" of {dataset}" if dataset else ""
    if fitting:
        raise UserError(
            f"{folder} holds {len(fitting)} sets of shards{of_dataset} with {lengths} "
            f"({', '.join(str(path.relative_to(folder)) for path in fitting)})",
            "give --input_dir the one to train on",
        )
    there = f"only {', '.join(str(path.relative_to(folder)) for path in prepared)}" if prepared else "no hdf5_ folder"
    raise UserError(
        f"{folder} holds no .hdf5 files and no shards{of_dataset} with {lengths}, {there}",
        "make them with data/create_datasets_from_start.sh, or give --input_dir a folder of shards",
    )


def prepared_shards(folder: Path, split: str, problems: Problems) -> list[Path]:
    """The shards of a split, as `find_shards` has them; adds to `problems` where they are not what a manifest says."""
    files = find_shards(folder, split, problems)
    if (folder / JOURNAL_NAME).exists() and not (folder / FILE_NAME).exists():
        problems.add(f"The shards in {folder} are unfinished", "run --action create_hdf5_files to its end")
        return files
    with problems.collect():
        manifest = read_manifest(folder)
        if manifest is None:
            return files
        if wrong := list(changed_files(folder, manifest)):
            problems.add(
                f"{folder / wrong[0]} is missing or of another size than {FILE_NAME} says ({len(wrong)} of "
                f"{len(manifest.outputs)} files are)",
                "run --action create_hdf5_files again, which makes only these",
            )
        strangers = sorted({file.name for file in folder.glob("*.hdf5")} - manifest.outputs.keys())
        if strangers:
            problems.add(
                f"{folder / strangers[0]} is not in {FILE_NAME} ({len(strangers)} such files)",
                f"move it away, or remove {FILE_NAME} to train on all that is there",
            )
    return files


def changed_files(folder: Path, manifest: Manifest) -> dict[str, int | None]:
    """The files that are not of the size that the folder's manifest says: their size, or None for a lost one."""
    sizes = {name: path.stat().st_size if (path := folder / name).is_file() else None for name in manifest.outputs}
    return {name: size for name, size in sizes.items() if size != manifest.outputs[name].bytes}


def vocabulary_problem(folder: Path, vocab_file: str | None, vocab_size: int) -> Problem | None:
    """What is wrong with training a model of `vocab_size` tokens on these shards, or None if nothing is known to be."""
    manifest = read_manifest(folder)
    vocabulary: dict[str, Any] = dict(manifest.parameters.get("vocabulary", {})) if manifest else {}
    if vocab_file and vocabulary and sha256_of(Path(vocab_file)) != vocabulary["sha256"]:
        return Problem(
            f"--vocab_file {vocab_file} is not the vocabulary that the shards in {folder} were made with, as "
            f"{FILE_NAME} there says",
            "give that one",
        )
    if vocabulary and vocabulary["size"] > vocab_size:
        return Problem(
            f"The shards in {folder} were made with a vocabulary of {vocabulary['size']} tokens, and the model has "
            f"{vocab_size}",
            "give the --vocab_file and --config_file that belong to them",
        )
    return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder of shards, if there is one. Raises UserError if it cannot be read."""
    path = folder / FILE_NAME
    return Manifest.read(path) if path.is_file() else None
