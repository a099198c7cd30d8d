"""What can go wrong between this side and a PACS: what passes, and what does not."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pneumojax.runtime.errors import PneumoJAXError

Result = TypeVar("Result")
LONGEST_S = 60.0  # between two tries


class Away(PneumoJAXError):
    """The PACS cannot be reached, is busy, or lets nobody in, or a disk is full: try again later.

    The message names no patient.
    """


class Refused(PneumoJAXError):
    """The PACS does not do what was asked, and would not later. The message names no patient."""


class Stopped(PneumoJAXError):
    """The program is to end."""


class Backoff:
    """Repeats what a PACS that is away cannot do, after longer and longer waits, and says so once in each of them."""

    def __init__(
        self, say: Callable[[str], None], stopped: threading.Event, first_s: float, longest_s: float = LONGEST_S
    ):
        """Wait `first_s` seconds at first, and never more than `longest_s`; `say` prints a line."""
        self._say, self._stopped, self._first_s, self._longest_s = say, stopped, first_s, longest_s

    def until_done(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns once it is not `Away`.

        Raises:
          Stopped: the program is to end.
        """
        wait, since = self._first_s, time.monotonic()
        while True:
            try:
                result = call()
            except Away as reason:
                self._say(f"{reason}; next try in {wait:.3g} s")
            else:
                if wait > self._first_s:
                    self._say(f"it works again, after {time.monotonic() - since:.0f} s")
                return result
            if self._stopped.wait(wait):
                raise Stopped("interrupted")
            wait = min(2 * wait, self._longest_s)
