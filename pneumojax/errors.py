"""What the user did wrong, in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: the message is one line that says what, and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: it gives the nearest names that do, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"
    return UserError(f"no {kind} {name!r}: {hint}")
