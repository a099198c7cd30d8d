"""A table of the documentation: which result it takes its rows from, and how a row is shown.

A column is a heading and a template. A template names fields of a row, as `str.format` does, and may offer
alternatives, separated by "|": the first one without an empty field is shown, and nothing where there is none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

Row = dict[str, Any]
Rows = Callable[[Mapping[str, Any]], Sequence[Row]]


class Table(NamedTuple):
    """One table.

    Attributes:
      result: name of the file in `studies/results`, without its suffix.
      rows: the result's figures -> rows; or the name of a list of rows among the figures.
      columns: heading -> template.
    """

    result: str
    rows: str | Rows
    columns: Mapping[str, str]


def cell(template: str, row: Row) -> str:
    """Fill in the first alternative of a template whose fields all have a value."""
    for alternative in template.split("|"):
        if all(row[field] is not None for field in _fields(alternative)):
            return alternative.format_map(row)
    return ""


def _fields(template: str) -> Iterator[str]:
    for _, field, _, _ in Formatter().parse(template):
        if field:
            yield field.partition("[")[0]
