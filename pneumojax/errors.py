"""What the user did wrong, in one line."""

import difflib
import unicodedata
from collections.abc import Iterable

MAX_LINE = 600  # characters; a name alone can have 4096


class UserError(Exception):
    """A mistake that the user can mend: the message is one line that says what, and what to do."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """The message, fit for any terminal: what names of files may hold, line breaks and controls, is spelt out."""
    shown = "".join(char if _is_shown(char) else ascii(char)[1:-1] for char in message)
    half = (MAX_LINE - len(" ... ")) // 2
    return shown if len(shown) <= MAX_LINE else f"{shown[:half]} ... {shown[-half:]}"


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # such as the wide space of Japanese


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: it gives the nearest names that do, or all of them."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there is {listed}"
    return UserError(f"no {kind} {name!r}: {hint}")
