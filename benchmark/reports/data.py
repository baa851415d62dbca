"""What a report is made from: sweeps, runs and profiles, found in folders and read as one list of results.

A report must work on whatever a machine could measure. So nothing here but the configuration is required of a point,
what is absent stays absent (None), and what only a sweep's single processes logged is not taken for a run of its own.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.summarize import read_events
from benchmark.sweeps.points import FILE_NAME, Point, read_points
from benchmark.tables import number
from common.errors import Problems, UserError
from common.json_files import read_json

LOG_NAME = "dllogger.json"
PROFILE_SCHEMA = 1
PROFILES = ("kernels", "timeline")
# What a chart of throughput is about; all other fields tell its lines apart.
SUBJECT = ("workload", "model", "max_seq_length", "lengths")
WINDOW = ("start", "stop")


@dataclasses.dataclass
class Run:
    """A training run, from its log."""

    label: str
    curves: dict[str, list[tuple[int, float]]]
    """By phase and name, such as "phase 1 average_loss": optimizer step and value, NaN included, in rising order."""
    environment: dict[str, Any]
    rates: dict[str, float]
    """Sequences per second by phase, of the last start that measured them."""


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
    for path, label in zip(paths, labels(paths), strict=True):
        with problems.collect():
            results.append(_read(Path(path), label))
    problems.raise_if_any()
    return results


def labels(paths: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [(Path(path).resolve().parent if Path(path).is_file() else Path(path).resolve()).parts for path in paths]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{names[place]} ({place + 1})" for place in range(len(names))]


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
            _add_profile(result, file, profile, label + _place(file.parent, path))
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


def _add_profile(result: Result, file: Path, kind: str, label: str) -> None:
    remedy = "make it again with benchmark/nsight.py"
    profile = read_json(file, f"{kind} of schema {PROFILE_SCHEMA}", remedy)
    schema = profile.get("schema")
    if schema != PROFILE_SCHEMA or profile.get("kind") != kind:
        raise UserError(f"{file} is no {kind} of schema {PROFILE_SCHEMA} (schema {schema})", remedy)
    (result.kernels if kind == "kernels" else result.timelines).append(profile | {"label": label})


def read_run(file: Path, label: str) -> Run:
    """A run's curves; where a start went on from a checkpoint, the steps after that count as made the second time.

    Raises:
        UserError: the file cannot be read, or is not a log.
    """
    curves: dict[str, dict[int, float]] = {}
    run = Run(label, {}, {}, {})
    phase = "phase 1"
    for event in read_events(file):
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG" or not isinstance(data, dict):
            continue
        if step == "PARAMETER":
            run.environment = data.get("environment") or run.environment
            arguments = data.get("arguments") or {}
            phase = _phase(arguments)
            if arguments.get("do_train", True):
                _start_again(run, curves, phase, data.get("first_step") or 0)
        elif step == []:
            rate = number(data.get("sequences_per_second"))
            if rate is not None:
                run.rates[phase] = rate
        else:
            at = step[-1] if isinstance(step, list) else step
            for name in ("average_loss", "learning_rate"):
                value = number(data.get(name))
                if isinstance(at, int) and value is not None:
                    curves.setdefault(f"{phase} {name}", {})[at] = value
    run.curves = {name: sorted(curve.items()) for name, curve in curves.items() if curve}
    return run


def _start_again(run: Run, curves: dict[str, dict[int, float]], phase: str, first_step: int) -> None:
    """Forget of a phase what a process that trains on from `first_step` makes anew."""
    for name in curves:
        if name.startswith(f"{phase} "):
            curves[name] = {at: value for at, value in curves[name].items() if at <= first_step}
    if first_step == 0:
        run.rates.pop(phase, None)


def _phase(arguments: Mapping[str, Any]) -> str:
    if "train_file" in arguments:
        return "SQuAD"
    return "phase 2" if arguments.get("phase2") else "phase 1"


@dataclasses.dataclass
class Bar:
    """The repeats of one configuration of one result: what a row of a table and a mark of a chart is made from."""

    label: str
    configuration: dict[str, Any]
    points: list[Point]

    def values(self, name: str) -> list[float]:
        """A figure of every repeat that was measured and has it."""
        found = [number((point.get("measured") or {}).get(name)) for point in self.points if point["status"] == "ok"]
        return [value for value in found if value is not None and math.isfinite(value)]

    def median(self, name: str) -> float | None:
        values = self.values(name)
        return statistics.median(values) if values else None

    @property
    def rates_per_gpu(self) -> list[float]:
        """Sequences per second and GPU of the repeats."""
        given = self.values("sequences_per_second_per_gpu")
        return given or [rate / self.n_gpus for rate in self.values("sequences_per_second")]

    @property
    def n_gpus(self) -> int:
        return self.configuration.get("n_gpus") or 1

    @property
    def hardware(self) -> str | None:
        """The GPU that was measured, or the CPU where there was none; None where that was not recorded."""
        environment = next((point["environment"] for point in self.points if point.get("environment")), {})
        gpus = environment.get("gpus") or []
        return str(gpus[0]) if gpus else environment.get("cpu")

    @property
    def unit(self) -> str:
        """What a rate and a batch are per: a GPU, or a process where there is none."""
        known = [point["environment"] for point in self.points if point.get("environment")]
        return "process" if known and not any(environment.get("gpus") for environment in known) else "GPU"

    @property
    def batch_size(self) -> int | None:
        return self.configuration.get("batch_size")

    @property
    def problem(self) -> str | None:
        """Why the rate must not be believed: what a fast wrong run lost."""
        found = [(point.get("measured") or {}).get("loss_problem") for point in self.points]
        return next((problem for problem in found if problem), None)

    @property
    def status(self) -> str:
        """ "ok" where anything was measured and is right, else "wrong", "out of memory" or "failed"."""
        if self.problem:
            return "wrong"
        states = [point["status"] for point in self.points]
        return next(name for name in ("ok", "out_of_memory", "failed") if name in states).replace("_", " ")

    @property
    def state(self) -> str:
        """The status, and how many of the repeats ended otherwise: a median of what is left must not hide them."""
        ended = [point["status"].replace("_", " ") for point in self.points]
        others = {name: ended.count(name) for name in ("out of memory", "failed") if name in ended}
        others.pop(self.status, None)
        return ", ".join([self.status, *(f"{count} {name}" for name, count in others.items())])

    @property
    def error(self) -> str | None:
        return next((point["error"] for point in self.points if point.get("error")), None)

    @property
    def utilisation(self) -> float | None:
        fractions = [(point.get("utilisation") or {}).get("fraction") for point in self.points]
        known = [fraction for fraction in map(number, fractions) if fraction is not None]
        return statistics.median(known) if known else None

    @property
    def share_of_products(self) -> float | None:
        """Of what the encoder's products reached by themselves in the same processes."""
        fractions = [(point.get("measured_peak") or {}).get("fraction") for point in self.points]
        known = [fraction for fraction in map(number, fractions) if fraction is not None]
        return statistics.median(known) if known else None

    @property
    def slowed_by(self) -> set[str]:
        """The driver's reasons for lower clocks that were seen."""
        seen = (((point.get("measured") or {}).get("gpu") or {}).get("throttle_reasons") for point in self.points)
        return {reason for reasons in seen for reason in reasons or ()}

    @property
    def peak(self) -> str | None:
        peaks = [(point.get("utilisation") or {}).get("peak") for point in self.points]
        return next((peak for peak in peaks if peak), None)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds per step by part, medians over the repeats."""
        found: dict[str, list[float]] = {}
        for point in self.points:
            for name, seconds in ((point.get("measured") or {}).get("part_seconds") or {}).items():
                if number(seconds) is not None:
                    found.setdefault(name, []).append(seconds)
        return {name: statistics.median(values) for name, values in found.items()}


def bars(results: Iterable[Result]) -> list[Bar]:
    """One for each configuration of each result, by subject, series and batch size."""
    found: dict[str, Bar] = {}
    for place, result in enumerate(results):
        for point in result.points:
            key = json.dumps([place, point["configuration"]], sort_keys=True)
            found.setdefault(key, Bar(result.label, point["configuration"], [])).points.append(point)
    return sorted(found.values(), key=_order)


def _order(bar: Bar) -> tuple[Any, ...]:
    about, length = bar.configuration, bar.configuration.get("max_seq_length") or 0
    subject_order = str(about.get("workload")), str(about.get("model")), length, str(about.get("lengths"))
    return *subject_order, without(about, "batch_size"), bar.batch_size or 0


def without(configuration: Mapping[str, Any], *names: str) -> str:
    """The same for all configurations that agree in all other fields."""
    return json.dumps({name: value for name, value in configuration.items() if name not in names}, sort_keys=True)


def subject(configuration: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a chart of throughput is about."""
    return tuple(configuration.get(name) for name in SUBJECT)


