"""Settings of the C library's memory allocator."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # mallopt(3)


def keep_freed() -> None:
    """Let the process keep the memory that it frees, where the C library is glibc. Call this before threads start.

    XLA frees a step's arrays at its end. Without this, large ones go back to the system, and the next step fetches
    them again, page by page and filled with zeros.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_ARENA_MAX, 1)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
