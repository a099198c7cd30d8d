"""Files written whole: a reader finds the old content or the new content, never a part of it."""

import errno
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etils import epath
from filelock import FileLock, Timeout

from pneumojax.runtime.workdir import UNFINISHED

if TYPE_CHECKING:
    import numpy as np


def is_local(path: epath.Path) -> bool:
    """Whether the path is on a file system, not in a bucket such as gs://."""
    return "://" not in str(path)


def write_whole(path: epath.Path, text: str) -> None:
    """Write `text` under a temporary name, then rename it to `path`; create its folder if it is missing."""
    write_whole_bytes(path, text.encode())


def write_whole_bytes(path: epath.Path, content: bytes) -> None:
    """Write bytes as `write_whole` writes text."""
    with becoming(path) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def becoming(path: epath.Path) -> Iterator[epath.Path]:
    """Yield a temporary name to write to; it becomes `path` at the end, or is removed if there is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")  # two processes may write the same file
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def append(path: epath.Path, text: str) -> None:
    """Add `text` to the end of a file; in a bucket, where files do not grow, write the whole file again."""
    if not is_local(path):
        write_whole(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)


def write_arrays(path: epath.Path, arrays: "Mapping[str, np.ndarray]") -> None:
    """Write an NPZ file as `write_whole` writes text."""
    import numpy as np  # not above: `main` sets how many threads it gets, which it reads when it is imported

    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]: no array is called allow_pickle
    write_whole_bytes(path, file.getvalue())


def no_room(error: BaseException) -> str:
    """Return the system's words for a full disk or an exceeded quota if `error` contains them, else an empty string."""
    reasons = map(os.strerror, (errno.ENOSPC, errno.EDQUOT))
    return next((reason for reason in reasons if reason in str(error)), "")


@contextmanager
def locked(path: epath.Path, taken: Callable[[], None]) -> Iterator[None]:
    """Keep other processes out while the block runs. If another process is in, call `taken`, then wait for it.

    The lock's file is created if it is missing; `taken` may raise, so as not to wait. The lock ends with the process,
    however it ends. Buckets, and some file systems, have no locks: there, nobody is kept out.
    """
    if not is_local(path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        taken()
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    try:
        yield
    finally:
        lock.release()
