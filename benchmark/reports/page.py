"""The page of a report: one file that needs nothing else, no network and no library. page.html is its frame.

Colors follow the reader's scheme. Tables sort by a button in each heading, so a keyboard and a screen reader can sort
them too; they scroll inside their box, so that the page itself never does sideways.
"""

import base64
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmark.reports.drawing import Figure
from benchmark.tables import Table

FRAME = Path(__file__).with_name("page.html")


def make_page(title: str, tables: Sequence[Table], figures: Sequence[Figure], commands: Sequence[str]) -> str:
    """The whole page as text: the first table, the pictures, the other tables, the commands."""
    return string.Template(FRAME.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        first=tables[0].html(),
        pictures="".join(map(_figure, figures)),
        rest="".join(table.html() for table in tables[1:]),
        commands=escape("\n\n".join(commands)),
    )


def _figure(figure: Figure) -> str:
    """The title is in the picture; as a heading it is there for who does not see that."""
    light, dark = (base64.b64encode(figure.images[theme]).decode() for theme in ("light", "dark"))
    return (
        f'<figure><h2 class="unseen">{escape(figure.title)}</h2><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img src="data:image/png;base64,{light}" alt="{escape(figure.finding)}"></picture>'
        f"<figcaption>{escape(figure.finding)}</figcaption></figure>\n"
    )
