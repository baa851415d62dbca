"""The pictures of a report: what each shows, and what it says of that in words."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmark.logs import Phase
from benchmark.reports.data import Result, loss_curves_for, measured, references_for
from benchmark.reports.drawing import Figure, Series, render
from benchmark.sweeps.points import Repeats, subject

MOST_BARS = 10
SMALLEST_SHARE = 0.002  # of a roofline's time; smaller kernels would spread its axes over ten more powers of ten


def make_figures(results: Sequence[Result]) -> list[Figure]:
    """All that the results have data for, under names that become files: plain, and different."""
    names: list[str] = []
    figures = []
    for figure in plan_figures(results):
        names.append("".join(sign if sign.isalnum() else "_" for sign in figure.name).strip("_").lower())
        same = names.count(names[-1])
        figures.append(render(figure._replace(name=f"{names[-1]}_{same}" if same > 1 else names[-1])))
    return figures


def plan_figures(results: Sequence[Result]) -> Iterator[Figure]:
    """The figures, not yet drawn."""
    for group in measured(results):
        rate = f"sequences/s per {group[0].unit}"
        yield from _over_sizes(group, "Throughput", rate, "sequences_per_second_per_gpu")
        yield from _breakdown(group)
        yield from _over_sizes(group, "Memory", "GiB of peak memory", "peak_memory_allocated_bytes", 2**30)
    phases: dict[str, list[tuple[str, Phase]]] = {}
    published: dict[str, dict[str, dict[str, Any]]] = {}
    for run in (run for result in results for run in result.runs):
        for number, phase in run.phases.items():
            phases.setdefault(run.name_of(number), []).append((run.label, phase))
            curves = {curve["label"]: curve for curve in loss_curves_for(run.task, number, phase)}
            published.setdefault(run.name_of(number), {}).update(curves)
    for name, row in phases.items():
        yield from _curves(name, row, "average_loss", "Training loss", list(published[name].values()))
    for name, row in phases.items():
        yield from _curves(name, row, "learning_rate", "Learning rate")
    for profile in (profile for result in results for profile in result.profiles):
        yield from _kernel_shares(profile)
        yield from roofline(profile)


def _named(group: Sequence[Repeats], kind: str, title: str) -> tuple[str, str]:
    """Name and title of a figure; the title has the machine, as a slide shows a picture alone."""
    configuration = group[0].configuration
    machines = " and ".join(dict.fromkeys(repeats.hardware for repeats in group if repeats.hardware))
    title = ", ".join(filter(None, [f"{title}: {subject(configuration)}", machines]))
    return f"{kind}_{configuration.get('workload')}_{configuration.get('max_seq_length')}", title


def _over_sizes(group: Sequence[Repeats], title: str, unit: str, key: str, scale: int = 1) -> Iterator[Figure]:
    """A line for each series through the medians of what succeeded, crosses for the rest, and what was published."""
    published = references_for(group[0].configuration) if title == "Throughput" else []
    series, best = [], (0.0, 0)
    for name, row in itertools.groupby(group, lambda repeats: repeats.name):
        sizes, medians, below, above, crosses = [], [], [], [], []
        for repeats in row:
            values = [value / scale for value in repeats.values(key)]
            if repeats.status != "ok":
                crosses.append((repeats.batch_size, repeats.status))
            elif values:
                sizes.append(repeats.batch_size)
                medians.append(statistics.median(values))
                below.append(medians[-1] - min(values))
                above.append(max(values) - medians[-1])
                best = max(best, (medians[-1], repeats.batch_size))
        series.append(Series(name, sizes, medians, spread=(below, above), crosses=crosses))
    if not best[0]:
        return
    series += [Series(f"{each['label']}: {each['rate']:,g}", [], [each["rate"]], "guide") for each in published]
    finding = f"Highest: {best[0]:,.1f} {unit}, at {best[1]} per step."
    ended = [repeats.batch_size for repeats in group if repeats.status == "out of memory"]
    finding += f" Memory ends at {min(ended)}." if ended else ""
    finding += " Grey lines were published for other hardware, precision or software." if published else ""
    x_label, ticks = f"sequences per {group[0].unit} and step", sorted({repeats.batch_size for repeats in group})
    yield Figure(*_named(group, title.lower(), title), finding, series, x_label, unit, ticks)


def _breakdown(group: Sequence[Repeats]) -> Iterator[Figure]:
    steps = {f"{each.name}, batch {each.batch_size}": each.parts for each in group if sum(each.parts.values()) > 0}
    if not steps:
        return
    steps = dict(list(steps.items())[-MOST_BARS:])
    names = dict.fromkeys(name for parts in steps.values() for name in parts)
    shares = {name: [parts.get(name, 0) / sum(parts.values()) for parts in steps.values()] for name in names}
    rows = [f"{label}: {sum(parts.values()) * 1e3:,.1f} ms" for label, parts in steps.items()]
    series = [Series(name, [], [share * 100 for share in row], "bars") for name, row in shares.items()]
    finding = f"{rows[-1]}, of which {', '.join(f'{name} {row[-1]:.1%}' for name, row in shares.items())}."
    yield Figure(*_named(group, "step", "Where a step goes"), finding, series, "% of the step", rows=rows)


def _curves(
    phase_name: str,
    phases: Sequence[tuple[str, Phase]],
    key: str,
    words: str,
    published: Sequence[dict[str, Any]] = (),
) -> Iterator[Figure]:
    series, sentences = [], []
    for label, phase in phases:
        curve = phase.curve(key)
        points = [(step, value) for step, value in curve if math.isfinite(value)]
        if points:
            (_, first), (steps, last) = points[0], points[-1]
            lost = f", with {len(curve) - len(points)} steps that are no number" if len(curve) > len(points) else ""
            sentences.append(f"{label}: from {first:.4g} to {last:.4g} over {steps:,} steps{lost}")
            series.append(Series(label, *zip(*points, strict=True)))
    if series:
        file, finding = f"{phase_name.replace(' ', '')}_{key}", "; ".join(sentences) + "."
        longest = max(run.x[-1] for run in series)
        for each in published:
            label = f"{each['label']}, ±{each['uncertainty']:g}"
            n_shown = max(2, 1 + sum(step < longest for step in each["steps"]))  # to where the longest run ends
            series.append(Series(label, each["steps"][:n_shown], each["losses"][:n_shown], "guide"))
            finding += f" Grey: {label}, a run of others: {each['source']}."
        yield Figure(file, f"{words}, {phase_name}", finding, series, "optimizer step", words.lower())


def _kernel_shares(profile: dict[str, Any]) -> Iterator[Figure]:
    kernels = [kernel for kernel in profile.get("kernels") or [] if kernel.get("share")][:MOST_BARS]
    if not kernels:
        return
    names, shares = [kernel["name"] for kernel in kernels], [kernel["share"] for kernel in kernels]
    finding = f"{names[0]} takes {shares[0]:.1%} of all kernels' time; the longest {len(names)} take {sum(shares):.1%}."
    of = ", ".join(filter(None, [profile.get("source", "a profile"), profile["label"], profile.get("device")]))
    file, title = f"kernels_{profile.get('source')}_{profile['label']}", f"Kernels by time ({of})"
    series = [Series("", [], [share * 100 for share in shares], "bars")]
    yield Figure(file, title, finding, series, "% of kernels' time", rows=names)


def roofline(profile: dict[str, Any]) -> Iterator[Figure]:
    """The rate of each kernel over its arithmetic intensity; nothing where a profile does not count them."""
    needed = ("flops", "dram_bytes", "seconds")
    kernels = [kernel for kernel in profile.get("kernels") or [] if all(map(kernel.get, needed))]
    total = sum(kernel["seconds"] for kernel in kernels)
    kernels = [kernel for kernel in kernels if kernel["seconds"] >= SMALLEST_SHARE * total]
    if not kernels:
        return
    intensities = [kernel["flops"] / kernel["dram_bytes"] for kernel in kernels]
    rates = [kernel["flops"] / kernel["seconds"] / 1e12 for kernel in kernels]
    areas = [20 + 1500 * kernel["seconds"] / total for kernel in kernels]
    series = [Series("a kernel; area: its time", intensities, rates, "discs", areas=areas)]
    ceilings = profile.get("ceilings") or {}
    peak, bandwidth = ((ceilings.get(f"{name}_per_second") or 0) / 1e12 for name in ("tensor_flops", "dram_bytes"))
    if peak and bandwidth:
        ridge = peak / bandwidth
        left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
        series.append(Series(f"memory {bandwidth:.2f} TB/s", [left, ridge], [left * bandwidth, peak], "guide"))
        series.append(Series(f"peak {peak:,.0f} TFLOP/s", [ridge, right], [peak, peak], "guide"))
    finding = f"{kernels[rates.index(max(rates))]['name']} is the fastest of {len(kernels)} kernels: "
    finding += f"{max(rates):,.1f} TFLOP/s" + (f", {max(rates) / peak:.1%} of the tensor cores' peak." if peak else ".")
    title = f"Roofline ({', '.join(filter(None, [profile['label'], profile.get('device')]))})"
    x_label = "FLOP per byte of memory traffic"
    yield Figure(f"roofline_{profile['label']}", title, finding, series, x_label, "TFLOP/s", log=True)
