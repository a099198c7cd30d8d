"""Files written whole: a reader finds the old content or the new content, never a part of it."""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from etils import epath
from filelock import FileLock, Timeout

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.workdir import UNFINISHED

if TYPE_CHECKING:
    import numpy as np


def is_local(path: epath.Path) -> bool:
    """Whether the path is on a file system, not in a bucket such as gs://."""
    return "://" not in str(path)


def expanded(place: str) -> epath.Path:
    """Return a path, with the home folder that `~` or `~NAME` at its start stands for.

    Raises:
      UserError: nobody knows that folder, as in a container that has neither HOME nor an entry for its user.
    """
    path = os.path.expanduser(place)
    if path.startswith("~"):
        raise UserError(f"{place}: no home folder is known: set HOME, or write the path without ~")
    return epath.Path(path)


def read_text(path: epath.Path) -> str:
    """Read a file; what is not UTF-8 in it becomes U+FFFD."""
    return path.read_bytes().decode(errors="replace")


def read_json(path: epath.Path) -> Any:
    """Read a JSON file.

    Raises:
      ValueError: it is not JSON, or nobody could write it again: NaN, half a character, deep nesting.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def write_whole(path: epath.Path, text: str) -> None:
    """Write `text` under a temporary name, then rename it to `path`; create its folder if it is missing.

    It is on the disk when this returns, also if the power then fails.
    """
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
        if is_local(path):
            unfinished.unlink(missing_ok=True)  # or a link of that name would be followed
            os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield unfinished
        if is_local(path):
            sync(unfinished)
        unfinished.replace(path)
        if is_local(path):
            with suppress(OSError):  # some file systems cannot for folders
                sync(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync(path: epath.Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(path: epath.Path, text: str) -> str:
    """Write `text` where there is no file yet; return what the file holds, by this process or the first that came."""
    if not path.exists():
        if not is_local(path):
            write_whole(path, text)
            return text
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
        with becoming(mine) as unfinished:
            unfinished.write_bytes(text.encode())
        try:
            os.link(mine, path)
        except FileExistsError:
            pass
        except OSError:  # this file system has no links
            mine.replace(path)
        mine.unlink(missing_ok=True)
    return read_text(path)


def append(path: epath.Path, text: str) -> None:
    """Add `text` to the end of a file; in a bucket, where files do not grow, write the whole file again."""
    if not is_local(path):
        write_whole(path, (read_text(path) if path.exists() else "") + text)
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab") as file:
        file.write(text.encode())


def write_arrays(path: epath.Path, arrays: "Mapping[str, np.ndarray]") -> None:
    """Write an NPZ file as `write_whole` writes text."""
    import numpy as np  # not above: `main` sets how many threads it gets, which it reads when it is imported

    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]: no array is called allow_pickle
    write_whole_bytes(path, file.getvalue())


def no_room(error: BaseException) -> str:
    """Return the system's words for a full disk, quota or file if `error` contains them, else an empty string."""
    reasons = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
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
    if os.path.islink(path):
        raise UserError(f"{path} is a link: remove it")  # what it leads to would be emptied
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
