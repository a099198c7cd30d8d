"""A CSV as people and programs write it: any separator, any case and punctuation of column names."""

import csv
import io
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.source import read_csv
from pneumojax.runtime.errors import UserError


class Line(NamedTuple):
    """A further line of a CSV: its number, and its values by column; None where it has more fields than the header."""

    number: int
    values: Mapping[str, str] | None


class Table(NamedTuple):
    """A CSV.

    Attributes:
      path: of the file.
      titles: column -> the header's field, for the first column of each name. Columns are in small letters and digits.
      repeated: columns that the header has more than once.
      lines: each line after the header that is not empty.
    """

    path: Path
    titles: Mapping[str, str]
    repeated: frozenset[str]
    lines: Sequence[Line]

    def column(self, names: Iterable[str], other_than: str | None = None) -> str | None:
        """Return the first of `names` that is a column."""
        return next((name for name in names if name in self.titles and name != other_than), None)


def parse(path: Path, columns: Container[str], max_lines: int) -> Table:
    """Read a CSV of at most `max_lines` lines after the header; keep the values of these columns.

    Raises:
      UserError: it is no CSV in UTF-8, or has more lines.
    """
    try:
        content = read_csv(path, "give a CSV of labels")
        if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} holds NUL bytes: save it again as CSV in UTF-8")
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")  # it decodes a part at a time
        first = next(filter(str.strip, text), "")
        separator = max(",;\t", key=first.count)
        text.seek(0)
        reader = csv.reader(text, delimiter=separator, strict=True)
        filled = ((reader.line_num, fields) for fields in reader if any(map(str.strip, fields)))
        _, header = next(filled, (0, []))
        names = [re.sub(r"[\W_]", "", name.lower()) for name in header]
        wanted = [(at, name) for at, name in enumerate(names) if name in columns]
        lines = [Line(number, _values(fields, names, wanted)) for number, fields in islice(filled, max_lines + 1)]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it again as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV ({error}): fix it, or save it again") from None
    if len(lines) > max_lines:
        raise UserError(f"{path} has more than {max_lines:,} lines: give a CSV of labels")
    titles = {name: title.strip() for name, title in reversed(list(zip(names, header, strict=True)))}
    return Table(path, titles, frozenset(name for name, count in Counter(names).items() if count > 1), lines)


def _values(fields: Sequence[str], names: Sequence[str], wanted: Iterable[tuple[int, str]]) -> dict[str, str] | None:
    if len(fields) > len(names):
        return None
    return {name: fields[at].strip() for at, name in wanted if at < len(fields)}


def joined(tables: Sequence[Table], image: str, study: str) -> list[Table]:
    """Return the tables with those of studies completed by those of images.

    MIMIC-CXR has one CSV of the findings of each study, and others of the images of a study, their splits and views.
    `image` and `study` are the columns that name them. A table of studies gets a line for each image of its studies,
    with the values of all tables.
    """
    by_image = [table for table in tables if {image, study} <= table.titles.keys()]
    images: dict[str, dict[str, str]] = {}
    for table in by_image:
        for _, values in table.lines:
            if values and values.get(image):
                images.setdefault(values[image], {}).update(values)
    titles = {name: title for table in by_image for name, title in table.titles.items()}
    return [
        _completed(table, titles, images, study)
        if images and study in table.titles and image not in table.titles
        else table
        for table in tables
    ]


def _completed(table: Table, titles: Mapping[str, str], images: Mapping[str, Mapping[str, str]], study: str) -> Table:
    studies = {line.values[study]: line for line in table.lines if line.values and line.values.get(study)}
    lines = [
        Line(line.number, {**values, **(line.values or {})})
        for values in images.values()
        if (line := studies.get(values.get(study, "")))
    ]
    return table._replace(titles={**titles, **table.titles}, lines=lines)
