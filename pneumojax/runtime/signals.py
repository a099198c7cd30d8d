"""Ctrl-C and a scheduler's SIGTERM: they stop a run, but not in the middle of a step or a save."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pneumojax.runtime.errors import ExitStatus

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "interrupted: run the same command again to continue"


def leave_on_signals() -> None:
    """Let both signals end the process from here on, except while they are `deferred`.

    An exception would be swallowed, or crash the process, if it came while a library is imported.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # Ctrl-C has ended the `tee` that read it, say
            os.write(2, f"pneumojax: {MESSAGE}\n".encode())  # `print` may be what was interrupted
        os._exit(ExitStatus.STOPPED)

    for number in SIGNALS:
        signal.signal(number, leave)


def ignore_signals() -> None:
    """Ignore both signals: for the last moment, when the exit status is decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold the first signal back, and yield a function that says whether one came: raise KeyboardInterrupt then.

    Raised at any moment, it could leave a lock of Orbax's threads taken, and the process would never end. A second
    signal acts at once. Python delivers no signals off the main thread: there, nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    came: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
