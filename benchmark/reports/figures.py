"""The pictures of a report: what each shows, and what it says of that in words."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmark.logs import Run
from benchmark.reports.data import Result, measured, references_for, series_names
from benchmark.reports.drawing import Figure, Series, render
from benchmark.sweeps.points import subject
from benchmark.sweeps.repeats import Repeats

PARTS = ("data", "forward", "backward", "forward_backward", "reduction", "optimizer", "other")
MOST_BARS = 10
SMALLEST_SHARE = 0.002  # of a roofline's time; smaller kernels would spread its axes over ten more powers of ten


def make_figures(results: Sequence[Result]) -> list[Figure]:
    """All that the results have data for."""
    return [render(figure) for figure in _with_unique_names(plan_figures(results))]


def plan_figures(results: Sequence[Result]) -> Iterator[Figure]:
    """The figures, not yet drawn."""
    for group in measured(results):
        rate = f"sequences/s per {group[0].unit}"
        yield from _over_sizes("throughput", "Throughput", rate, group, _rates_per_gpu)
        yield from _breakdown(group)
        yield from _over_sizes("memory", "Memory", "GiB of peak memory", group, _gibibytes)
    runs = [run for result in results for run in result.runs]
    for name, words in (("average_loss", "Training loss"), ("learning_rate", "Learning rate")):
        for phase in dict.fromkeys(run.name_of(number) for run in runs for number in run.phases):
            yield from _curves(name, words, phase, runs)
    profiles = [profile for result in results for profile in result.profiles]
    for profile in profiles:
        yield from _kernel_shares(profile)
        yield from roofline(profile)


def _with_unique_names(figures: Iterable[Figure]) -> Iterator[Figure]:
    """With names, which become files, that are plain and differ."""
    seen: list[str] = []
    for figure in figures:
        plain = "".join(sign if sign.isalnum() else "_" for sign in figure.name).strip("_").lower()
        seen.append(plain)
        yield figure._replace(name=f"{plain}_{seen.count(plain)}" if seen.count(plain) > 1 else plain)


def _named(kind: str, title: str, group: Sequence[Repeats]) -> tuple[str, str]:
    """Name and title of a figure; the title has the machine, as a slide shows a picture alone."""
    configuration = group[0].configuration
    machines = " and ".join(dict.fromkeys(repeats.hardware for repeats in group if repeats.hardware))
    title = ", ".join(filter(None, [f"{title}: {subject(configuration)}", machines]))
    return f"{kind}_{configuration.get('workload')}_{configuration.get('max_seq_length')}", title


def _rates_per_gpu(repeats: Repeats) -> list[float]:
    return repeats.values("sequences_per_second_per_gpu")


def _gibibytes(repeats: Repeats) -> list[float]:
    return [size / 2**30 for size in repeats.values("peak_memory_allocated_bytes")]


def _over_sizes(
    kind: str, title: str, unit: str, group: Sequence[Repeats], values_of: Callable[[Repeats], list[float]]
) -> Iterator[Figure]:
    """A line for each series through the medians of what succeeded, crosses for the rest, and what was published."""
    known = [repeats for repeats in group if values_of(repeats)]
    if not known:
        return
    published = references_for(group[0].configuration) if kind == "throughput" else []
    right = [repeats for repeats in known if repeats.status == "ok"]
    # A wrong run may be absurdly fast: it must not press the others flat.
    heights = [value for repeats in right or known for value in values_of(repeats)]
    top = 1.12 * max([*heights, *(each["rate"] for each in published)])
    rows: dict[str, list[Repeats]] = {}
    for name, repeats in zip(series_names(group), group, strict=True):
        rows.setdefault(name, []).append(repeats)
    series = []
    for name, row in rows.items():
        crosses = []
        for repeats in row:
            if repeats.status != "ok":
                height = statistics.median(values_of(repeats) or [0.0])
                words = f"{repeats.status}: {height:,.0f}" if height else repeats.status
                crosses.append((repeats.batch_size, min(height, top), words))
        good = [repeats for repeats in row if repeats.status == "ok" and values_of(repeats)]
        medians = [statistics.median(values_of(repeats)) for repeats in good]
        below = [at - min(values_of(repeats)) for at, repeats in zip(medians, good, strict=True)]
        above = [max(values_of(repeats)) - at for at, repeats in zip(medians, good, strict=True)]
        sizes = [repeats.batch_size for repeats in good]
        series.append(Series(name, sizes, medians, spread=(below, above), crosses=crosses))
    series += [Series(f"{each['label']}: {each['rate']:,g}", [], [each["rate"]], "guide") for each in published]
    finding = "None of the points trained as it should."
    if right:
        best = max(right, key=lambda repeats: statistics.median(values_of(repeats)))
        finding = f"Highest: {statistics.median(values_of(best)):,.1f} {unit}, at {best.batch_size} per step."
    ended = [repeats.batch_size for repeats in group if repeats.status == "out of memory"]
    finding += f" Memory ends at {min(ended)}." if ended else ""
    finding += " Grey lines were published for other hardware, precision or software." if published else ""
    x_label = f"sequences per {group[0].unit} and step"
    ticks = sorted({repeats.batch_size for repeats in group})
    yield Figure(*_named(kind, title, group), finding, series, x_label, unit, top, ticks)


def _breakdown(group: Sequence[Repeats]) -> Iterator[Figure]:
    named = zip(series_names(group), group, strict=True)
    steps = [(f"{name}, batch {each.batch_size}", each.parts) for name, each in named if sum(each.parts.values()) > 0]
    if not steps:
        return
    steps = steps[-MOST_BARS:]
    shares = {
        name: [parts.get(name, 0) / sum(parts.values()) for _, parts in steps]
        for name in PARTS
        if any(parts.get(name) for _, parts in steps)
    }
    rows = [f"{label}: {sum(parts.values()) * 1e3:,.1f} ms" for label, parts in steps]
    series = [Series(name, [], [share * 100 for share in row], "bars") for name, row in shares.items()]
    finding = f"{rows[-1]}, of which {', '.join(f'{name} {row[-1]:.1%}' for name, row in shares.items())}."
    yield Figure(*_named("step", "Where a step goes", group), finding, series, "% of the step", rows=rows)


def _curves(name: str, words: str, phase_name: str, runs: Sequence[Run]) -> Iterator[Figure]:
    series, sentences = [], []
    for run in runs:
        for curve in (phase.curve(name) for number, phase in run.phases.items() if run.name_of(number) == phase_name):
            points = [(step, value) for step, value in curve if math.isfinite(value)]
            if points:
                (_, first), (steps, last) = points[0], points[-1]
                lost = len(curve) - len(points)
                series.append(Series(run.label, *zip(*points, strict=True)))
                said = f"{run.label}: from {first:.4g} to {last:.4g} over {steps:,} steps"
                sentences.append(said + (f", with {lost} steps that are no number" if lost else ""))
    if series:
        file, title = f"{phase_name.replace(' ', '')}_{name}", f"{words}, {phase_name}"
        yield Figure(file, title, "; ".join(sentences) + ".", series, "optimizer step", words.lower())


def _kernel_shares(profile: dict[str, Any]) -> Iterator[Figure]:
    kernels = [kernel for kernel in profile.get("kernels") or [] if kernel.get("share")][:MOST_BARS]
    if not kernels:
        return
    names, shares = [kernel["name"] for kernel in kernels], [kernel["share"] for kernel in kernels]
    finding = f"The longest kernel, {names[0]}, takes {shares[0]:.1%} of all kernels' time; "
    finding += f"the first {len(kernels)} together {sum(shares):.1%}."
    of = ", ".join(filter(None, [profile.get("source", "a profile"), profile["label"], profile.get("device")]))
    file, title = f"kernels_{profile.get('source')}_{profile['label']}", f"Kernels by time ({of})"
    series = [Series("", [], [share * 100 for share in shares], "bars")]
    yield Figure(file, title, finding, series, "% of kernels' time", rows=names)


def roofline(profile: dict[str, Any]) -> Iterator[Figure]:
    """The rate of each kernel over its arithmetic intensity; nothing where a profile does not count them."""
    needed = ("flops", "dram_bytes", "seconds")
    known = [kernel for kernel in profile.get("kernels") or [] if all(map(kernel.get, needed))]
    if not known:
        return
    total = sum(kernel["seconds"] for kernel in known)
    kernels = [kernel for kernel in known if kernel["seconds"] >= SMALLEST_SHARE * total]
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
    finding = f"The fastest of {len(kernels)} kernels, {kernels[rates.index(max(rates))]['name']}, "
    finding += f"runs at {max(rates):,.1f} TFLOP/s"
    finding += f", {max(rates) / peak:.1%} of the tensor cores' peak." if peak else "."
    of = ", ".join(filter(None, [profile["label"], profile.get("device")]))
    labels = ("FLOP per byte of memory traffic", "TFLOP/s")
    yield Figure(f"roofline_{profile['label']}", f"Roofline ({of})", finding, series, *labels, log=True)
