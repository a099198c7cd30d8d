"""Tables as text."""

import csv
import io

from pneumojax.runtime.tables import csv_table, markdown_table


def test_a_csv_table_is_read_back_equal():
    rows = [["a, b", 'say "x"', "two\nlines"], ["ä", "1.5", ""]]
    text = csv_table(("id", "note", "more"), rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["id", "note", "more"], *rows]
    assert "\r" not in text


def test_a_markdown_table_has_aligned_columns():
    assert markdown_table(("name", "AUC"), [("m1", "0.9312"), ("ensemble", "0.9")]).splitlines() == [
        "| name     | AUC    |",
        "|----------|--------|",
        "| m1       | 0.9312 |",
        "| ensemble | 0.9    |",
    ]
