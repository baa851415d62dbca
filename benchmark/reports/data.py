"""What a report is made from: sweeps, runs and profiles, found in folders and read as one list of results.

What only a sweep's single processes logged is not taken for a run of its own.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.reports.logs import Run, read_run
from benchmark.sweeps.points import FILE_NAME, Point, read_points
from benchmark.sweeps.repeats import Repeats, by_configuration
from common.errors import Problems, UserError
from common.json_files import read_json

LOG_NAME = "dllogger.json"
PROFILE_SCHEMA = 1
PROFILES = ("kernels", "timeline")
# What a chart of throughput is about; all other fields tell its lines apart.
SUBJECT = ("workload", "model", "max_seq_length", "lengths")
WINDOW = ("start", "stop")


@dataclasses.dataclass
class Result:
    """All that lies in one place that was given."""

    label: str
    points: list[Point] = dataclasses.field(default_factory=list)
    runs: list[Run] = dataclasses.field(default_factory=list)
    kernels: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Files of profilers' summaries, each with a `label`; `timelines` too."""
    timelines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def environments(self) -> list[dict[str, Any]]:
        """Of all measurements and runs, where it was recorded."""
        found = [point.get("environment") for point in self.points] + [run.environment for run in self.runs]
        return [environment for environment in found if environment]


def read_results(paths: Sequence[str | Path]) -> list[Result]:
    """A result for each path, in order, with labels that differ.

    Raises:
        UserError: all that is wrong with any of them.
    """
    problems = Problems()
    results = []
    for path, label in zip(paths, _labels(paths), strict=True):
        with problems.collect():
            results.append(_read(Path(path), label))
    problems.raise_if_any()
    return results


def _labels(paths: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [(Path(path).resolve().parent if Path(path).is_file() else Path(path).resolve()).parts for path in paths]
    names = ["/".join(part) for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({place})" for place, name in enumerate(names, 1)]


def _read(path: Path, label: str) -> Result:
    if not path.exists():
        raise UserError(f"there is no {path}", "give the folder of a sweep or of a run")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*.json*") if file.is_file())
    result = Result(label)
    sweeps = {file.parent for file in files if file.name == FILE_NAME or (path.is_file() and file.suffix == ".jsonl")}
    for file in files:
        profile = next((kind for kind in PROFILES if file.name.endswith(f"{kind}.json")), None)
        if file.parent in sweeps and file.suffix == ".jsonl":
            result.points += read_points(file)
        elif profile:
            summaries = result.kernels if profile == "kernels" else result.timelines
            summaries.append(_read_profile(file, profile) | {"label": label + _place(file.parent, path)})
        elif file.name == LOG_NAME or path.is_file():
            of_sweep = any(sweep / "runs" in file.parents for sweep in sweeps)
            if not of_sweep:
                result.runs.append(read_run(file, label + _place(file.parent, path)))
    if not (result.points or result.runs or result.kernels or result.timelines):
        raise UserError(
            f"{path} holds nothing to report ({FILE_NAME}, {LOG_NAME}, kernels.json or timeline.json)",
            "give the folder of a sweep or of a run",
        )
    return result


def _place(folder: Path, path: Path) -> str:
    """Where in a result something lies, to follow its label; a run's profile lies in its folder `profile`."""
    inner = folder.parent if folder.name == "profile" and folder != path else folder
    return "" if path.is_file() or inner == path else f"/{inner.relative_to(path)}"


def _read_profile(file: Path, kind: str) -> dict[str, Any]:
    remedy = "make it again with benchmark/nsight.py"
    profile = read_json(file, f"{kind} of schema {PROFILE_SCHEMA}", remedy)
    if profile.get("schema") != PROFILE_SCHEMA or profile.get("kind") != kind:
        raise UserError(f"{file} is no {kind} of schema {PROFILE_SCHEMA} (schema {profile.get('schema')})", remedy)
    return profile


def measured(results: Iterable[Result]) -> list[Repeats]:
    """The repeats of each configuration of each result, by subject, series and batch size."""
    found = [each for result in results for each in by_configuration(result.points, result.label).values()]
    return sorted(found, key=_order)


def _order(repeats: Repeats) -> tuple[Any, ...]:
    about, length = repeats.configuration, repeats.configuration.get("max_seq_length") or 0
    subject_order = str(about.get("workload")), str(about.get("model")), length, str(about.get("lengths"))
    return *subject_order, without_batch_size(about), repeats.batch_size


def without_batch_size(configuration: Mapping[str, Any]) -> str:
    """The same for all configurations that agree in all other fields."""
    return json.dumps({name: value for name, value in configuration.items() if name != "batch_size"}, sort_keys=True)


def subject_title(configuration: Mapping[str, Any]) -> str:
    """In words: model, workload and lengths."""
    workload, model, length, lengths = (configuration.get(name) for name in SUBJECT)
    words = [f"BERT-{model}" if model in ("tiny", "base", "large") else Path(model or "a model").name, workload or ""]
    words += [f"{length} tokens" if length else "", f"({lengths})" if lengths else ""]
    return " ".join(word for word in words if word)


def by_subject(found: Iterable[Repeats]) -> list[list[Repeats]]:
    """What belongs into each chart."""
    groups: dict[tuple[Any, ...], list[Repeats]] = {}
    for repeats in found:
        groups.setdefault(tuple(repeats.configuration.get(name) for name in SUBJECT), []).append(repeats)
    return list(groups.values())


def by_series(found: Iterable[Repeats]) -> dict[str, list[Repeats]]:
    """What each line of a chart leads through, by a name that says in what it differs from the other lines."""
    series: dict[tuple[str, str], list[Repeats]] = {}
    for repeats in found:
        series.setdefault((repeats.label, without_batch_size(repeats.configuration)), []).append(repeats)
    firsts = [row[0] for row in series.values()]
    varying = [
        name
        for name in sorted({name for first in firsts for name in first.configuration})
        if name not in (*SUBJECT, "batch_size", *WINDOW)
        and len({json.dumps(first.configuration.get(name)) for first in firsts}) > 1
    ]
    several = len({first.label for first in firsts}) > 1
    named: dict[str, list[Repeats]] = {}
    for first, row in zip(firsts, series.values(), strict=True):
        words = [first.label] if several else []
        words += [told for name in varying if (told := _field(name, first.configuration.get(name)))]
        name = ", ".join(words) or _field("precision", first.configuration.get("precision")) or first.label
        while name in named:
            name += "'"
        named[name] = sorted(row, key=lambda repeats: repeats.batch_size)
    return named


def _field(name: str, value: Any) -> str:
    forms = {
        "compile": "compiled" if value else "eager",
        "n_gpus": f"{value} GPU{'s' if value != 1 else ''}",
        "accumulation_steps": f"{value} micro-batches",
    }
    return "" if value in (None, "") else str(forms.get(name, value))
