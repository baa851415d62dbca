"""What the preparation begins with, from the network or from this machine: documents, SQuAD, GLUE, Google's weights."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.addresses import below, shown
from common.errors import Problem, UserError
from common.json_files import read_json
from common.published_models import FILES, PRETRAINED_MODELS
from data.artifacts.layout import BOTH, GLUE, GLUE_FOLDERS, SQUAD, WEIGHTS
from data.artifacts.stage_output import Preparation
from data.document_sources import COMBINED, document_sources
from data.downloaders.folder import DownloadOptions, checked_file, download_folder, link_or_copy
from data.downloaders.glue import take_glue
from file_utils import sha256_of, unpack

ALL = "all"
SQUAD_FILES = ("v1.1/train-v1.1.json", "v1.1/dev-v1.1.json", "v2.0/train-v2.0.json", "v2.0/dev-v2.0.json")
OTHER_DOWNLOADS = tuple((SQUAD, GLUE, *GLUE_FOLDERS, WEIGHTS, ALL))  # noqa: C409  # besides documents
WITH_SOURCE = "bookscorpus"  # whose `--source` is given with `all`; everything else there is published


def download_problems(dataset: str, options: DownloadOptions) -> Iterator[Problem | None]:
    """What is wrong with the options, before anything is downloaded; None is nothing."""
    source = options.source
    if not 0 <= options.max_failed_share <= 1:
        yield Problem(f"--max_failed_share {options.max_failed_share} must lie in [0, 1].")
    if options.more_sources and not (dataset in document_sources() and document_sources()[dataset].takes_several):
        several = " ".join(map(shown, (source, *options.more_sources)))
        yield Problem(f"--source {several} are several, and {dataset} has one source", "give one")
    if dataset == SQUAD and source and not Path(source).is_dir():
        yield Problem(f"--source {source} is no folder", "leave it out, or give one with SQuAD's four files")
    if dataset in (WEIGHTS, GLUE, *GLUE_FOLDERS) and source:
        yield Problem(f"--source {source} is not for {dataset}, which has one source", "leave it out")
    if documents := document_sources().get(WITH_SOURCE if dataset == ALL else dataset):
        yield from documents.problems(options)


def download(preparation: Preparation, options: DownloadOptions) -> Iterator[str]:
    """Download the layout's dataset; a line for each thing that was got. Raises UserError where it cannot be had."""
    dataset, folder = preparation.layout.dataset, preparation.layout.download
    if dataset == ALL:
        for each in (SQUAD, WEIGHTS, *reversed(COMBINED[BOTH])):
            layout = dataclasses.replace(preparation.layout, dataset=each)
            of_each = options if each == WITH_SOURCE else dataclasses.replace(options, source=None)
            yield from download(dataclasses.replace(preparation, layout=layout), of_each)
    elif dataset == SQUAD:
        local = {name: _find(options.source, name) for name in SQUAD_FILES} if options.source else {}
        asked = "a local folder" if options.source else shown(options.squad_mirror)
        make = functools.partial(_take_squad, local=local, mirror=options.squad_mirror)
        yield download_folder(preparation, folder, "SQuAD", asked, make, local)
    elif dataset == GLUE:
        for task in GLUE_FOLDERS:
            layout = dataclasses.replace(preparation.layout, dataset=task)
            yield from download(dataclasses.replace(preparation, layout=layout), options)
    elif dataset in GLUE_FOLDERS:
        mirror, name = options.glue_mirror, GLUE_FOLDERS[dataset]
        make = functools.partial(take_glue, task=dataset, folder=name, mirror=mirror)
        yield download_folder(preparation, folder, f"GLUE's {name}", shown(mirror), make)
    elif dataset == WEIGHTS:
        for name in options.models:
            address = below(options.weights_mirror, PRETRAINED_MODELS[name].archive)
            make = functools.partial(_take_weights, name=name, address=address)
            yield download_folder(preparation, folder / PRETRAINED_MODELS[name].folder, name, shown(address), make)
    else:
        yield document_sources()[dataset].download(preparation, options)


def _find(folder: str, name: str) -> Path:
    file_name = name.rpartition("/")[2]
    if found := next(Path(folder).rglob(file_name), None):
        return found
    raise UserError(f"There is no {file_name} in {folder}", "give --source a folder with SQuAD's four files")


def _take_squad(new: Path, pieces: Path, local: Mapping[str, Path], mirror: str) -> Mapping[str, Any]:
    for name in SQUAD_FILES:
        version, file_name = name.split("/")
        address = os.fspath(local[name]) if local else below(mirror, file_name)
        with checked_file(address, pieces, file_name) as path:
            found = read_json(path, "SQuAD file", "").get("version")
            if found not in (version, version.removeprefix("v")):
                raise UserError(f"{path}, from {shown(address)}, is SQuAD of version {found}, not {version}")
            link_or_copy(path, new / name)
    return {}


def _take_weights(new: Path, pieces: Path, name: str, address: str) -> Mapping[str, Any]:
    model = PRETRAINED_MODELS[name]
    with checked_file(address, pieces, f"{model.folder}.zip") as archive:
        unpacked = new.parent / "unpacked"
        unpack(archive, unpacked)
        for file in FILES:
            if (unpacked / model.folder / file).is_file():
                os.replace(unpacked / model.folder / file, new / file)
        sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(new.iterdir()))
        if hashlib.sha256(sums.encode()).hexdigest() != model.sha256:
            found = f"their SHA-256 are {sums.split()}"
            raise UserError(f"The files in {shown(address)} are not those that were published, {found}")
    return {}
