"""The pictures of a report, drawn by matplotlib, each for a light and a dark page.

Pixels and not SVG, as they are taken into slides. A picture carries its finding in words, which is its alternative
text: who cannot see it learns the same. Lines differ by marker as well as by colour (Okabe and Ito's palette, which
colour-blind readers tell apart), and letters are large against the picture, so that it can be read on a phone.
"""

import io
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmark.reports.data import Bar, Result, bars, by_series, by_subject, subject_title
from benchmark.reports.references import references_for
from common.errors import UserError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = "osD^vP"
THEMES = MappingProxyType({"light": ("#ffffff", "#1b1f24", "#d0d7de"), "dark": ("#161b22", "#e6edf3", "#3d444d")})
PARTS = ("data", "forward", "backward", "forward_backward", "reduction", "optimizer", "other")
SIZE = (4.4, 4.0)  # inches
TITLE_LETTERS = 44  # of a line
DOTS = 240  # per inch
COLOURS_PER_PICTURE = 64  # with those between letters and background
SMALL = 10  # points, of the smallest letters
MOST_BARS = 10
LETTERS_IN_HALF = 24  # of a legend in two columns
SMALLEST_SHARE = 0.002  # of a roofline's time; smaller kernels would spread its axes over ten more powers of ten
WRONG = "#e5484d"
REFERENCE = "#8b949e"
DASHES = ("--", ":", "-.")


class Figure(NamedTuple):
    """One picture."""

    name: str
    title: str
    finding: str
    """What it shows, in words: the alternative text."""
    images: dict[str, bytes]
    """PNG by theme."""


class _Plan(NamedTuple):
    name: str
    title: str
    finding: str
    draw: Callable[[Any], None]


