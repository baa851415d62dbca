"""The tables of a report's sections."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from benchmark.logs import Run
from benchmark.reports.data import Result, without_folders
from benchmark.reports.published import loss_curves_for
from benchmark.sweeps.points import Repeats, subject
from benchmark.tables import MISSING, Table, text

FACTS = ("gpus", "driver", "torch", "cuda", "cudnn", "python", "cpu", "cpu_cores", "version", "git_commit", "git_dirty")
PROFILE = MappingProxyType({"result": "label", "source": "source", "GPU": "device"})
LONGEST_ERROR = 300


def throughput_table(group: Sequence[Repeats]) -> Table:
    """A row for each configuration of one subject."""
    rows = [{"configuration": repeats.name} | repeats.cells() for repeats in group]
    if all(len(repeats.points) == 1 for repeats in group):
        rows = [{name: cell for name, cell in row.items() if name not in ("lowest", "highest", "n")} for row in rows]
    notes = sorted({f"Peak: {peak}." for repeats in group for peak in repeats.told("peak", "utilisation")[:1]})
    slowed = [(each.batch_size, gpu["throttle_reasons"]) for each in group for gpu in each.told("gpu")]
    sizes = ", ".join(f"{size:,}" for size in sorted({size for size, reasons in slowed if reasons}))
    if sizes:
        reasons = sorted({reason for _, reasons in slowed for reason in reasons})
        notes.append(f"The driver lowered clocks at batch {sizes}: {', '.join(reasons)}.")
    for repeats in group:
        if repeats.status in ("wrong", "failed"):
            why = repeats.problem or next((point["error"] for point in repeats.points if point.get("error")), "")
            notes.append(f"Batch {repeats.batch_size}, {repeats.status}: {without_folders(why)[-LONGEST_ERROR:]}")
    return Table(subject(group[0].configuration), rows, notes)


def runs_table(runs: Sequence[Run]) -> Table:
    """What training runs came to."""
    rows = []
    for run in runs:
        rows += [{"run": run.label, "phase": run.name_of(n)} | phase.cells() for n, phase in run.phases.items()]
    return Table("Training", rows)


def published_losses_table(runs: Sequence[Run]) -> Table:
    """The losses of runs at the steps of a published curve that they logged; no row where no curve is of such runs."""
    theirs: dict[str, dict[int, float]] = {}
    ours: dict[str, dict[int, float]] = {}
    notes: list[str] = []
    for run in runs:
        for number, phase in run.phases.items():
            for published in loss_curves_for(run.task, number, phase):
                label = f"{published['label']}, ±{published['uncertainty']:g}"
                theirs[label] = dict(zip(published["steps"], published["losses"], strict=True))
                ours[run.label] = dict(phase.curve("average_loss"))
                notes.append(f"{label}: a run of others; {published['source']}.")
    steps = set().union(*theirs.values()) & set().union(*ours.values())
    curves = theirs | ours
    rows = [
        {"step": f"{step:,}"} | {name: text(curve.get(step), ".2f") for name, curve in curves.items()}
        for step in sorted(steps)
    ]
    return Table("Loss of phase 1 beside a published curve", rows, list(dict.fromkeys(notes)))


def profiles_table(profiles: Sequence[Mapping[str, Any]]) -> Table:
    """Core utilization, of the peak of each unit, and how busy the device was."""
    rows = []
    for profile in profiles:
        row = {name: str(profile.get(key) or MISSING) for name, key in PROFILE.items()}
        if profile.get("kind") == "kernels":
            row |= {unit: text(share, ".1%") for unit, share in (profile.get("core_utilisation") or {}).items()}
        else:
            span, busy = profile.get("span_seconds"), profile.get("busy_seconds")
            row["ms in all"] = text(span and span * 1e3, ",.1f")
            row["busy"] = text(busy / span if span and busy else None, ".1%")
            row["gaps"] = text((profile.get("launch_gaps") or {}).get("count"), ",.0f")
        rows.append(row)
    return Table("Profiles", rows, ["Shares of each unit's peak are weighted by cycles."])


def environment_table(results: Sequence[Result]) -> Table:
    """Where each result was measured, with a warning for what differs."""
    rows, differing = [], []
    for name in FACTS:
        row = {"fact": name}
        for result in results:
            told = [each.get("environment") or {} for each in (*result.points, *map(vars, result.runs))]
            values = [each[name] for each in told if each.get(name) not in (None, [])]
            words = [f"{len(v)} x {' / '.join(dict.fromkeys(v))}" if isinstance(v, list) else str(v) for v in values]
            words = [short_commit(word) for word in words] if name == "git_commit" else words
            row[result.label] = " / ".join(sorted(set(words))) or MISSING
        known = set(row.values()) - {MISSING, name}
        rows += [row] if known else []
        differing += [name] if len(known) > 1 else []
    warning = f"The results differ in {', '.join(differing)}: a ratio between them has that cause too."
    return Table("Environment", rows, [warning] if differing else [])


def short_commit(commit: str) -> str:
    """As people name one."""
    return commit[:9]


def points_table(results: Sequence[Result]) -> Table:
    """A row for each point."""
    return Table("Points", [_flat({"result": each.label} | point) for each in results for point in each.points])


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A value by its name; the fields of a mapping by names such as `measured.part_seconds.data`."""
    if not isinstance(value, dict):
        return {name: json.dumps(value) if isinstance(value, list) else value}
    row: dict[str, Any] = {}
    for inner, item in value.items():
        row |= _flat(item, f"{name}.{inner}" if name else inner)
    return row
