"""The page of a report: one file that needs nothing else, no network and no library.

Colours follow the reader's scheme. Tables sort by a button in each heading, so a keyboard and a screen reader can sort
them too; they scroll inside their box, so that the page itself never does sideways.
"""

import base64
from collections.abc import Sequence
from html import escape

from benchmark.reports.figures import Figure
from benchmark.tables import Table

STYLE = """
:root { color-scheme: light dark; --back: #f6f8fa; --card: #ffffff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --accent: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --card: #161b22; --text: #e6edf3; --soft: #9da7b3;
  --line: #3d444d; --accent: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 0 0 0.5rem; }
a { color: var(--accent); } p { margin: 0.4rem 0; } .soft { color: var(--soft); }
section, figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem;
  margin: 0 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.figures figure { margin: 0; } figure img { display: block; width: 100%; max-width: 30rem; height: auto; margin: auto; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
figure { position: relative; }
figcaption { color: var(--soft); font-size: 0.9rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; min-width: 100%; }
th, td { padding: 0.3rem 0.45rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
pre { white-space: pre-wrap; font-size: 0.8rem; } summary { cursor: pointer; }
"""

SCRIPT = """
"use strict";
const value = cell => { const n = parseFloat(cell.textContent.replaceAll(",", "")); return isNaN(n) ? null : n; };
const order = (a, b) => {
  const [x, y] = [value(a), value(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x === null ? 1 : -1;
  return a.textContent.localeCompare(b.textContent);
};
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const heading = button.parentElement, row = heading.parentElement, body = row.closest("table").tBodies[0];
  const rising = heading.getAttribute("aria-sort") !== "ascending", column = heading.cellIndex;
  for (const other of row.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const rows = [...body.rows].sort((a, b) => order(a.cells[column], b.cells[column]));
  body.append(...(rising ? rows : rows.reverse()));
});
"""


def make_page(title: str, tables: Sequence[Table], figures: Sequence[Figure], commands: Sequence[str]) -> str:
    """The whole page as text."""
    pictures = f'<div class="figures">{"".join(map(_figure, figures))}</div>' if figures else ""
    lines = escape("\n\n".join(commands))
    measured = f"<section><details><summary>Commands, as they ran</summary><pre>{lines}</pre></details></section>"
    first = "".join(table.html() for table in tables[:1])
    rest = "".join(table.html() for table in tables[1:])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="soft">Throughput is the median of repeats, each by a process of its own; bars reach from the lowest to the
highest. docs/benchmarking.md of the project defines every figure. All points are in report.csv beside this page.</p>
{first}
{pictures}
<div style="height: 1rem"></div>
{rest}
{measured if commands else ""}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _figure(figure: Figure) -> str:
    """The title is in the picture; as a heading it is there for who does not see that."""
    light, dark = (base64.b64encode(figure.images[theme]).decode() for theme in ("light", "dark"))
    return (
        f'<figure><h2 class="unseen">{escape(figure.title)}</h2><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img src="data:image/png;base64,{light}" alt="{escape(figure.finding)}"></picture>'
        f"<figcaption>{escape(figure.finding)}</figcaption></figure>\n"
    )
