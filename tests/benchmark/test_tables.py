"""A table in each of its forms, against what each should read like."""

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
        "| of       |    rate |",
        "| -------- | ------: |",
        "| a\\|<b> c | 1,000.5 |",
    ]
    page = table.html()
    assert "<h2>A &amp; B</h2>" in page
    assert '<a href="https://example.org/x">https://example.org/x</a>; and' in page
    assert '<td class="text">a|&lt;b&gt;\nc</td><td>1,000.5</td>' in page


def test_csv_has_a_column_for_every_name():
    assert Table("", [{"a": 1}, {"b": "x,y", "a": None}]).csv() == 'a,b\n1,\n,"x,y"\n'
