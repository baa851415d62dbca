"""Which shards to train on, and whether they are what the data preparation wrote down of them."""

from pathlib import Path

from common.errors import Problem, Problems, UserError
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, Manifest
from file_utils import sha256_of


def find_prepared(folder: Path, max_seq_length: int, max_predictions_per_seq: int, dataset: str | None = None) -> Path:
    """The folder of shards of these lengths: `folder`, or the only one, of the `dataset`, in this working folder."""
    if not folder.is_dir():
        raise UserError(f"There is no data folder {folder}", "give a folder with .hdf5 files")
    if any(folder.glob("*.hdf5")) or (folder / FILE_NAME).exists() or (folder / JOURNAL_NAME).exists():
        return folder
    lengths = f"seq_len_{max_seq_length}_max_pred_{max_predictions_per_seq}"
    prepared = sorted(path for path in folder.glob("hdf5_*/*") if path.is_dir())
    fitting = [path for path in prepared if f"_{lengths}_" in path.parent.name and dataset in (None, path.name)]
    if len(fitting) == 1:
        return fitting[0]
    found = f"{len(fitting)} sets of shards" if fitting else "no shards"
    there = ", ".join(str(path.relative_to(folder)) for path in fitting or prepared) or "no hdf5_ folder"
    raise UserError(
        f"{folder} holds {found}{f' of {dataset}' if dataset else ''} with {lengths} (there: {there})",
        "give --input_dir the one to train on, or make it with data/create_datasets_from_start.sh",
    )


def prepared_shards(folder: Path, split: str, problems: Problems) -> list[Path]:
    """The .hdf5 files of a folder with `split`, "training" or "test", in their names; all if no name has either word.

    Adds to `problems` where there are none, or where they are not what a manifest says.
    """
    files = sorted(file for file in folder.glob("*.hdf5") if not file.name.startswith("."))
    named = any("training" in file.name or "test" in file.name for file in files)
    taken = [file for file in files if split in file.name] if named else files
    if not taken:
        problems.add(
            f"There is no .hdf5 file{f' with {split!r} in its name' if named else ''} in {folder}",
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
                f"{folder / strangers[0]} is not in {FILE_NAME} ({len(strangers)} such files)",
                f"move it away, or remove {FILE_NAME} to train on all that is there",
            )
    return taken


def vocabulary_problem(folder: Path, vocab_file: str | None, vocab_size: int) -> Problem | None:
    """What is wrong with training a model of `vocab_size` tokens on these shards, or None if nothing is known to be."""
    manifest = read_manifest(folder)
    vocabulary = manifest.parameters.get("vocabulary") if manifest else None
    if vocabulary and vocab_file and sha256_of(vocab_file) != vocabulary["sha256"]:
        return Problem(
            f"--vocab_file {vocab_file} is not the vocabulary that the shards in {folder} were made with", "give that"
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
