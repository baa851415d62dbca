"""The tables of a report."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmark.reports.compare import comparison_table
from benchmark.reports.data import Result, by_subject, measured, subject_title
from benchmark.reports.references import references_for
from benchmark.sweeps.points import settings, window
from benchmark.sweeps.repeats import Repeats
from benchmark.tables import MISSING, Table, csv_table, text
from common.errors import UserError

FACTS = ("gpus", "driver", "torch", "cuda", "cudnn", "python", "cpu", "cpu_cores", "git_commit", "git_dirty")
DIFFERENT = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit")
UNITS = ("tensor", "fma", "fp16", "sfu", "dram", "sm")
LONGEST_ERROR = 300


def report_tables(results: Sequence[Result], compare: bool) -> list[Table]:
    """All tables of a report, the most wanted first.

    Raises:
        UserError: results to compare have no configuration in common.
    """
    tables = [comparison_table(results[0], other) for other in results[1:]] if compare else []
    if compare and not any(table.rows for table in tables):
        raise UserError(
            f"{results[0].label} has no configuration in common with the others",
            "sweep the same batch sizes, lengths and windows",
        )
    tables += [*throughput_tables(results), *run_tables(results), *profile_tables(results)]
    return [*tables, environment_table(results)]


def throughput_tables(results: Sequence[Result]) -> list[Table]:
    """One for each subject: a row for each configuration of each result."""
    tables = []
    for group in by_subject(measured(results)):
        several = len({repeats.label for repeats in group}) > 1
        windows = len({window(repeats.configuration) for repeats in group}) > 1
        rows = []
        for repeats in group:
            words = settings(repeats.configuration) + ([window(repeats.configuration)] if windows else [])
            row = {"result": repeats.label} if several else {}
            rows.append(row | {"configuration": ", ".join(words) or MISSING} | repeats.cells())
        cells = [list(row.values()) for row in rows]
        tables.append(Table(subject_title(group[0].configuration), _notes(group), tuple(rows[0]), cells))
    return tables


def _notes(group: Sequence[Repeats]) -> list[str]:
    notes = sorted({f"Peak: {peak}." for repeats in group for peak in repeats.told("peak", "utilisation")[:1]})
    if any(repeats.values("fraction", "measured_peak") for repeats in group):
        notes.append("Of products: of what the encoder's matrix products reach by themselves on the same device.")
    notes += _slowed(group)
    notes += [
        f"Published: {r.label}, {r.rate:,g} sequences/s per GPU; {r.source}."
        for r in references_for(group[0].configuration)
    ]
    notes += [f"Batch {repeats.batch_size}: {repeats.problem}" for repeats in group if repeats.problem]
    failed = [repeats for repeats in group if repeats.status == "failed" and repeats.error]
    return notes + [f"Batch {repeats.batch_size} failed: {repeats.error[-LONGEST_ERROR:]}" for repeats in failed]


def _slowed(group: Sequence[Repeats]) -> list[str]:
    """A sentence for each reason for which clocks were lowered."""
    sizes: dict[str, set[int]] = {}
    for repeats in group:
        for gpu in repeats.told("gpu"):
            for reason in gpu.get("throttle_reasons") or ():
                sizes.setdefault(reason, set()).add(repeats.batch_size)
    return [
        f"The driver lowered clocks ({reason}) at batch {', '.join(f'{size:,}' for size in sorted(found))}."
        for reason, found in sorted(sizes.items())
    ]


def run_tables(results: Sequence[Result]) -> list[Table]:
    """What training runs came to; empty without runs."""
    rows = []
    for run in (run for result in results for run in result.runs):
        for number, phase in sorted(run.phases.items()):
            if curve := phase.curve("average_loss"):
                (_, first), (steps, last) = curve[0], curve[-1]
                losses = [text(loss, ".3f") for loss in (first, last)]
                rows.append([run.label, run.name_of(number), text(steps, ","), *losses, text(phase.rate, ",.1f")])
    header = ("run", "phase", "steps", "loss at start", "loss at end", "sequences/s")
    return [Table("Runs", [], header, rows)] if rows else []


def profile_tables(results: Sequence[Result]) -> list[Table]:
    """Core utilization, and time lines, of all profiles."""
    kernels = [_utilization_row(profile) for result in results for profile in result.kernels]
    timelines = [_timeline_row(profile) for result in results for profile in result.timelines]
    tables = []
    if kernels:
        notes = ["Of the peak of each unit, weighted by cycles."]
        tables.append(Table("Core utilisation", notes, ("result", "GPU", *UNITS), kernels))
    if timelines:
        header = ("result", "source", "steps", "ms in all", "busy", "gaps", "ms in gaps", "median gap, us")
        notes = ["Of the GPU, or of the CPU's operators where a profile has no GPU."]
        tables.append(Table("Time lines", notes, (*header, "ms idle before a step"), timelines))
    return tables


def _utilization_row(profile: dict[str, Any]) -> list[str]:
    shares = profile.get("core_utilisation") or {}
    return [profile["label"], str(profile.get("device", MISSING)), *(text(shares.get(unit), ".1%") for unit in UNITS)]


def _timeline_row(profile: dict[str, Any]) -> list[str]:
    gaps, steps = profile.get("launch_gaps") or {}, profile.get("steps") or []
    span, busy = profile.get("span_seconds"), profile.get("busy_seconds")
    idle = [step["idle_before_seconds"] for step in steps if step.get("idle_before_seconds") is not None]
    return [
        profile["label"],
        str(profile.get("source", MISSING)),
        str(len(steps)),
        text(span and span * 1e3, ",.1f"),
        text(busy / span if span and busy else None, ".1%"),
        text(gaps.get("count"), ","),
        text((gaps.get("seconds") or 0) * 1e3, ",.2f"),
        text(gaps.get("p50") and gaps["p50"] * 1e6, ",.1f"),
        text(statistics.fmean(idle) * 1e3 if idle else None, ",.3f"),
    ]


def environment_table(results: Sequence[Result]) -> Table:
    """Where each result was measured, with a warning for what differs."""
    gathered = [_facts(result) for result in results]
    differing = [name for name in DIFFERENT if len({facts[name] for facts in gathered if name in facts}) > 1]
    notes = []
    if differing:
        notes.append(f"The results differ in {', '.join(differing)}: a ratio between them has that cause too.")
    for result, facts in zip(results, gathered, strict=True):
        mixed = [name for name in DIFFERENT if " / " in facts.get(name, "")]
        if mixed:
            notes.append(f"{result.label} itself mixes several values of {', '.join(mixed)}.")
    untold = [result.label for result, facts in zip(results, gathered, strict=True) if not facts]
    if untold:
        notes.append(f"Not recorded for {', '.join(untold)}: a profile's summary does not hold it.")
    names = [name for name in FACTS if any(name in facts for facts in gathered)]
    rows = [[name, *[facts.get(name, MISSING) for facts in gathered]] for name in names]
    return Table("Environment", notes, ("", *[result.label for result in results]), rows)


def _facts(result: Result) -> dict[str, str]:
    facts = {}
    for name in FACTS:
        told = [environment.get(name) for environment in result.environments()]
        values = {_plain(value) for value in told if value is not None}
        if values:
            facts[name] = " / ".join(sorted(values))
    return facts


def _plain(value: Any) -> str:
    if isinstance(value, list):
        names = [str(item.get("name", item)) if isinstance(item, dict) else str(item) for item in value]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def commands(results: Sequence[Result]) -> list[str]:
    """A command line for each configuration, as it was run."""
    return list(dict.fromkeys(p["command"] for r in results for p in r.points if p.get("command")))


def points_csv(results: Sequence[Result]) -> str:
    """All points, one a line; nested fields by names such as `measured.part_seconds.data`."""
    return csv_table([_flat({"result": result.label} | point) for result in results for point in result.points])


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            row |= _flat(item, f"{prefix}{name}.")
        else:
            row[prefix + name] = json.dumps(item) if isinstance(item, list) else item
    return row
