"""What a report is made from: sweeps, runs and profiles, found in folders and read as one list of results."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.logs import Run, read_run
from benchmark.sweeps.points import FILE_NAME, Point, Repeats, by_configuration, read_points, settings
from benchmark.tables import MISSING
from common.errors import Problems, UserError
from common.json_files import read_json

LOG_NAME, PROFILE_SCHEMA = "dllogger.json", 1
# What a table or a chart of throughput is about; all other fields tell its rows or lines apart.
SUBJECT = ("workload", "model", "max_seq_length", "lengths")
DATE = re.compile(r"^\d{4}-\d\d-\d\d-")  # what a record's name begins with
# An absolute path's folders, which name a machine and who works on it; not those of an address.
FOLDERS = re.compile(r"(?<![\w./:-])/(?:[^\s\"':,;/]+/)+")


@dataclasses.dataclass
class Result:
    """All that lies in one folder that was given."""

    label: str
    points: list[Point] = dataclasses.field(default_factory=list)
    runs: list[Run] = dataclasses.field(default_factory=list)
    # Profilers' summaries, of the `kind` kernels or timeline, each with a `label`.
    profiles: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def read_results(folders: Sequence[str | Path]) -> list[Result]:
    """A result for each folder, in order, labeled by its name, and by folders above it where two have one name."""
    problems, results = Problems(), []
    for folder, label in zip(folders, _labels(folders), strict=True):
        with problems.collect():
            results.append(_read(Path(folder), label))
    problems.raise_if_any()
    return results


def _labels(folders: Sequence[str | Path]) -> list[str]:
    paths = [Path(folder).resolve().parts for folder in folders]

    def label(path: tuple[str, ...]) -> str:
        others = [other for other in paths if other != path]
        n_parts = range(1, len(path))
        ends = (n for n in n_parts if all(other[-n:] != path[-n:] for other in others))
        return "/".join(path[-next(ends, 1) :])

    labels = [label(path) for path in paths]
    undated = [DATE.sub("", each) for each in labels]
    return undated if len(set(undated)) == len(set(labels)) else labels


def without_folders(words: str) -> str:
    """Words in which each absolute path is the name of its file alone."""
    return FOLDERS.sub("", words)


def _read(folder: Path, label: str) -> Result:
    remedy = "give the folder of a sweep or of a run"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", remedy)
    files = sorted(file for file in folder.rglob("*.json*") if file.is_file())
    processes = [file.parent / "runs" for file in files if file.name == FILE_NAME]
    result = Result(label)
    for file in files:
        name = label if file.parent == folder else f"{label}/{file.parent.relative_to(folder)}"
        if file.name == FILE_NAME:
            result.points += read_points(file)
        elif file.name.endswith(("kernels.json", "timeline.json")):
            what, again = f"summary of a profile in schema {PROFILE_SCHEMA}", "make it again with benchmark/nsight.py"
            profile = read_json(file, what, again)
            if profile.get("schema") != PROFILE_SCHEMA:
                raise UserError(f"{file} is no {what}", again)
            result.profiles.append(profile | {"label": name})
        elif file.name == LOG_NAME and not any(each in file.parents for each in processes):  # no run of its own
            result.runs.append(read_run(file, name))
    if not (result.points or result.runs or result.profiles):
        raise UserError(f"{folder} has no {FILE_NAME}, {LOG_NAME}, kernels.json or timeline.json", remedy)
    return result


def measured(results: Sequence[Result]) -> list[list[Repeats]]:
    """The repeats of each configuration of each result, a list for each subject, by name and batch size."""
    groups: dict[str, list[Repeats]] = {}
    for result in results:
        for repeats in by_configuration(result.points, result.label).values():
            groups.setdefault(str([repeats.configuration.get(name) for name in SUBJECT]), []).append(repeats)
    for group in groups.values():
        several = len({repeats.label for repeats in group}) > 1
        for repeats in group:
            words = [settings(repeats.configuration), repeats.label if several else ""]
            repeats.name = ", ".join(filter(None, words)) or MISSING
        group.sort(key=lambda repeats: (repeats.name, repeats.batch_size))
    return list(groups.values())
