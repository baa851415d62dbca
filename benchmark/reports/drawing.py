"""How the pictures of a report are drawn: by matplotlib, each for a light and a dark page.

Pixels and not SVG, as they are taken into slides; letters are large against them, for phones. A picture carries its
finding in words as alternative text. Lines differ by marker as well as by color, of Okabe and Ito's palette.
"""

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure as Canvas  # not pyplot, which keeps every figure that it makes
from PIL import Image  # matplotlib brings it

from benchmark.tables import escape_markdown, one_line

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = "osD^vP"
GREY, DASHES = "#8b949e", ("--", ":", "-.")
# Background, letters and grid.
THEMES = MappingProxyType({"light": ("#ffffff", "#1b1f24", "#d0d7de"), "dark": ("#161b22", "#e6edf3", "#3d444d")})
DOTS = 240  # per inch
SMALL = 10  # points, of the smallest letters
TITLE_LETTERS = 40  # of a line
LETTERS_IN_HALF, LETTERS_IN_LINE = 24, 44  # of a legend, in two columns and in one
LETTERS_OVER_BAR = 46
MOST_ROWS = 10  # of bars, in a picture


class Series(NamedTuple):
    """What a picture shows of one thing."""

    label: str
    x: Sequence[float]  # empty for bars, which are stacked, and for a guide that is the same everywhere
    y: Sequence[float]
    # line; marks, in the color of the line before; guide (grey dashes); discs; bars; spans, from x to y in each row
    kind: str = "line"
    spread: Sequence[Sequence[float]] | None = None  # of a line: how far its bars reach below and above each mark
    areas: Sequence[float] = ()  # of discs
    crosses: Sequence[tuple[float, str]] = ()  # x and words of what a line does not lead through, drawn on the axis


class Figure(NamedTuple):
    """One picture."""

    name: str
    title: str
    finding: str  # what it shows, in words: the alternative text
    series: Sequence[Series]
    x_label: str
    y_label: str = ""
    sizes: Sequence[int] = ()  # ticks of a logarithmic axis; the other one begins at zero
    log: bool = False  # both axes are logarithmic
    rows: Sequence[str] = ()  # words over each bar
    images: Mapping[str, bytes] = MappingProxyType({})  # PNG by theme, once it is rendered

    def markdown(self) -> str:
        """Shows the file beside it, which has the title."""
        return f"![{escape_markdown(self.title)}]({self.name}.png)\n\n{escape_markdown(self.finding)}\n"

    def html(self) -> str:
        """A figure of a page. The title is in the picture; as a heading it is there for who does not see that."""
        light, dark = (base64.b64encode(self.images[theme]).decode() for theme in ("light", "dark"))
        return (
            f'<figure><h3 class="unseen">{escape(self.title)}</h3><picture>'
            f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
            f'<img src="data:image/png;base64,{light}" alt="{escape(self.finding)}"></picture>'
            f"<figcaption>{escape(self.finding)}</figcaption></figure>\n"
        )


def render(figure: Figure) -> Figure:
    """The figure with its images."""
    # Fonts draw no control characters and no half characters; legends leave out what begins with an underscore.
    labels = [re.sub("^_", " _", one_line(series.label)) for series in figure.series]
    series = [each._replace(label=label) for each, label in zip(figure.series, labels, strict=True)]
    figure = figure._replace(title=one_line(figure.title), series=series, rows=[*map(one_line, figure.rows)])
    n_lines = sum(len(textwrap.wrap(each.label, LETTERS_IN_LINE)) for each in series)
    # Inches: a long legend and many bars get height of their own.
    height = 4.0 + 0.2 * max(0, n_lines - 4) + 0.3 * max(0, len(figure.rows) - 6)
    images = {}
    for theme in THEMES:
        drawn, file = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(style_of(theme)):
            canvas = Canvas(figsize=(4.4, height), dpi=DOTS, layout="constrained")
            canvas.suptitle("\n".join(textwrap.wrap(figure.title, TITLE_LETTERS)), fontsize=12, fontweight="bold")
            draw(figure, canvas.add_subplot())
            canvas.savefig(drawn, format="png")
        # A third of the size, in 64 colors with those between letters and background.
        Image.open(drawn).convert("RGB").quantize(64).save(file, format="png", optimize=True)
        images[theme] = file.getvalue()
    return figure._replace(images=images)


