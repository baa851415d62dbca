"""The README's picture: bars of sequences per second, a group per workload, each group on a scale of its own.

SVG, as a README is read at any width; letters are drawn as outlines, so that they look alike everywhere. The words that
the picture shows are in its description too, by which a test finds a picture that is older than the records.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure as Canvas

from benchmark.reports.drawing import COLORS, GREY, SMALL, style_of

WIDTH, BAR, HEAD = 5.4, 0.235, 0.42  # inches: of the picture, of a bar's row, of a group's title
TITLE, FOOT = 0.42, 0.36
FOOTNOTE = "Grey: as published by others, on other hardware."
LABELS = 0.36  # share of the width, of the names at the left


class Bar(NamedTuple):
    """A system's rate in a workload."""

    name: str
    rate: float
    """Sequences per second."""
    is_published: bool = False
    """By others, on other hardware."""

    @property
    def words(self) -> str:
        return f"{self.rate:,g}" if self.is_published else f"{self.rate:,.0f}"


def svg(title: str, groups: Mapping[str, Sequence[Bar]], theme: str) -> str:
    """The picture for one of `drawing.THEMES`, without a background; `groups` are bars from the top, by their title."""
    n_rows = [len(bars) for bars in groups.values()]
    height = TITLE + FOOT + sum(HEAD + BAR * n for n in n_rows)
    style = style_of(theme) | {"svg.fonttype": "path", "svg.hashsalt": title, "axes.grid": False}
    style |= dict.fromkeys(("axes.spines.bottom", "axes.spines.left"), False)
    file = io.BytesIO()
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(WIDTH, height))
        canvas.text(0.02, 1 - 0.5 * TITLE / height, title, fontsize=13, fontweight="bold", va="center")
        top = height - TITLE
        for name, bars in groups.items():
            top -= HEAD + BAR * len(bars)
            axes = canvas.add_axes((LABELS, top / height, 0.98 - LABELS, BAR * len(bars) / height))
            _draw_group(axes, name, bars)
        canvas.text(0.02, 0.12 / height, FOOTNOTE, fontsize=SMALL, va="center")
        words = {"Date": None, "Description": describe(title, groups)}
        canvas.savefig(file, format="svg", transparent=True, metadata=words)
    return file.getvalue().decode()


def describe(title: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """The picture in words."""
    told = (f"{name}: {', '.join(f'{bar.words} ({bar.name})' for bar in bars)}" for name, bars in groups.items())
    return f"{title}. {'; '.join(told)}."


def _draw_group(axes: Any, name: str, bars: Sequence[Bar]) -> None:
    rates = [bar.rate for bar in bars]
    colors = [GREY if bar.is_published else COLORS[place % len(COLORS)] for place, bar in enumerate(bars)]
    drawn = axes.barh(range(len(bars)), rates, height=0.72, color=colors)
    axes.bar_label(drawn, [bar.words for bar in bars], padding=4, fontsize=11, fontweight="bold")
    axes.set(xlim=(0, 1.2 * max(rates)), ylim=(len(bars) - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars], fontsize=11)
    axes.tick_params(length=0)
    left = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
    axes.text((0.02 - LABELS) / (0.98 - LABELS), -0.62, name, fontsize=11, fontweight="bold", **left)
