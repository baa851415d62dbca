"""SQuAD's files, and the weights of BERT that Google published.

Google's archives never change, so the sums of the files in them are known (common/published_models.py), and a folder of
weights appears only when all of them fit.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.json_files import read_json
from common.published_models import PRETRAINED_MODELS
from data.artifacts.manifest import FileRecord
from data.artifacts.stage_output import Preparation
from data.downloaders.folder import DownloadFolder, DownloadOptions, link_or_copy
from file_utils import cached_path, unpack

SQUAD_VERSIONS = ("v1.1", "v2.0")


def download_weights(preparation: Preparation, name: str, options: DownloadOptions) -> str:
    """Put one of Google's models, by its name in `PRETRAINED_MODELS`, into its folder; returns what was done.

    Raises:
        UserError: it cannot be had, or its files are not the published ones.
    """
    model = PRETRAINED_MODELS[name]
    address = f"{options.weights_mirror}/{model.archive}"
    target = DownloadFolder(preparation, preparation.layout.download / model.folder, address)
    if target.finished():
        return f"{name} was downloaded before and is as it was: {target.folder}"
    archive = cached_path(address, target.cache, name=f"{model.folder}.zip")

    def take_published_files(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
        unpacked_folder = new.parent / "unpacked"
        unpack(archive, unpacked_folder)
        outputs = {}
        for file, expected in model.sha256.items():
            unpacked = unpacked_folder / model.folder / file
            found = FileRecord.of(unpacked) if unpacked.is_file() else None
            if found is None or found.sha256 != expected:
                archive.unlink()
                what = f"with SHA-256 {found.sha256}" if found else "missing"
                raise UserError(
                    f"{file} in {address} is {what}, and {expected} was published", "the archive was removed, try again"
                )
            os.replace(unpacked, new / file)
            outputs[file] = found
        return outputs, {}

    manifest = target.fill(take_published_files)
    return f"{name}: {len(manifest.outputs)} files, as published, in {target.folder}"


def download_squad(preparation: Preparation, options: DownloadOptions) -> str:
    """Put SQuAD v1.1 and v2.0 into folders of these names, from the network or a folder; returns what was done.

    Raises:
        UserError: a file cannot be had, or is no SQuAD of its version.
    """
    names = [f"{version}/{part}-{version}.json" for version in SQUAD_VERSIONS for part in ("train", "dev")]
    local = {name: _local_file(Path(options.source), name) for name in names} if options.source else {}
    records = preparation.records(local.values(), "checking SQuAD")
    source = "a local folder" if options.source else options.squad_mirror
    inputs = {name: records[path] for name, path in local.items()}
    target = DownloadFolder(preparation, preparation.layout.download, source, inputs)
    if target.finished():
        return f"SQuAD was downloaded before and is as it was: {target.folder}"

    def take_all_files(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
        outputs = {}
        for name in names:
            version, _, file_name = name.partition("/")
            # The published addresses have no folder for the version.
            path = local.get(name) or cached_path(f"{options.squad_mirror}/{file_name}", target.cache, name=file_name)
            n_questions = _count_questions(path, version)
            link_or_copy(path, new / name)
            outputs[name] = FileRecord.of(new / name, questions=n_questions)
        return outputs, {}

    manifest = target.fill(take_all_files)
    return f"SQuAD v1.1 and v2.0: {len(manifest.outputs)} files in {target.folder}"


def _local_file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / name.partition("/")[2]):
        if path.is_file():
            return path
    raise UserError(
        f"There is no {name.partition('/')[2]} in {folder}", "give --source a folder with SQuAD's four files"
    )


def _count_questions(path: Path, version: str) -> int:
    """The number of questions; raises UserError if this is no SQuAD of that version."""
    remedy = "get it again, or give a folder by --source"
    squad = read_json(path, "SQuAD file", remedy)
    try:
        found = squad["version"]
        n_questions = sum(len(paragraph["qas"]) for article in squad["data"] for paragraph in article["paragraphs"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no SQuAD file ({error!r})", remedy) from error
    if found not in (version, version.removeprefix("v")):
        raise UserError(f"{path} is SQuAD of version {found}, not {version}", "give the right file")
    return n_questions
