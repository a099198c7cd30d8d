"""What is asked of the C library's allocator."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # mallopt(3)


def keep_freed() -> None:
    """Has the process keep the memory that it frees, where the C library is glibc.

    XLA frees a step's arrays at its end. Large ones would go back to the system, to be fetched anew, page by page and
    filled with zeros, in the next step. To be called before threads start.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_ARENA_MAX, 1)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
