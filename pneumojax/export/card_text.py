"""Numbers, text and tables of a model card, as Markdown.

Every number of a card is written by `figure`, and every text that comes from a file is escaped by `text`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from pneumojax.evaluation import metrics
from pneumojax.runtime.errors import printable
from pneumojax.runtime.tables import markdown_table

NOT_MEASURED = "not measured"
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")
_LIST = re.compile(r"^(\s*)([-+=]|\d+[.)](?=\s))")  # at the start of a line they would mean a list or a heading


class Markdown(str):
    """Text that is Markdown already: it is not escaped again."""


def text(value: str) -> Markdown:
    """Escape a text on one line: it is shown as it is, whatever Markdown or HTML it contains."""
    if isinstance(value, Markdown):
        return value
    escaped = _SPECIAL.sub(r"\\\1", printable(value))
    return Markdown(_LIST.sub(lambda match: f"{match[1]}\\{match[2]}", escaped))


def code(value: Any) -> Markdown:
    """Format a setting as a code span."""
    shown = printable(str(value)).replace("`", "'").replace("|", r"\|")
    return Markdown(f"`{shown}`")


def figure(value: float) -> Markdown:
    """Format a number: an integer in full, others to three decimals.

    Three decimals become more where they would say 0 or 1 of a number that is neither. Below 0.001 there are two
    significant digits.
    """
    if type(value) is int or value == 0:
        return Markdown(f"{int(value):,}")
    if abs(value) < 0.001:
        return Markdown(f"{value:.1e}")
    texts = (f"{value:,.{decimals}f}" for decimals in range(3, 17))
    return Markdown(next((shown for shown in texts if value == 1 or float(shown.replace(",", "")) != 1), "1.000"))


def interval(low: float, high: float) -> Markdown:
    """Format the ends of an interval."""
    return Markdown(f"{figure(low)} to {figure(high)}")


def _ends(ends: Any) -> tuple[float, float] | None:
    """Return the ends of an interval in a JSON file, or None if it has none."""
    if isinstance(ends, Sequence) and len(ends) == 2 and is_number(ends[0]) and is_number(ends[1]):
        return ends[0], ends[1]
    return None


def metric(summary: Mapping[str, Any], name: str) -> Markdown:
    """Format a metric of a summary with its interval: "0.992 (0.968 to 0.998)".

    A metric without a value says why, and one that the summary does not have is "not measured".
    """
    if name not in summary:
        return Markdown(NOT_MEASURED)
    value, ends = summary[name], _ends(summary.get(f"{name}_ci"))
    if not is_number(value):
        return text(f"undefined ({summary.get(f'{name}_reason') or 'no reason recorded'})")
    return Markdown(f"{figure(value)} ({interval(*ends)})" if ends else figure(value))


def count(summary: Mapping[str, Any], name: str) -> Markdown:
    """Format a count or another number without an interval."""
    value = summary.get(name)
    return figure(value) if is_number(value) else Markdown(NOT_MEASURED)


def proportion(part: Any, whole: Any) -> Markdown:
    """Format a proportion of two counts with Wilson's 95 % interval."""
    if not (type(part) is int and type(whole) is int and 0 <= part <= whole):
        return Markdown(NOT_MEASURED)
    if whole == 0:
        return Markdown("undefined (none)")
    return Markdown(f"{figure(part / whole)} ({interval(*metrics.wilson(part, whole))})")


def share(part: Any, whole: Any) -> Markdown:
    """Format a share that is exact, such as the prevalence among the images themselves."""
    known = type(part) is int and type(whole) is int and whole > 0
    return figure(part / whole) if known else Markdown(NOT_MEASURED)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a number."""
    return type(value) in (int, float)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """Format a table; its cells are escaped. Without rows, it is "not measured"."""
    cells = [[text(cell) for cell in row] for row in rows]
    return Markdown(markdown_table(header, cells) if cells else NOT_MEASURED.capitalize() + ".")


def is_stated(value: Any) -> TypeGuard[str]:
    """Whether a user wrote something down."""
    return isinstance(value, str) and bool(value.strip())
