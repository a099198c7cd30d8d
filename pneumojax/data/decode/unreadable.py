"""What all readers of image files share: how they open and refuse a file, and their limits."""

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

from pneumojax.runtime.errors import PneumoJAXError

MAX_PIXELS = 100_000_000  # a radiograph has up to about 20 million; more than this is a decompression bomb
MAX_FILE_BYTES = 3 * MAX_PIXELS
MAX_SIDE = 20_000  # px; decoders keep a pointer, or a table, for each row
MAX_MEMORY = 420_000_000  # bytes that decoding may take by its header: 100 million pixels of 8 bits fit
MAX_SCANS = 64  # a progressive JPEG has about 10; each further one costs a decoder as much time as the first
MAX_SCANNED = 2_000_000_000  # pixels times scans of a progressive JPEG: a few seconds
MAX_PARTS = 200_000  # of a file: each costs microseconds; PNG writers make a chunk of 8 KB, or of one row
SCAN = b"\xff\xda"  # the marker at the start of a JPEG scan


class UnreadableImage(PneumoJAXError):
    """The file holds no image that can be decoded; the message is the reason."""


def reason_of(error: Exception) -> str:
    """Return the system's words for an error, or else the error's own, on one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def open_file(path: Path) -> io.BufferedReader:
    """Open a file for reading. Opening or reading a pipe, a device or the like may never end: they are refused.

    Raises:
      UnreadableImage: it is a pipe or a device.
      OSError: it cannot be opened, or is a folder.
    """
    wait_for_nobody = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | wait_for_nobody)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise UnreadableImage("a pipe or a device, not a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


class Metered:
    """A file for a parser that follows what the file declares: it may be read in so many pieces, and none too long."""

    def __init__(self, file: IO[bytes], longest: int, pieces: int = MAX_PARTS):
        self._file, self._longest, self._pieces = file, longest, pieces
        place = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(place)
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int | None = -1) -> bytes:
        """Read as a file does, but reserve no memory for more than there is."""
        self._pieces -= 1
        there = max(self._end - self._file.tell(), 0)
        size = there if size is None or size < 0 else min(size, there)
        if self._pieces < 0 or size > self._longest:
            raise UnreadableImage("it has far more parts, or longer ones, than an image needs")
        return self._file.read(size)

    def seekable(self) -> bool:
        """Return True, as for any file."""
        return True


def refuse_large(width: int, height: int, bytes_per_pixel: float, more: int = 0) -> None:
    """Raise UnreadableImage if decoding takes too much memory: for each pixel, and `more` bytes."""
    size = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{size}, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"{size}, a side of more than {MAX_SIDE:,}")
    needed = width * height * bytes_per_pixel + more
    if needed > MAX_MEMORY:
        raise UnreadableImage(f"{size}, which take {needed / 1e6:,.0f} MB to decode, more than {MAX_MEMORY / 1e6:,.0f}")
