"""What all readers of image files share: how they refuse a file, and their limits."""

import stat
from pathlib import Path

from pneumojax.runtime.errors import one_line

MAX_PIXELS = 100_000_000  # a radiograph has up to about 20 million; more than this is a decompression bomb
MAX_SCANS = 64  # a progressive JPEG has about 10; each further one costs a decoder as much time as the first
SCAN = b"\xff\xda"  # the marker at the start of a JPEG scan


class UnreadableImage(Exception):
    """The file holds no image that can be decoded; the message is the reason, in one line."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


def reason_of(error: Exception) -> str:
    """Return the system's words for an error, or else the error's own, on one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def refuse_special(path: Path) -> None:
    """Raise UnreadableImage for a pipe, a device or the like: reading one may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnreadableImage("a pipe or a device, not a file")
