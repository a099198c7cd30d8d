"""Tables as text."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pneumojax.runtime.tables import csv_row, csv_table, markdown_table, read_csv_table


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


@given(st.lists(st.text(max_size=8) | st.text("'\\=+-@\t\r\n\x1b\x00ax19", max_size=8), min_size=1))
@example(["'\\", "''\\x1b", "'=", "'''-1", "\\", "'\\\x1b", "\r", ""])
def test_any_text_is_read_back(cells):
    assert read_csv_table(csv_table(cells, [cells])) == [cells, cells]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\x1b", "\N{FULLWIDTH EQUALS SIGN}"])
def test_no_text_is_a_formula_or_commands_a_terminal(start):
    line = csv_row([f"{start}HYPERLINK(1)", f"a{start}"])
    [cells] = csv.reader(io.StringIO(line, newline=""))
    assert cells[0].startswith("'")
    assert all(char == "\n" or char.isprintable() for char in line)


def test_numbers_and_ordinary_names_are_written_as_they_are():
    assert csv_row([-0.5, None, 3, "a-b.png", "it's", "C:\\a"]) == "-0.5,,3,a-b.png,it's,C:\\a\n"


def test_what_is_no_csv_raises_a_value_error():
    with pytest.raises(ValueError):
        read_csv_table("x" * 200_000)
