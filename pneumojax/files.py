"""Text of tables; locks; and files written so that whoever looks finds the old one or the new one, never a part."""

import csv
import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from etils import epath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".unfinished"


def write_whole(path: epath.Path, text: str) -> None:
    """Writes `text` to `path` under another name first; its folder is made where it is missing."""
    write_whole_bytes(path, text.encode())


def write_whole_bytes(path: epath.Path, content: bytes) -> None:
    """`write_whole` of what is no text."""
    with becoming(path) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def becoming(path: epath.Path) -> Iterator[epath.Path]:
    """Another name to write to, which in the end becomes `path`, or is removed where there is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")  # two may write the same
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def append(path: epath.Path, text: str) -> None:
    """Adds `text` to the end of a file; in a bucket, where files do not grow, by writing it anew."""
    if "://" in str(path):
        write_whole(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)


def write_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`write_whole` of an NPZ file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_whole_bytes(path, file.getvalue())


def no_room(error: BaseException) -> str:
    """What the system calls a full disk or an exhausted quota, if that is what the error of some library tells of."""
    told = map(os.strerror, (errno.ENOSPC, errno.EDQUOT))
    return next((reason for reason in told if reason in str(error)), "")


@contextmanager
def locked(path: epath.Path, taken: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes out as long as this one lives; where one is in, calls `taken`, then waits for it.

    A bucket, and some file systems, have no locks: there, nobody is kept out.

    Args:
      path: a file, made where it is missing.
      taken: raises what ends the waiting before it begins.
    """
    if fcntl is None or "://" in str(path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
        yield


def csv_table(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A table as CSV text with LF line ends."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned to be read as it stands."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