def make_figures(results: Sequence[Result]) -> list[Figure]:
    """All that the results have data for.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("matplotlib is not installed", "`pip install -r requirements.txt` brings it") from error
    matplotlib.use("Agg")
    return [
        Figure(plan.name, plan.title, plan.finding, {theme: _render(plan, theme) for theme in THEMES})
        for plan in _unique(_plans(results))
    ]


def _plans(results: Sequence[Result]) -> Iterator[_Plan]:
    for group in by_subject(bars(results)):
        yield from _throughput(group)
        yield from _breakdown(group)
        yield from _memory(group)
    runs = [run for result in results for run in result.runs]
    for name, words in (("average_loss", "Training loss"), ("learning_rate", "Learning rate")):
        for phase in ("phase 1", "phase 2", "SQuAD"):
            curves = {run.label: run.curves.get(f"{phase} {name}") for run in runs}
            yield from _curves(f"{phase.replace(' ', '')}_{name}", f"{words}, {phase}", curves)
    for result in results:
        for profile in (*result.kernels, *result.timelines):
            yield from _kernel_shares(profile["label"], profile)
        for profile in result.kernels:
            yield from _roofline(profile["label"], profile)


def _unique(plans: Iterable[_Plan]) -> Iterator[_Plan]:
    """With names, which become files, that are plain and differ."""
    seen: set[str] = set()
    for plan in plans:
        plain = "".join(sign if sign.isalnum() else "_" for sign in plan.name).strip("_").lower()
        name, number = plain, 2
        while name in seen:
            name, number = f"{plain}_{number}", number + 1
        seen.add(name)
        yield plan._replace(name=name)


@contextmanager
def _theme(theme: str) -> Iterator[None]:
    import matplotlib

    background, text, grid = THEMES[theme]
    settings = {
        "font.size": 12,
        "figure.facecolor": background,
        "axes.facecolor": background,
        "savefig.facecolor": background,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": grid,
        "axes.edgecolor": grid,
        "legend.frameon": False,
        "legend.fontsize": 11,
        "lines.linewidth": 2,
        "lines.markersize": 7,
    }
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), text)
    with matplotlib.rc_context(settings):
        yield


def _render(plan: _Plan, theme: str) -> bytes:
    # Figure and not pyplot, which keeps every figure that it makes.
    from matplotlib.figure import Figure as Canvas
    from PIL import Image  # matplotlib brings it

    with _theme(theme):
        canvas = Canvas(figsize=SIZE, dpi=DOTS, layout="constrained")
        canvas.suptitle("\n".join(textwrap.wrap(plan.title, TITLE_LETTERS)), fontsize=12, fontweight="bold")
        axes = canvas.add_subplot()
        plan.draw(axes)
        drawn, file = io.BytesIO(), io.BytesIO()
        canvas.savefig(drawn, format="png")
    # Few colours: a third of the size, of which a page has up to forty pictures.
    Image.open(drawn).convert("RGB").quantize(COLOURS_PER_PICTURE).save(file, format="png", optimize=True)
    return file.getvalue()


def _legend(axes: Any, columns: int | None = None) -> None:
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        columns = columns or (2 if len(labels) > 2 and max(map(len, labels)) <= LETTERS_IN_HALF else 1)
        axes.figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=1.6)


def _name(kind: str, group: Sequence[Bar]) -> str:
    configuration = group[0].configuration
    return f"{kind}_{configuration.get('workload')}_{configuration.get('max_seq_length')}"


def _title(words: str, group: Sequence[Bar]) -> str:
    """With the machine, as a slide shows a picture alone."""
    machines = dict.fromkeys(bar.hardware for bar in group if bar.hardware)
    return ", ".join(
        [f"{words}: {subject_title(group[0].configuration)}", *([" and ".join(machines)] if machines else [])]
    )


def _sizes_axis(axes: Any, group: Sequence[Bar]) -> None:
    ticks = sorted({bar.batch_size for bar in group if bar.batch_size})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"sequences per {group[0].unit} and step")


def _throughput(group: list[Bar]) -> Iterator[_Plan]:
    series = by_series([bar for bar in group if bar.batch_size])
    measured = [bar for bar in group if bar.batch_size and bar.rates_per_gpu]
    if not measured:
        return
    references = references_for(measured[0].configuration)
    right = [bar for bar in measured if bar.status == "ok"]
    finding = "None of the points trained as it should."
    if right:
        best = max(right, key=lambda bar: statistics.median(bar.rates_per_gpu))
        finding = f"Highest: {statistics.median(best.rates_per_gpu):,.1f} sequences/s per {best.unit}, "
        finding += f"at {best.batch_size} per step."
    spreads = [max(values) / min(values) - 1 for bar in measured if len(values := bar.rates_per_gpu) > 1]
    finding += f" Repeats lie within {max(spreads):.1%} of each other." if spreads else ""
    ended = sorted({bar.batch_size for bar in group if bar.status == "out of memory" and bar.batch_size})
    finding += f" Memory ends at {ended[0]}." if ended else ""
    wrong = [bar for bar in group if bar.status == "wrong"]
    finding += f" {len(wrong)} of the points trained wrongly." if wrong else ""
    if references:
        published = "; ".join(f"{reference.label} {reference.rate:,g}" for reference in references)
        finding += f" Grey lines, published for other hardware, precision or software: {published}."

    # A wrong run may be absurdly fast: it must not press the others flat.
    heights = [rate for bar in right or measured for rate in bar.rates_per_gpu]
    top = 1.12 * max(heights + [reference.rate for reference in references])

    def draw(axes: Any) -> None:
        for place, (name, row) in enumerate(series.items()):
            _draw_series(axes, name, row, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], top)
        for place, reference in enumerate(references):
            label = f"{reference.label}: {reference.rate:,g}"
            axes.axhline(
                reference.rate, linestyle=DASHES[place % len(DASHES)], linewidth=1.4, color=REFERENCE, label=label
            )
        _sizes_axis(axes, group)
        axes.set_ylim(0, top)
        axes.set_ylabel(f"sequences/s per {group[0].unit}")
        _legend(axes)

    yield _Plan(_name("throughput", group), _title("Throughput", group), finding, draw)


def _draw_series(axes: Any, name: str, row: list[Bar], colour: str, marker: str, top: float) -> None:
    good = [bar for bar in row if bar.status == "ok"]
    middle = [statistics.median(bar.rates_per_gpu) for bar in good]
    reach = [
        [at - min(bar.rates_per_gpu) for at, bar in zip(middle, good, strict=True)],
        [max(bar.rates_per_gpu) - at for at, bar in zip(middle, good, strict=True)],
    ]
    sizes = [bar.batch_size for bar in good]
    axes.plot(sizes, middle, color=colour, marker=marker, label=name)
    axes.errorbar(sizes, middle, yerr=reach, color=colour, linestyle="none", capsize=4)
    for bar in row:
        if bar.status != "ok":
            words, height, hue = bar.status, 0.0, colour
            if bar.rates_per_gpu:
                rate = statistics.median(bar.rates_per_gpu)
                words, height, hue = f"wrong: {rate:,.0f}", min(rate, top), WRONG
            axes.plot(bar.batch_size, height, marker="x", markersize=9, color=hue, linestyle="none", clip_on=False)
            _beside(axes, words, bar.batch_size, height, below=height > top / 2)


def _beside(axes: Any, words: str, size: float | None, height: float, below: bool) -> None:
    """Upright letters over or under a mark, on a patch of background, as lines may run through them."""
    place = {"xytext": (0, -10 if below else 10), "textcoords": "offset points", "va": "top" if below else "bottom"}
    patch = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1.0}
    axes.annotate(words, (size, height), rotation=90, ha="center", fontsize=SMALL, bbox=patch, zorder=5, **place)


def _breakdown(group: list[Bar]) -> Iterator[_Plan]:
    rows = [
        (f"{name} · {bar.batch_size}" if len(by_series(group)) > 1 else f"batch {bar.batch_size}", bar)
        for name, row in by_series(group).items()
        for bar in row
        if sum(bar.parts.values()) > 0
    ][-MOST_BARS:]
    if not rows:
        return
    names = [name for name in PARTS if any(bar.parts.get(name) for _, bar in rows)]
    label, last = rows[-1]
    total = sum(last.parts.values())
    shares = ", ".join(f"{name} {last.parts.get(name, 0) / total:.1%}" for name in names)
    finding = f"At {label}, of a step of {total * 1e3:,.1f} ms: {shares}."

    def draw(axes: Any) -> None:
        left = [0.0] * len(rows)
        for place, name in enumerate(names):
            widths = [bar.parts.get(name, 0) / sum(bar.parts.values()) * 100 for _, bar in rows]
            axes.barh([label for label, _ in rows], widths, left=left, color=COLOURS[place], label=name, height=0.65)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, (_, bar) in enumerate(rows):
            axes.text(101, place, f"{sum(bar.parts.values()) * 1e3:,.1f} ms", va="center", fontsize=SMALL)
        axes.set_xlim(0, 120)
        axes.set_xticks(range(0, 101, 25))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("% of the step")
        _legend(axes, columns=3)

    yield _Plan(_name("step", group), _title("Where a step goes", group), finding, draw)


def _memory(group: list[Bar]) -> Iterator[_Plan]:
    kept = [bar for bar in group if bar.batch_size and bar.values("peak_memory_allocated_bytes")]
    if not kept:
        return
    most = max(kept, key=lambda bar: bar.median("peak_memory_allocated_bytes") or 0)
    gigabytes = (most.median("peak_memory_allocated_bytes") or 0) / 2**30
    least = min(bar.median("peak_memory_allocated_bytes") or 0 for bar in kept) / 2**30
    finding = f"Peak allocated memory is {gigabytes:,.1f} GiB at {most.batch_size} sequences per {most.unit} and step"
    finding += ", the most of all." if gigabytes > 1.01 * least else ", and within 1 % of it at all sizes."

    def draw(axes: Any) -> None:
        for place, (name, row) in enumerate(by_series(kept).items()):
            values = [(bar.median("peak_memory_allocated_bytes") or 0) / 2**30 for bar in row]
            sizes = [bar.batch_size for bar in row]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(sizes, values, color=colour, marker=MARKERS[place % len(MARKERS)], label=name)
        _sizes_axis(axes, kept)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("peak memory allocated, GiB")
        _legend(axes)

    yield _Plan(_name("memory", group), _title("Memory", group), finding, draw)


def _curves(name: str, title: str, curves: dict[str, list[tuple[int, float]] | None]) -> Iterator[_Plan]:
    found = {label: curve for label, curve in curves.items() if curve}
    finite = {label: [point for point in curve if math.isfinite(point[1])] for label, curve in found.items()}
    known = {label: points for label, points in finite.items() if points}
    if not known:
        return
    sentences = []
    for label, points in known.items():
        sentences.append(f"{label}: from {points[0][1]:.4g} to {points[-1][1]:.4g} over {points[-1][0]:,} steps")
        lost = len(found[label]) - len(points)
        if lost:
            sentences[-1] += f", with {lost} steps that are no number"

    def draw(axes: Any) -> None:
        for place, (label, points) in enumerate(known.items()):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            every = max(1, len(points) // 6)
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markevery=every, label=label)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(title.split(",")[0].lower())
        _legend(axes)

    yield _Plan(name, title, "; ".join(sentences) + ".", draw)


def _kernel_shares(label: str, profile: dict[str, Any]) -> Iterator[_Plan]:
    kernels = [kernel for kernel in profile.get("kernels") or [] if kernel.get("share")][:MOST_BARS]
    if not kernels:
        return
    of = ", ".join(filter(None, [profile.get("source", "a profile"), label, profile.get("device")]))
    finding = f"The longest kernel, {kernels[0]['name']}, takes {kernels[0]['share']:.1%} of all kernels' time; "
    finding += f"the first {len(kernels)} together {sum(kernel['share'] for kernel in kernels):.1%}."

    def draw(axes: Any) -> None:
        axes.barh(range(len(kernels)), [kernel["share"] * 100 for kernel in kernels], color=COLOURS[0], height=0.35)
        for place, kernel in enumerate(kernels):
            axes.text(0, place - 0.25, _short(kernel["name"]), va="bottom", fontsize=SMALL)
        axes.set_yticks([])
        axes.set_ylim(len(kernels) - 0.4, -0.9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("% of kernels' time")

    yield _Plan(f"kernels_{profile.get('source')}_{label}", f"Kernels by time ({of})", finding, draw)


def _short(name: str, length: int = 46) -> str:
    return name if len(name) <= length else f"{name[: length - 12]}…{name[-11:]}"


def _roofline(label: str, profile: dict[str, Any]) -> Iterator[_Plan]:
    known = [
        kernel
        for kernel in profile.get("kernels") or []
        if all(kernel.get(name) for name in ("flops", "dram_bytes", "seconds"))
    ]
    if not known:
        return
    total = sum(kernel["seconds"] for kernel in known)
    kernels = [kernel for kernel in known if kernel["seconds"] >= SMALLEST_SHARE * total]
    ceilings = profile.get("ceilings") or {}
    peak, bandwidth = ceilings.get("tensor_flops_per_second"), ceilings.get("dram_bytes_per_second")
    fastest = max(kernels, key=lambda kernel: kernel["flops"] / kernel["seconds"])
    finding = f"The fastest of {len(kernels)} kernels, {fastest['name']}, runs at "
    finding += f"{fastest['flops'] / fastest['seconds'] / 1e12:,.1f} TFLOP/s"
    finding += f", {fastest['flops'] / fastest['seconds'] / peak:.1%} of the tensor cores' peak." if peak else "."
    if len(known) > len(kernels):
        finding += f" Left out: {len(known) - len(kernels)}, each with less than {SMALLEST_SHARE:.1%} of the time."

    def draw(axes: Any) -> None:
        intensities = [kernel["flops"] / kernel["dram_bytes"] for kernel in kernels]
        rates = [kernel["flops"] / kernel["seconds"] / 1e12 for kernel in kernels]
        areas = [20 + 1500 * kernel["seconds"] / total for kernel in kernels]
        axes.scatter(intensities, rates, s=areas, color=COLOURS[0], alpha=0.6, label="a kernel; area: its time")
        axes.set_xscale("log")
        axes.set_yscale("log")
        if peak and bandwidth:
            ridge = peak / bandwidth
            left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
            memory, tensor = f"memory {bandwidth / 1e12:.2f} TB/s", f"peak {peak / 1e12:,.0f} TFLOP/s"
            slope = [left * bandwidth / 1e12, peak / 1e12]
            axes.plot([left, ridge], slope, color=COLOURS[2], linestyle="--", label=memory)
            axes.plot([ridge, right], [peak / 1e12] * 2, color=COLOURS[1], linestyle="--", label=tensor)
        axes.set_xlabel("FLOP per byte of memory traffic")
        axes.set_ylabel("TFLOP/s")
        _legend(axes)

    of = ", ".join(filter(None, [label, profile.get("device")]))
    yield _Plan(f"roofline_{label}", f"Roofline ({of})", finding, draw)