def subject_title(configuration: Mapping[str, Any]) -> str:
    """In words: model, workload and lengths."""
    workload, model, length, lengths = subject(configuration)
    words = [f"BERT-{model}" if model in ("tiny", "base", "large") else Path(model or "a model").name, workload or ""]
    words += [f"{length} tokens" if length else "", f"({lengths})" if lengths else ""]
    return " ".join(word for word in words if word)


def by_subject(found: Sequence[Bar]) -> list[list[Bar]]:
    """The bars of each chart."""
    groups: dict[tuple[Any, ...], list[Bar]] = {}
    for bar in found:
        groups.setdefault(subject(bar.configuration), []).append(bar)
    return list(groups.values())


def by_series(found: Sequence[Bar]) -> dict[str, list[Bar]]:
    """The bars of each line of a chart, by a name that says in what it differs from the other lines."""
    series: dict[str, list[Bar]] = {}
    for bar in found:
        series.setdefault(json.dumps([bar.label, without(bar.configuration, "batch_size")]), []).append(bar)
    rows = list(series.values())
    varying = [
        name
        for name in sorted({name for row in rows for name in row[0].configuration})
        if name not in (*SUBJECT, "batch_size", *WINDOW)
        and len({json.dumps(row[0].configuration.get(name)) for row in rows}) > 1
    ]
    several = len({row[0].label for row in rows}) > 1
    named: dict[str, list[Bar]] = {}
    for row in rows:
        configuration = row[0].configuration
        words = [row[0].label] if several else []
        words += [text for name in varying if (text := _field(name, configuration.get(name)))]
        words = words or [_field("precision", configuration.get("precision")) or row[0].label]
        name = ", ".join(words)
        while name in named:
            name += "'"
        named[name] = sorted(row, key=lambda bar: bar.batch_size or 0)
    return named


def _field(name: str, value: Any) -> str:
    forms = {
        "compile": "compiled" if value else "eager",
        "n_gpus": f"{value} GPU{'s' if value != 1 else ''}",
        "accumulation_steps": f"{value} micro-batches",
    }
    return "" if value in (None, "") else str(forms.get(name, value))
