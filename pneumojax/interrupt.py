"""Ctrl-C and a scheduler's SIGTERM: they stop a run, but not in the midst of a step or a save."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 75  # exit status
TOLD = "interrupted: run the same command again to go on"


def leave_on_signals() -> None:
    """Both signals end the process from here on, but where they are `deferred`.

    An exception in place of that would be swallowed, or crash the process, where it comes while a library is imported.
    """

    def leave(number, frame):
        with suppress(OSError):  # Ctrl-C has ended the `tee` that read it, say
            os.write(2, f"pneumojax: {TOLD}\n".encode())  # `print` may be what was interrupted
        os._exit(STOPPED)

    for number in SIGNALS:
        signal.signal(number, leave)


def ignore_signals() -> None:
    """For the last moment, when the exit status is settled."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Holds the first signal back, and yields a function that tells if one has come: raise KeyboardInterrupt then.

    Raised wherever the signal happens to come, it could leave a lock of Orbax's threads taken, and the process would
    never end. A second signal acts at once. Off the main thread, where Python delivers none, nothing is
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
