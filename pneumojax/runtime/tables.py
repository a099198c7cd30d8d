"""Tables as text: CSV and Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def csv_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Format a table as CSV with LF line ends."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table as Markdown, its columns aligned."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
