"""The errors that PneumoJAX raises, and the exit statuses of the command line."""

import difflib
import enum
import unicodedata
from collections.abc import Iterable

MAX_LINE = 600  # characters; a file's name alone can have 4096


class ExitStatus(enum.IntEnum):
    """The exit statuses of the command line."""

    DONE = 0
    FINDINGS = 1  # the audit found something, or images to predict cannot be read
    USER_ERROR = 2  # one line on standard error explains it
    CRASHED = 70  # a bug in PneumoJAX, with a traceback
    STOPPED = 75  # by Ctrl-C or a scheduler: the same command continues
    LOST_PROCESS = 76  # another process of the job ended, or did not come: the same command continues


class PneumoJAXError(Exception):
    """Any error that PneumoJAX reports: the message is one line."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class UserError(PneumoJAXError):
    """A mistake that the user can correct: the message says what is wrong, then what to do."""


def one_line(message: str) -> str:
    """Return the message on one line that is safe to print: line breaks and control characters are escaped."""
    shown = printable(message)
    half = (MAX_LINE - len(" ... ")) // 2
    return shown if len(shown) <= MAX_LINE else f"{shown[:half]} ... {shown[-half:]}"


def printable(text: str) -> str:
    """Return the text in full, on one line: line breaks and control characters are escaped."""
    return "".join(char if _is_printable(char) else ascii(char)[1:-1] for char in text)


def _is_printable(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # such as the wide space of Japanese


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist; it lists the nearest known names, or all of them."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {listed}"
    return UserError(f"no {kind} {name!r}: {hint}")
