"""A folder that is written whole: a reader finds the old one, the new one or none, never a part of one."""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from etils import epath

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import sync
from pneumojax.runtime.workdir import UNFINISHED

_HERE, _EXCHANGE = -100, 2  # renameat2(2): relative to this folder; swap two names


def refuse_unwritable(folder: epath.Path, advice: str) -> None:
    """Raise UserError, with this advice, if the folder and the missing ones above it cannot be created."""
    nearest = next(path for path in folder.absolute().parents if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {folder}, since {nearest} is no writable folder: {advice}")


@contextmanager
def becoming_folder(folder: epath.Path) -> Iterator[epath.Path]:
    """Yield an empty folder, which takes the place of `folder` at the end, or is removed if there is an error.

    What `folder` held is removed then. The new files are on the disk before they get the name, also if the power then
    fails. Where the system cannot swap two names, there is a moment without any folder of that name. What a killed
    process left of an earlier attempt is removed at the start.

    Raises:
      UserError: another process is writing the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}{UNFINISHED}")
    if os.path.islink(unfinished):
        raise UserError(f"{unfinished} is a link: remove it")  # what it leads to would be emptied
    with suppress(FileExistsError):
        os.mkdir(unfinished)
    with _alone(unfinished, folder):
        try:
            for entry in unfinished.iterdir():
                _remove(entry)
            yield unfinished
            _sync_all(unfinished)
            with _alone(folder, folder) if folder.exists() else nullcontext():  # it becomes the unfinished one
                take_place(unfinished, folder)
                _remove(unfinished)
            with suppress(OSError):  # some file systems cannot for folders
                sync(folder.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


@contextmanager
def _alone(locked: epath.Path, folder: epath.Path) -> Iterator[None]:
    """Lock a folder, to keep other processes from writing `folder` while the block runs."""
    descriptor = os.open(locked, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(descriptor), os.stat(locked))
        except (BlockingIOError, FileNotFoundError):
            free = False
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            free = True  # this file system has no locks
        if not free:
            raise UserError(f"another process is writing {folder}: wait for it")
        yield
    finally:
        os.close(descriptor)


def _remove(path: epath.Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _sync_all(folder: epath.Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            sync(epath.Path(place) / name)
        with suppress(OSError):  # some file systems cannot for folders
            sync(epath.Path(place))


def take_place(new: epath.Path, old: epath.Path, can_swap: bool = True) -> None:
    """Give the folder `new` the name of `old`. If there was one, it then has the name of `new`, or is removed.

    `can_swap` is false to do without the system call that swaps two names, which not every file system has.
    """
    if not old.exists():
        os.rename(new, old)
    elif not (can_swap and _swapped(new, old)):
        aside = old.with_name(f"{old.name}.replaced{UNFINISHED}")
        _remove(aside)
        os.rename(old, aside)
        os.rename(new, old)
        _remove(aside)


def _swapped(one: epath.Path, other: epath.Path) -> bool:
    """Swap two names at once; return whether the system could."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)  # of glibc from 2.28
    return call is not None and call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
