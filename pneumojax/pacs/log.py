"""What is said and written down of each film: lines and rows, in which no identifier of a patient appears."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType

from etils import epath

from pneumojax.inference.predictions import Row
from pneumojax.pacs.identity import SHOWN_DIGITS
from pneumojax.runtime import run_log
from pneumojax.runtime.errors import one_line
from pneumojax.runtime.files import append
from pneumojax.runtime.tables import csv_row
from pneumojax.runtime.workdir import PACS

_LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "requests", "urllib3")
_COLUMNS = ("time", "film", "outcome", "reason", *(name for name in Row._fields if name not in ("id", "error")))
REPORTED, REFUSED = "report", "no report"


@contextmanager
def quiet() -> Iterator[None]:
    """Let no library say anything while the block runs: their messages quote headers, UIDs and URLs."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [logger.propagate for logger in loggers]
    silence, hook = logging.NullHandler(), threading.excepthook
    for logger in loggers:
        logger.addHandler(silence)
        logger.propagate = False
    threading.excepthook = _say_kind
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = hook
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(silence)
            logger.propagate = propagate


def _say_kind(args: threading.ExceptHookArgs) -> None:
    """Say of an error in a thread of a library where it is, and not what it quotes."""
    say(f"a connection has ended with {args.exc_type.__name__} {where(args.exc_traceback)}")


def where(traceback: TracebackType | None) -> str:
    """Return the line of code that an error comes from."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "at an unknown place"
    code = traceback.tb_frame.f_code
    return f"in {code.co_name}, line {traceback.tb_lineno}"


def say(line: str) -> None:
    """Print a line with the time."""
    run_log.console.print(f"{datetime.now():%H:%M:%S} {one_line(line)}")


class Rows:
    """The table of all films, pacs.csv in the workdir."""

    def __init__(self, workdir: epath.Path):
        """Write to the workdir."""
        self._path = workdir / PACS

    def add(self, name: str, row: Row) -> None:
        """Write down what became of a film; `name` is its name in the queue, and the row's `error` why not more.

        Raises:
          OSError: it cannot be written.
        """
        outcome = REFUSED if row.error else REPORTED
        values = row._replace(flags=";".join(row.flags))._asdict()  # pyright: ignore[reportArgumentType]
        cells = [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", name[:SHOWN_DIGITS], outcome, row.error]
        header = "" if self._path.exists() else csv_row(_COLUMNS)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, header + csv_row([*cells, *(values[column] for column in _COLUMNS[4:])]))


def line_of(name: str, row: Row) -> str:
    """Return what the terminal shows of a film."""
    film = f"film {name[:SHOWN_DIGITS]}: "
    if row.error:
        return f"{film}no report: {row.error}"
    if row.flags:
        return f"{film}{row.probability:.3f}, no decision, flags: {', '.join(row.flags)}"
    return f"{film}{row.probability:.3f}, {row.decision}"
