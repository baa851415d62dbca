"""Every measured figure in the README and docs/ is that of a record, and records can be published as they are."""

import re

import pytest
from paths import ROOT

from benchmark.records import BLOCK, changes
from benchmark.reports.data import FOLDERS
from benchmark.reports.record_blocks import BLOCKS

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = ROOT / "docs" / "records"
# Rates, ratios, durations, utilization; "43 %" is a goal, and "a minute" no measurement.
FIGURE = re.compile(r"\d[\d,.]* (sequences|seq|tokens)/s|\d[\d.]* times|\d s\b|\d[\d,.]* TFLOP")
PENDING: set[str] = set()  # blocks whose record is not there yet
MOST_LINES = {"README.md": 150, "record": 30}


def stray_figures(page):
    """Figures outside of the blocks that benchmark/records.py writes."""
    return [found[0] for found in FIGURE.finditer(BLOCK.sub("", page))]


def test_documents_and_pictures_are_those_of_the_records():
    changed = [file.relative_to(ROOT).as_posix() for file, _ in changes(ROOT)]
    assert changed == [], "python3 benchmark/records.py --write"


def test_only_these_blocks_still_wait_for_their_record():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = {(found[1], page) for page in pages for found in BLOCK.finditer(page.read_text(encoding="utf-8"))}
    assert {name for name, page in blocks if BLOCKS[name](RECORDS, page) is None} == PENDING


def test_the_readme_has_no_other_measured_figure():
    assert stray_figures(README) == []


@pytest.mark.parametrize(
    "figure", ["2,107 sequences/s", "1.36 times", "261 s to 43 %", "304,825 tokens/s", "41 % of 989.4 TFLOP/s"]
)
def test_a_planted_figure_is_found(figure):
    assert len(stray_figures(f"{README}\nIt reaches {figure}.\n")) == 1


def test_the_readme_is_short():
    assert len(README.splitlines()) <= MOST_LINES["README.md"]


@pytest.mark.parametrize("folder", sorted(path.name for path in RECORDS.iterdir() if path.is_dir()))
def test_a_record_is_dated_explained_and_names_no_machine(folder):
    assert re.match(r"\d{4}-\d{2}-\d{2}-[a-z0-9-]+$", folder)
    page = (RECORDS / folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# ")
    assert len(page.splitlines()) <= MOST_LINES["record"]
    assert "```sh\n" in page, "without its command"
    results = [path for path in (RECORDS / folder).rglob("*") if path.is_file() and path.name != "README.md"]
    assert results
    for result in results:
        assert FOLDERS.search(result.read_text(encoding="utf-8")) is None, result
