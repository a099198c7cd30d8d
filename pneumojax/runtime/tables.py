"""Tables as text: CSV and Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# What a spreadsheet takes for a formula, and what would be read as one of the two escapes below.
_FORMULA = re.compile(r"'*[=+\-@\n\uff1d\uff0b\uff0d\uff20]|'+\\")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # such as those of a terminal; line feeds are quoted instead
_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")


def csv_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Format a table as CSV with LF line ends; see `csv_row`. `read_csv_table` reads it."""
    return "".join(map(csv_row, [header, *rows]))


def csv_row(cells: Iterable[Any]) -> str:
    """Format a line of CSV in which text stays text, also in a spreadsheet and on a terminal.

    Text that starts like a formula (`=`, `+`, `-`, `@`) gets an apostrophe before it. Text with control characters gets
    an apostrophe and a backslash before it, control characters become `\\x1b`, and backslashes are doubled.
    """
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(_safe(cell) if isinstance(cell, str) else cell for cell in cells)
    return line.getvalue()


def _safe(text: str) -> str:
    if _CONTROL.search(text):
        return "'\\" + _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\\", r"\\"))
    return "'" + text if _FORMULA.match(text) else text


def _plain(text: str) -> str:
    """Return the text of which `_safe` made this."""
    if text.startswith("'\\"):
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "\\", text[2:])
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_csv_table(text: str) -> list[list[str]]:
    """Read the rows that `csv_table` wrote, the header first.

    Raises:
      ValueError: this is no CSV.
    """
    try:
        return [[_plain(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise ValueError(str(error)) from None


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table as Markdown, its columns aligned."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
