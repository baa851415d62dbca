"""A table in each of its forms, against what each should read like."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.tables import Table, markdown_table, number, text


def test_columns_line_up():
    assert markdown_table(("a", "long name"), [("first", "1"), ("b", "23")]).splitlines() == [
        "| a     | long name |",
        "| ----- | --------: |",
        "| first |         1 |",
        "| b     |        23 |",
    ]


def test_cells_keep_what_is_no_number_apart_from_what_is_missing():
    assert [text(number(value), ".1f") for value in (1.25, "2", "NaN", "Infinity", None, "x")] == [
        "1.2",
        "2.0",
        "nan",
        "inf",
        "-",
        "-",
    ]


def test_markdown_and_html_escape_what_would_break_them():
    table = Table("A & B", [{"of": "a|<b>\nc", "rate": "1,000.5"}], ["See https://example.org/x; and more."])
    assert table.markdown().splitlines() == [
        "## A & B",
        "",
        "See https://example.org/x; and more.",
        "",
        "| of          |    rate |",
        "| ----------- | ------: |",
        "| a\\|&lt;b> c | 1,000.5 |",
    ]
    page = table.html()
    assert "<h2>A &amp; B</h2>" in page
    assert '<a href="https://example.org/x">https://example.org/x</a>; and' in page
    assert '<td class="text">a|&lt;b&gt;\nc</td><td>1,000.5</td>' in page


def test_a_column_without_a_value_is_kept_for_programs_alone():
    table = Table("", [{"a": "1", "b": "-"}, {"a": "-", "c": "-", "b": "-"}])
    assert table.markdown("").splitlines()[0] == "| a  |"
    assert table.plain().splitlines()[0] == "| a  |  b |  c |"
    assert "<button" in table.html()
    assert ">b</button>" not in table.html()
    assert table.csv().splitlines()[0] == "a,b,c"
    nothing = Table("", [{"a": "-", "b": "-"}])
    assert nothing.markdown("").splitlines()[0] == "| a  |  b |"


def test_a_link_ends_before_the_end_of_its_sentence_and_long_words_wrap():
    page = Table("", [{"of": "x" * 41}], ["See https://example.org/x."]).html()
    assert '<a href="https://example.org/x">https://example.org/x</a>.' in page
    assert '<td class="text long">' in page


def test_csv_has_a_column_for_every_name():
    assert Table("", [{"a": 1}, {"b": "x,y", "a": None}]).csv() == 'a,b\n1,\n,"x,y"\n'


WORDS = st.text(st.sampled_from("<>&;#|`[]()!*~_\\\n\r\u2028 =lt1a"), max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=3), WORDS)
@settings(max_examples=25)
def test_no_words_become_markup(cells, title):
    table = Table(title, [{f"{i}{cell}": cell for i, cell in enumerate(cells)}], [f"note {title}"])
    text = table.markdown()
    assert "<" not in text
    lines = text.split("\n")
    assert len(lines) == 8  # title, note, header, rule, row, and a blank line after each paragraph
    for line in lines[4:7]:
        # GitHub takes a pipe for the end of a cell unless a backslash is before it that escapes it.
        assert len(re.findall(r"(?:\\.|[^|\\])+", line)) == len(cells)
    assert not re.search(r"(?<!\\)(\\\\)*[`\[]", text)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", " =1", "-1+1", "\uff1d1", "-inf", "=1"]
)
def test_spreadsheets_compute_no_cell(cell):
    [[name], [value]] = csv.reader(io.StringIO(Table("", [{cell: cell}]).csv(), newline=""))
    assert name == value == "'" + cell.replace("\r", "\n")


def test_numbers_stay_numbers_in_csv():
    values = [-1.5, "-2", "+3e-5", 4, None, "a-b", "-.5", "a\r=1"]
    rows = csv.reader(io.StringIO(Table("", [{"x": value, "y": 0} for value in values]).csv()))
    assert [x for x, _ in rows] == ["x", "-1.5", "-2", "+3e-5", "4", "", "a-b", "-.5", "a\n=1"]
