"""How the pictures of a report are drawn: by matplotlib, each for a light and a dark page.

Pixels and not SVG, as they are taken into slides. A picture carries its finding in words, which is its alternative
text: who cannot see it learns the same. Lines differ by marker as well as by color (Okabe and Ito's palette, which
color-blind readers tell apart), and letters are large against the picture, so that it can be read on a phone.
"""

import io
import textwrap
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from common.errors import UserError

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = "osD^vP"
THEMES = MappingProxyType({"light": ("#ffffff", "#1b1f24", "#d0d7de"), "dark": ("#161b22", "#e6edf3", "#3d444d")})
SIZE = (4.4, 4.0)  # inches
TITLE_LETTERS = 44  # of a line
DOTS = 240  # per inch
COLORS_PER_PICTURE = 64  # with those between letters and background
SMALL = 10  # points, of the smallest letters
LETTERS_IN_HALF = 24  # of a legend in two columns


class Figure(NamedTuple):
    """One picture."""

    name: str
    title: str
    finding: str
    """What it shows, in words: the alternative text."""
    draw: Callable[[Any], None]
    """Draws it on matplotlib's axes."""
    images: Mapping[str, bytes] = MappingProxyType({})
    """PNG by theme, once it is rendered."""


def render(figure: Figure) -> Figure:
    """The figure with its images.

    Raises:
        UserError: matplotlib is not installed.
    """
    return figure._replace(images={theme: _image(figure, *colors) for theme, colors in THEMES.items()})


def _image(figure: Figure, background: str, letters: str, grid: str) -> bytes:
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("matplotlib is not installed", "`pip install -r requirements.txt` brings it") from error
    # Figure and not pyplot, which keeps every figure that it makes.
    from matplotlib.figure import Figure as Canvas
    from PIL import Image  # matplotlib brings it

    matplotlib.use("Agg")
    with matplotlib.rc_context(_settings(background, letters, grid)):
        canvas = Canvas(figsize=SIZE, dpi=DOTS, layout="constrained")
        canvas.suptitle("\n".join(textwrap.wrap(figure.title, TITLE_LETTERS)), fontsize=12, fontweight="bold")
        figure.draw(canvas.add_subplot())
        drawn, file = io.BytesIO(), io.BytesIO()
        canvas.savefig(drawn, format="png")
    # Few colors: a third of the size, of which a page has up to forty pictures.
    Image.open(drawn).convert("RGB").quantize(COLORS_PER_PICTURE).save(file, format="png", optimize=True)
    return file.getvalue()


def _settings(background: str, letters: str, grid: str) -> dict[str, Any]:
    return {
        "font.size": 12,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 11,
        "lines.linewidth": 2,
        "lines.markersize": 7,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), background),
        **dict.fromkeys(("grid.color", "axes.edgecolor"), grid),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), letters),
    }


def line_style(place: int) -> dict[str, str]:
    """Color and marker of a chart's line."""
    return {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}


def add_legend(axes: Any, columns: int | None = None) -> None:
    """Under the picture, in two columns where the words are short."""
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        columns = columns or (2 if len(labels) > 2 and max(map(len, labels)) <= LETTERS_IN_HALF else 1)
        axes.figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=1.6)


def annotate(axes: Any, words: str, x: float, y: float, below: bool) -> None:
    """Upright letters over or under a mark, on a patch of background, as lines may run through them."""
    place = {"xytext": (0, -10 if below else 10), "textcoords": "offset points", "va": "top" if below else "bottom"}
    patch = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1.0}
    axes.annotate(words, (x, y), rotation=90, ha="center", fontsize=SMALL, bbox=patch, zorder=5, **place)