def style_of(theme: str) -> dict[str, Any]:
    """matplotlib's settings for a theme."""
    background, letters, grid = THEMES[theme]
    style: dict[str, Any] = {"text.parse_math": False}  # names may hold dollar signs
    style |= {"font.size": 12, "legend.fontsize": 11, "lines.linewidth": 2, "lines.markersize": 7}
    style |= dict.fromkeys(("axes.grid", "axes.axisbelow"), True)
    style |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), background)
    style |= dict.fromkeys(("grid.color", "axes.edgecolor"), grid)
    return style | dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), letters)


def draw(figure: Figure, axes: Any) -> None:
    """Draw it on matplotlib's axes."""
    for place, series in enumerate(figure.series):
        color = COLORS[(place - (series.kind == "marks")) % len(COLORS)]
        _draw_series(figure, place, axes, {"color": color, "label": series.label})
        for x, words in series.crosses:
            axes.plot(x, 0, marker="x", markersize=9, color=color, linestyle="none", clip_on=False)
            # Upright over the cross, on a patch of background, as lines may run through the letters.
            patch = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1.0}
            upright = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center", "va": "bottom", "rotation": 90}
            axes.annotate(words, (x, 0), fontsize=SMALL, bbox=patch, zorder=5, **upright)
    _scale(figure, axes)
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    _add_legend(axes, list(dict.fromkeys(series.label for series in figure.series if series.label)))


def _draw_series(figure: Figure, place: int, axes: Any, style: dict[str, Any]) -> None:
    series, rows = figure.series[place], range(len(figure.rows))
    if series.kind == "bars":
        left = [sum(before.y[row] for before in figure.series[:place]) for row in rows]
        axes.barh(rows, series.y, left=left, height=0.35, **style)
    elif series.kind == "spans":
        widths = [end - start for start, end in zip(series.x, series.y, strict=True)]
        axes.barh(rows, widths, left=series.x, height=0.12 + 0.23 * place, **style)
    elif series.kind == "marks":
        axes.plot(series.x, series.y, "o", markerfacecolor=axes.get_facecolor(), markeredgewidth=2, **style)
    elif series.kind == "discs":
        axes.scatter(series.x, series.y, s=series.areas, alpha=0.6, **style)
    elif series.kind == "guide":
        style |= {"color": GREY, "linewidth": 1.4, "linestyle": DASHES[place % len(DASHES)]}
        axes.plot(series.x, series.y, **style) if series.x else axes.axhline(series.y[0], **style)
    else:
        is_alone = not series.spread and sum(each.kind == "line" for each in figure.series) == 1
        every = 1 if series.spread else max(1, len(series.x) // 6)
        style |= {"marker": None if is_alone else MARKERS[place % len(MARKERS)], "markevery": every, "capsize": 4}
        axes.errorbar(series.x, series.y, series.spread, **style)


def _scale(figure: Figure, axes: Any) -> None:
    """Scales and ticks, and the words over bars."""
    for place, words in enumerate(figure.rows):
        shown = words if len(words) <= LETTERS_OVER_BAR else f"{words[: LETTERS_OVER_BAR - 12]}…{words[-11:]}"
        left_edge = axes.get_yaxis_transform()  # 0 is the edge, whatever the axis begins with
        axes.text(0, place - 0.25, shown, va="bottom", fontsize=SMALL, transform=left_edge)
    if figure.rows:
        axes.use_sticky_edges = figure.series[0].kind == "bars"  # which begin at the edge; spans keep away from it
        axes.autoscale_view(scaley=False)
        axes.set(yticks=[], ylim=(len(figure.rows) - 0.4, -0.9))
        axes.grid(axis="y", visible=False)
    elif figure.log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,g}")  # the usual one writes formulas, which are not parsed
            axis.set_minor_formatter("")
    elif figure.sizes:
        axes.set_xscale("log", base=2)
        axes.set_xticks(figure.sizes, [f"{size:,}" for size in figure.sizes])
        axes.minorticks_off()
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    else:
        axes.locator_params(axis="x", integer=True)  # steps


def _add_legend(axes: Any, labels: Sequence[str]) -> None:
    if not labels:
        return
    handles, names = axes.get_legend_handles_labels()
    drawn = dict(zip(names, handles, strict=True))
    columns = 2 if len(labels) > 2 and max(map(len, labels)) <= LETTERS_IN_HALF else 1
    place = {"loc": "outside lower center", "ncols": columns, "columnspacing": 1.0, "handlelength": 1.6}
    wrapped = ["\n".join(textwrap.wrap(label, LETTERS_IN_LINE)) for label in labels]
    legend = axes.figure.legend([drawn[label] for label in labels], wrapped, **place)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):  # a disc's own size may be that of the legend
            handle.set_sizes([60])
