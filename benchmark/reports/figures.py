"""The pictures of a report: what each shows, and what it says of that in words."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmark.reports.data import Result, by_series, by_subject, measured, subject_title
from benchmark.reports.drawing import COLORS, SMALL, Figure, add_legend, annotate, line_style, render
from benchmark.reports.logs import Run
from benchmark.reports.references import references_for
from benchmark.sweeps.repeats import Repeats

PARTS = ("data", "forward", "backward", "forward_backward", "reduction", "optimizer", "other")
MOST_BARS = 10
SMALLEST_SHARE = 0.002  # of a roofline's time; smaller kernels would spread its axes over ten more powers of ten
WRONG = "#e5484d"
REFERENCE = "#8b949e"
DASHES = ("--", ":", "-.")
MEMORY = "peak_memory_allocated_bytes"


def make_figures(results: Sequence[Result]) -> list[Figure]:
    """All that the results have data for.

    Raises:
        UserError: matplotlib is not installed.
    """
    return [render(figure) for figure in _with_unique_names(plan_figures(results))]


def plan_figures(results: Sequence[Result]) -> Iterator[Figure]:
    """The figures, not yet drawn."""
    for group in by_subject(measured(results)):
        yield from _throughput(group)
        yield from _breakdown(group)
        yield from _memory(group)
    runs = [run for result in results for run in result.runs]
    for name, words in (("average_loss", "Training loss"), ("learning_rate", "Learning rate")):
        for phase in ("phase 1", "phase 2", "SQuAD"):
            yield from _curves(name, words, phase, runs)
    for result in results:
        for profile in (*result.kernels, *result.timelines):
            yield from _kernel_shares(profile)
        for profile in result.kernels:
            yield from roofline(profile)


def _with_unique_names(figures: Iterable[Figure]) -> Iterator[Figure]:
    """With names, which become files, that are plain and differ."""
    seen: set[str] = set()
    for figure in figures:
        plain = "".join(sign if sign.isalnum() else "_" for sign in figure.name).strip("_").lower()
        name, number = plain, 2
        while name in seen:
            name, number = f"{plain}_{number}", number + 1
        seen.add(name)
        yield figure._replace(name=name)


def _name(kind: str, group: Sequence[Repeats]) -> str:
    configuration = group[0].configuration
    return f"{kind}_{configuration.get('workload')}_{configuration.get('max_seq_length')}"


def _title(words: str, group: Sequence[Repeats]) -> str:
    """With the machine, as a slide shows a picture alone."""
    machines = " and ".join(dict.fromkeys(repeats.hardware for repeats in group if repeats.hardware))
    return ", ".join(filter(None, [f"{words}: {subject_title(group[0].configuration)}", machines]))


def _add_sizes_axis(axes: Any, group: Sequence[Repeats]) -> None:
    ticks = sorted({repeats.batch_size for repeats in group})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"sequences per {group[0].unit} and step")


def _throughput(group: list[Repeats]) -> Iterator[Figure]:
    timed = [repeats for repeats in group if repeats.rates_per_gpu]
    if not timed:
        return
    references = references_for(timed[0].configuration)
    right = [repeats for repeats in timed if repeats.status == "ok"]
    # A wrong run may be absurdly fast: it must not press the others flat.
    heights = [rate for repeats in right or timed for rate in repeats.rates_per_gpu]
    top = 1.12 * max(heights + [reference.rate for reference in references])

    def draw(axes: Any) -> None:
        for place, (name, row) in enumerate(by_series(group).items()):
            _draw_series(axes, name, row, line_style(place), top)
        for place, reference in enumerate(references):
            style = {"linestyle": DASHES[place % len(DASHES)], "linewidth": 1.4, "color": REFERENCE}
            axes.axhline(reference.rate, label=f"{reference.label}: {reference.rate:,g}", **style)
        _add_sizes_axis(axes, group)
        axes.set_ylim(0, top)
        axes.set_ylabel(f"sequences/s per {group[0].unit}")
        add_legend(axes)

    finding = _throughput_finding(group, timed, right)
    if references:
        published = "; ".join(f"{reference.label} {reference.rate:,g}" for reference in references)
        finding += f" Grey lines, published for other hardware, precision or software: {published}."
    yield Figure(_name("throughput", group), _title("Throughput", group), finding, draw)


def _throughput_finding(group: list[Repeats], timed: list[Repeats], right: list[Repeats]) -> str:
    finding = "None of the points trained as it should."
    if right:
        best = max(right, key=lambda repeats: statistics.median(repeats.rates_per_gpu))
        finding = f"Highest: {statistics.median(best.rates_per_gpu):,.1f} sequences/s per {best.unit}, "
        finding += f"at {best.batch_size} per step."
    spreads = [max(rates) / min(rates) - 1 for rates in (repeats.rates_per_gpu for repeats in timed) if len(rates) > 1]
    finding += f" Repeats lie within {max(spreads):.1%} of each other." if spreads else ""
    ended = [repeats.batch_size for repeats in group if repeats.status == "out of memory"]
    finding += f" Memory ends at {min(ended)}." if ended else ""
    wrong = [repeats for repeats in group if repeats.status == "wrong"]
    return finding + (f" {len(wrong)} of the points trained wrongly." if wrong else "")


def _draw_series(axes: Any, name: str, row: list[Repeats], style: dict[str, str], top: float) -> None:
    good = [repeats for repeats in row if repeats.status == "ok"]
    sizes = [repeats.batch_size for repeats in good]
    rates = [repeats.rates_per_gpu for repeats in good]
    middle = [statistics.median(each) for each in rates]
    below = [at - min(each) for at, each in zip(middle, rates, strict=True)]
    above = [max(each) - at for at, each in zip(middle, rates, strict=True)]
    axes.plot(sizes, middle, label=name, **style)
    axes.errorbar(sizes, middle, yerr=[below, above], color=style["color"], linestyle="none", capsize=4)
    for repeats in (repeats for repeats in row if repeats.status != "ok"):
        words, height, color = repeats.status, 0.0, style["color"]
        if repeats.rates_per_gpu:
            rate = statistics.median(repeats.rates_per_gpu)
            words, height, color = f"wrong: {rate:,.0f}", min(rate, top), WRONG
        axes.plot(repeats.batch_size, height, marker="x", markersize=9, color=color, linestyle="none", clip_on=False)
        annotate(axes, words, repeats.batch_size, height, below=height > top / 2)


def _breakdown(group: list[Repeats]) -> Iterator[Figure]:
    series = by_series(group)
    rows = [
        (f"{name} · {repeats.batch_size}" if len(series) > 1 else f"batch {repeats.batch_size}", repeats.parts)
        for name, row in series.items()
        for repeats in row
        if sum(repeats.parts.values()) > 0
    ][-MOST_BARS:]
    if not rows:
        return
    names = [name for name in PARTS if any(parts.get(name) for _, parts in rows)]

    def draw(axes: Any) -> None:
        left = [0.0] * len(rows)
        for color, name in zip(COLORS, names, strict=False):
            widths = [parts.get(name, 0) / sum(parts.values()) * 100 for _, parts in rows]
            axes.barh([label for label, _ in rows], widths, left=left, color=color, label=name, height=0.65)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, (_, parts) in enumerate(rows):
            axes.text(101, place, f"{sum(parts.values()) * 1e3:,.1f} ms", va="center", fontsize=SMALL)
        axes.set_xlim(0, 120)
        axes.set_xticks(range(0, 101, 25))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("% of the step")
        add_legend(axes, columns=3)

    label, last = rows[-1]
    total = sum(last.values())
    shares = ", ".join(f"{name} {last.get(name, 0) / total:.1%}" for name in names)
    finding = f"At {label}, of a step of {total * 1e3:,.1f} ms: {shares}."
    yield Figure(_name("step", group), _title("Where a step goes", group), finding, draw)


def _memory(group: list[Repeats]) -> Iterator[Figure]:
    kept = [repeats for repeats in group if repeats.values(MEMORY)]
    if not kept:
        return

    def gibibytes(repeats: Repeats) -> float:
        return statistics.median(repeats.values(MEMORY)) / 2**30

    def draw(axes: Any) -> None:
        for place, (name, row) in enumerate(by_series(kept).items()):
            axes.plot([each.batch_size for each in row], list(map(gibibytes, row)), label=name, **line_style(place))
        _add_sizes_axis(axes, kept)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("peak memory allocated, GiB")
        add_legend(axes)

    most, least = max(kept, key=gibibytes), min(kept, key=gibibytes)
    finding = (
        f"Peak allocated memory is {gibibytes(most):,.1f} GiB at {most.batch_size} sequences per {most.unit} and step"
    )
    same = gibibytes(most) <= 1.01 * gibibytes(least)
    finding += ", and within 1 % of it at all sizes." if same else ", the most of all."
    yield Figure(_name("memory", group), _title("Memory", group), finding, draw)


def _curves(name: str, words: str, phase_name: str, runs: Sequence[Run]) -> Iterator[Figure]:
    known, sentences = {}, []
    for run in runs:
        for curve in (phase.curve(name) for number, phase in run.phases.items() if run.name_of(number) == phase_name):
            points = [(step, value) for step, value in curve if math.isfinite(value)]
            if points:
                known[run.label] = points
                said = f"{run.label}: from {points[0][1]:.4g} to {points[-1][1]:.4g} over {points[-1][0]:,} steps"
                lost = len(curve) - len(points)
                sentences.append(said + (f", with {lost} steps that are no number" if lost else ""))
    if not known:
        return

    def draw(axes: Any) -> None:
        for place, (label, points) in enumerate(known.items()):
            every = max(1, len(points) // 6)
            axes.plot(*zip(*points, strict=True), markevery=every, label=label, **line_style(place))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(words.lower())
        add_legend(axes)

    yield Figure(f"{phase_name.replace(' ', '')}_{name}", f"{words}, {phase_name}", "; ".join(sentences) + ".", draw)


def _kernel_shares(profile: dict[str, Any]) -> Iterator[Figure]:
    kernels = [kernel for kernel in profile.get("kernels") or [] if kernel.get("share")][:MOST_BARS]
    if not kernels:
        return

    def draw(axes: Any) -> None:
        axes.barh(range(len(kernels)), [kernel["share"] * 100 for kernel in kernels], color=COLORS[0], height=0.35)
        for place, kernel in enumerate(kernels):
            axes.text(0, place - 0.25, _shortened(kernel["name"]), va="bottom", fontsize=SMALL)
        axes.set_yticks([])
        axes.set_ylim(len(kernels) - 0.4, -0.9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("% of kernels' time")

    finding = f"The longest kernel, {kernels[0]['name']}, takes {kernels[0]['share']:.1%} of all kernels' time; "
    finding += f"the first {len(kernels)} together {sum(kernel['share'] for kernel in kernels):.1%}."
    of = ", ".join(filter(None, [profile.get("source", "a profile"), profile["label"], profile.get("device")]))
    yield Figure(f"kernels_{profile.get('source')}_{profile['label']}", f"Kernels by time ({of})", finding, draw)


def _shortened(name: str, length: int = 46) -> str:
    return name if len(name) <= length else f"{name[: length - 12]}…{name[-11:]}"


def roofline(profile: dict[str, Any]) -> Iterator[Figure]:
    """The rate of each kernel over its arithmetic intensity; nothing where a profile does not count them."""
    needed = ("flops", "dram_bytes", "seconds")
    known = [kernel for kernel in profile.get("kernels") or [] if all(map(kernel.get, needed))]
    if not known:
        return
    total = sum(kernel["seconds"] for kernel in known)
    kernels = [kernel for kernel in known if kernel["seconds"] >= SMALLEST_SHARE * total]
    ceilings = profile.get("ceilings") or {}
    peak, bandwidth = ceilings.get("tensor_flops_per_second"), ceilings.get("dram_bytes_per_second")

    def draw(axes: Any) -> None:
        intensities = [kernel["flops"] / kernel["dram_bytes"] for kernel in kernels]
        rates = [kernel["flops"] / kernel["seconds"] / 1e12 for kernel in kernels]
        areas = [20 + 1500 * kernel["seconds"] / total for kernel in kernels]
        axes.scatter(intensities, rates, s=areas, color=COLORS[0], alpha=0.6, label="a kernel; area: its time")
        axes.set_xscale("log")
        axes.set_yscale("log")
        if peak and bandwidth:
            ridge = peak / bandwidth
            left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
            memory, tensor = f"memory {bandwidth / 1e12:.2f} TB/s", f"peak {peak / 1e12:,.0f} TFLOP/s"
            slope = [left * bandwidth / 1e12, peak / 1e12]
            axes.plot([left, ridge], slope, color=COLORS[2], linestyle="--", label=memory)
            axes.plot([ridge, right], [peak / 1e12] * 2, color=COLORS[1], linestyle="--", label=tensor)
        axes.set_xlabel("FLOP per byte of memory traffic")
        axes.set_ylabel("TFLOP/s")
        add_legend(axes)

    fastest = max(kernels, key=lambda kernel: kernel["flops"] / kernel["seconds"])
    rate = fastest["flops"] / fastest["seconds"]
    finding = f"The fastest of {len(kernels)} kernels, {fastest['name']}, runs at {rate / 1e12:,.1f} TFLOP/s"
    finding += f", {rate / peak:.1%} of the tensor cores' peak." if peak else "."
    if len(known) > len(kernels):
        finding += f" Left out: {len(known) - len(kernels)}, each with less than {SMALLEST_SHARE:.1%} of the time."
    of = ", ".join(filter(None, [profile["label"], profile.get("device")]))
    yield Figure(f"roofline_{profile['label']}", f"Roofline ({of})", finding, draw)
