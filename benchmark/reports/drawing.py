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
TITLE_LETTERS = 44  # of a line
LETTERS_IN_HALF = 24  # of a legend in two columns
LETTERS_OVER_BAR = 46


class Series(NamedTuple):
    """What a picture shows of one thing."""

    label: str
    x: Sequence[float]  # empty for bars, which are stacked, and for a guide that is the same everywhere
    y: Sequence[float]
    kind: str = "line"  # line, guide (grey dashes), discs or bars
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
        """A section that shows the file beside it."""
        title, finding = map(escape_markdown, (self.title, self.finding))
        return f"## {title}\n\n![{finding}]({self.name}.png)\n\n{finding}\n"

    def html(self) -> str:
        """A figure of a page. The title is in the picture; as a heading it is there for who does not see that."""
        light, dark = (base64.b64encode(self.images[theme]).decode() for theme in ("light", "dark"))
        return (
            f'<figure><h2 class="unseen">{escape(self.title)}</h2><picture>'
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
    images = {}
    for theme, (background, letters, grid) in THEMES.items():
        style: dict[str, Any] = {"text.parse_math": False}  # names may hold dollar signs
        style |= {"font.size": 12, "legend.fontsize": 11, "lines.linewidth": 2, "lines.markersize": 7}
        style |= dict.fromkeys(("axes.grid", "axes.axisbelow"), True)
        style |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
        style |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), background)
        style |= dict.fromkeys(("grid.color", "axes.edgecolor"), grid)
        style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), letters)
        drawn, file = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(style):
            canvas = Canvas(figsize=(4.4, 4.0), dpi=DOTS, layout="constrained")
            canvas.suptitle("\n".join(textwrap.wrap(figure.title, TITLE_LETTERS)), fontsize=12, fontweight="bold")
            draw(figure, canvas.add_subplot())
            canvas.savefig(drawn, format="png")
        # A third of the size, in 64 colors with those between letters and background.
        Image.open(drawn).convert("RGB").quantize(64).save(file, format="png", optimize=True)
        images[theme] = file.getvalue()
    return figure._replace(images=images)


def draw(figure: Figure, axes: Any) -> None:
    """Draw it on matplotlib's axes."""
    left = [0.0] * len(figure.rows)
    for place, series in enumerate(figure.series):
        style: dict[str, Any] = {"color": COLORS[place % len(COLORS)], "label": series.label}
        if series.kind == "bars":
            axes.barh(range(len(left)), series.y, left=left, height=0.35, **style)
            left = [start + width for start, width in zip(left, series.y, strict=True)]
        elif series.kind == "discs":
            axes.scatter(series.x, series.y, s=series.areas, alpha=0.6, **style)
        elif series.kind == "guide":
            style |= {"color": GREY, "linewidth": 1.4, "linestyle": DASHES[place % len(DASHES)]}
            axes.plot(series.x, series.y, **style) if series.x else axes.axhline(series.y[0], **style)
        else:
            every = 1 if series.spread else max(1, len(series.x) // 6)
            style |= {"marker": MARKERS[place % len(MARKERS)], "markevery": every, "capsize": 4}
            axes.errorbar(series.x, series.y, series.spread, **style)
        for x, words in series.crosses:
            axes.plot(x, 0, marker="x", markersize=9, color=style["color"], linestyle="none", clip_on=False)
            # Upright over the cross, on a patch of background, as lines may run through the letters.
            patch = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1.0}
            upright = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center", "va": "bottom", "rotation": 90}
            axes.annotate(words, (x, 0), fontsize=SMALL, bbox=patch, zorder=5, **upright)
    for place, words in enumerate(figure.rows):
        shown = words if len(words) <= LETTERS_OVER_BAR else f"{words[: LETTERS_OVER_BAR - 12]}…{words[-11:]}"
        axes.text(0, place - 0.25, shown, va="bottom", fontsize=SMALL)
    if figure.rows:
        axes.set(yticks=[], ylim=(len(figure.rows) - 0.4, -0.9))
        axes.grid(axis="y", visible=False)
    if figure.log:
        axes.set(xscale="log", yscale="log")
    if figure.sizes:
        axes.set_xscale("log", base=2)
        axes.set_xticks(figure.sizes, [f"{size:,}" for size in figure.sizes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    labels = [series.label for series in figure.series if series.label]
    if labels:
        columns = 2 if len(labels) > 2 and max(map(len, labels)) <= LETTERS_IN_HALF else 1
        axes.figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=1.6)
