"""The tables of a report."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmark.compare import METHOD, Comparison, compare
from benchmark.reports.data import Bar, Result, bars, by_subject, subject_title
from benchmark.reports.references import references_for
from benchmark.sweeps.points import settings, window
from benchmark.tables import MISSING, Table, csv_table, text

FACTS = ("gpus", "driver", "torch", "cuda", "cudnn", "python", "cpu", "cpu_cores", "git_commit", "git_dirty")
DIFFERENT = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit")
LONGEST_ERROR = 300


def throughput_tables(results: Sequence[Result]) -> list[Table]:
    """One for each subject: a row for each configuration of each result."""
    tables = []
    for group in by_subject(bars(results)):
        several = len({bar.label for bar in group}) > 1
        windows = len({window(bar.configuration) for bar in group}) > 1
        rows = [_throughput_row(bar, several, windows) for bar in group]
        header = ("result",) if several else ()
        header += ("configuration", "batch", "sequences/s", "lowest", "highest", "n", "tokens/s", "TFLOP/s")
        header += ("of peak", "of products", "GiB", "sequences/J", "loss at end", "state")
        notes = sorted({f"Peak: {bar.peak}." for bar in group if bar.peak})
        if any(bar.share_of_products is not None for bar in group):
            notes.append("Of products: of what the encoder's matrix products reach by themselves on the same device.")
        notes += _slowed(group)
        notes += [
            f"Published: {r.label}, {r.rate:,g} sequences/s per GPU; {r.source}."
            for r in references_for(group[0].configuration)
        ]
        notes += [f"Batch {bar.batch_size}: {bar.problem}" for bar in group if bar.problem]
        notes += [
            f"Batch {bar.batch_size} failed: {bar.error[-LONGEST_ERROR:]}"
            for bar in group
            if bar.status == "failed" and bar.error
        ]
        tables.append(Table(subject_title(group[0].configuration), notes, header, rows))
    return tables


def _slowed(group: Sequence[Bar]) -> list[str]:
    """A sentence for each reason for which clocks were lowered."""
    sizes: dict[str, set[int]] = {}
    for bar in group:
        for reason in bar.slowed_by:
            sizes.setdefault(reason, set()).add(bar.batch_size or 0)
    return [
        f"The driver lowered clocks ({reason}) at batch {', '.join(f'{size:,}' for size in sorted(found))}."
        for reason, found in sorted(sizes.items())
    ]


def _throughput_row(bar: Bar, several: bool, windows: bool) -> list[str]:
    rates = bar.values("sequences_per_second")
    memory = bar.median("peak_memory_allocated_bytes")
    words = settings(bar.configuration) + ([window(bar.configuration)] if windows else [])
    return ([bar.label] if several else []) + [
        ", ".join(words) or MISSING,
        text(bar.batch_size, ","),
        text(bar.median("sequences_per_second"), ",.1f"),
        text(min(rates, default=None), ",.1f"),
        text(max(rates, default=None), ",.1f"),
        str(len(rates)),
        text(bar.median("tokens_per_second"), ",.0f"),
        text(bar.median("model_tflops_per_second"), ".3g"),
        text(bar.utilisation, ".1%"),
        text(bar.share_of_products, ".1%"),
        text(memory and memory / 2**30, ".1f"),
        text(bar.median("sequences_per_joule"), ".3g"),
        text(bar.median("final_loss"), ".3f"),
        bar.state,
    ]


def comparison_tables(results: Sequence[Result]) -> list[Table]:
    """The first result against each of the others."""
    tables = []
    for other in results[1:]:
        found, told = compare(results[0], other)
        header = ("configuration", "batch", results[0].label, other.label, "ratio", "95 % interval", "p", "smallest p")
        rows = [_comparison_row(comparison) for comparison in found]
        tables.append(Table(f"{other.label} against {results[0].label}", [*told, METHOD], (*header, "verdict"), rows))
    return tables


def _comparison_row(comparison: Comparison) -> list[str]:
    interval = comparison.interval
    sides = (comparison.first.configuration, comparison.second.configuration)
    precisions = dict.fromkeys(str(side.get("precision", "")) for side in sides)
    return [
        f"{subject_title(sides[0])}, {' / '.join(precisions)}",
        text(comparison.first.batch_size, ","),
        text(comparison.first.median("sequences_per_second"), ",.1f"),
        text(comparison.second.median("sequences_per_second"), ",.1f"),
        text(comparison.ratio, ".3f"),
        f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else MISSING,
        text(comparison.p, ".3g"),
        text(comparison.smallest_p, ".3g"),
        comparison.words,
    ]


def run_tables(results: Sequence[Result]) -> list[Table]:
    """What training runs came to; empty without runs."""
    rows = []
    for run in (run for result in results for run in result.runs):
        for name, curve in sorted(run.curves.items()):
            if name.endswith("average_loss"):
                steps, (first, last) = curve[-1][0], (curve[0][1], curve[-1][1])
                phase = name.removesuffix(" average_loss")
                rows.append(
                    [
                        run.label,
                        phase,
                        text(steps, ","),
                        text(first, ".3f"),
                        text(last, ".3f"),
                        text(run.rates.get(phase), ",.1f"),
                    ]
                )
    header = ("run", "phase", "steps", "loss at start", "loss at end", "sequences/s")
    return [Table("Runs", [], header, rows)] if rows else []


def profile_tables(results: Sequence[Result]) -> list[Table]:
    """Core utilisation, and time lines, of all profiles."""
    utilisations, lines = [], []
    names = ("tensor", "fma", "fp16", "sfu", "dram", "sm")
    for result in results:
        for profile in result.kernels:
            measured = profile.get("core_utilisation") or {}
            cells = [text(measured.get(name), ".1%") for name in names]
            utilisations.append([profile["label"], str(profile.get("device", MISSING)), *cells])
        for profile in result.timelines:
            gaps = profile.get("launch_gaps") or {}
            span = profile.get("span_seconds")
            busy = profile.get("busy_seconds")
            lines.append(
                [
                    profile["label"],
                    str(profile.get("source", MISSING)),
                    str(len(profile.get("steps") or [])),
                    text(span and span * 1e3, ",.1f"),
                    text(busy / span if span and busy else None, ".1%"),
                    text(gaps.get("count"), ","),
                    text((gaps.get("seconds") or 0) * 1e3, ",.2f"),
                    text(gaps.get("p50") and gaps["p50"] * 1e6, ",.1f"),
                    text(_idle_between_steps(profile), ",.3f"),
                ]
            )
    tables = []
    if utilisations:
        tables.append(
            Table(
                "Core utilisation",
                ["Of the peak of each unit, weighted by cycles."],
                ("result", "GPU", *names),
                utilisations,
            )
        )
    if lines:
        header = ("result", "source", "steps", "ms in all", "busy", "gaps", "ms in gaps", "median gap, us")
        notes = ["Of the GPU, or of the CPU's operators where a profile has no GPU."]
        tables.append(Table("Time lines", notes, (*header, "ms idle before a step"), lines))
    return tables


def _idle_between_steps(profile: dict[str, Any]) -> float | None:
    """Milliseconds from the end of a step's work to the first of the next, the mean; None with a single step."""
    seconds = [step.get("idle_before_seconds") for step in profile.get("steps") or []]
    known = [value for value in seconds if value is not None]
    return statistics.fmean(known) * 1e3 if known else None


def environment_table(results: Sequence[Result]) -> Table:
    """Where each result was measured, with a warning for what differs."""
    gathered = [_facts(result) for result in results]
    differing = [name for name in DIFFERENT if len({facts[name] for facts in gathered if name in facts}) > 1]
    notes = []
    if differing:
        notes.append(f"The results differ in {', '.join(differing)}: a ratio between them has that cause too.")
    names = [name for name in FACTS if any(name in facts for facts in gathered)]
    rows = [[name, *[facts.get(name, MISSING) for facts in gathered]] for name in names]
    for result, facts in zip(results, gathered, strict=True):
        mixed = [name for name in DIFFERENT if " / " in facts.get(name, "")]
        if mixed:
            notes.append(f"{result.label} itself mixes several values of {', '.join(mixed)}.")
    untold = [result.label for result, facts in zip(results, gathered, strict=True) if not facts]
    if untold:
        notes.append(f"Not recorded for {', '.join(untold)}: a profile's summary does not hold it.")
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
    rows = [_flat({"result": result.label} | point) for result in results for point in result.points]
    return csv_table(rows)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            row |= _flat(item, f"{prefix}{name}.")
        else:
            row[prefix + name] = json.dumps(item) if isinstance(item, list) else item
    return row
