"""Ctrl-C and a scheduler's SIGTERM: they stop a run, but not in the midst of a step or a save."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_on_signals() -> None:
    """Both signals raise KeyboardInterrupt from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Holds the first signal back, and yields a function that tells if one has come.

    KeyboardInterrupt, raised wherever the signal happens to come, could leave a lock of Orbax's threads taken, and the
    process would never end. A second signal acts at once. Off the main thread, where Python delivers none, nothing is
    held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    came = []

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        came.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
