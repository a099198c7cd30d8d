"""Films and results on their way, in a folder, so that nothing that was acknowledged is lost over a kill.

films/NAME        a film that was received and is not predicted yet
results/NAME.*    what was made of one, and is not in the PACS yet; complete when the report is there
aside/NAME.*      results that the PACS does not want; they are offered again at the next start
done/NA/NAME      an empty file: the film needs nothing more
key               32 random bytes, by which films get their names

Contents identify patients, and names do not. The folder is for this user alone.
"""

import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from etils import epath

from pneumojax.pacs import identity
from pneumojax.runtime import files
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.workdir import UNFINISHED

_KEY_BYTES = 32
MAX_WAITING = 10_000  # films; a peer is asked to come later
_LAST = ".1"  # the suffix of the document that completes a result


class Queue:
    """A queue in a folder, used by one process. Threads may share it."""

    def __init__(self, folder: Path, model: str):
        """Open the queue, or create it; use `opened` instead. `model` is its key, see `identity`."""
        self._folder, self._model = folder, model
        self._key = _key(folder / "key")
        self._changed = threading.Condition()
        self._arriving: set[str] = set()
        for name in ("films", "results", "aside", "done"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        for path in [*(folder / "films").iterdir(), *(folder / "results").iterdir()]:
            if path.name.endswith(UNFINISHED):
                path.unlink()
        for path in (folder / "aside").iterdir():
            path.replace(folder / "results" / path.name)
        waiting = sorted((folder / "films").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        self._films = dict.fromkeys(path.name for path in waiting)
        whole = sorted((folder / "results").glob(f"*{_LAST}"), key=lambda path: path.stat().st_mtime_ns)
        self._results = dict.fromkeys(path.stem for path in whole)
        for name in self._results:
            self._remove_film(name)

    def name_of(self, uid: str) -> str:
        """Return the name of the film with this SOP Instance UID."""
        return identity.name_of(uid, self._model, self._key)

    def is_known(self, name: str) -> bool:
        """Whether the film is here, or needs nothing more."""
        with self._changed:
            waiting = name in self._films or name in self._results
        return waiting or self._done(name).exists()

    def counts(self) -> tuple[int, int]:
        """Return how many films and how many results wait."""
        with self._changed:
            return len(self._films), len(self._results)

    def add(self, name: str, content: bytes) -> None:
        """Keep a film. It is on the disk when this returns.

        Raises:
          OSError: it cannot be kept, for example since the disk is full; nothing of it is left.
        """
        with self._changed:
            if len(self._films) >= MAX_WAITING:
                raise OSError(f"{MAX_WAITING:,} films wait")
            self._changed.wait_for(lambda: name not in self._arriving)  # two peers may send the same film
            self._arriving.add(name)
        try:
            files.write_whole_bytes(epath.Path(self.film(name)), content)
            with self._changed:
                self._films[name] = None
        finally:
            with self._changed:
                self._arriving.remove(name)
                self._changed.notify_all()

    def films(self, most: int, seconds: float) -> list[str]:
        """Return the names of the films that have waited longest; wait for the first of them so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._films, seconds)
            return list(self._films)[:most]

    def film(self, name: str) -> Path:
        """Return the file of a film that waits."""
        return self._folder / "films" / name

    def keep(self, name: str, documents: Sequence[bytes]) -> None:
        """Keep what was made of a film, the report last, instead of the film.

        Raises:
          OSError: it cannot be kept; the film still waits.
        """
        for number, content in enumerate(documents, start=2 - len(documents)):
            files.write_whole_bytes(epath.Path(self._folder / "results" / f"{name}.{number}"), content)
        with self._changed:
            self._results[name] = None
            self._remove_film(name)
            self._changed.notify_all()

    def results(self, seconds: float) -> list[str]:
        """Return the names of results that wait; wait for the first of them so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._results, seconds)
            return list(self._results)

    def documents(self, name: str) -> list[bytes]:
        """Read a result that waits, the report last."""
        return [path.read_bytes() for path in self._parts(name)]

    def finish(self, name: str) -> None:
        """Note that a film needs nothing more, and remove what is here of it."""
        done = self._done(name)
        done.parent.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(done, os.O_WRONLY | os.O_CREAT, 0o600))
        for folder in (done.parent, done.parent.parent):
            files.sync(epath.Path(folder))
        with self._changed:
            for path in reversed(self._parts(name)):  # the report first: without it, the rest is not sent again
                path.unlink(missing_ok=True)
            self._results.pop(name, None)
            self._remove_film(name)
            self._changed.notify_all()

    def put_aside(self, name: str) -> None:
        """Keep a result that the PACS does not want for the next start."""
        with self._changed:
            for path in reversed(self._parts(name)):
                path.replace(self._folder / "aside" / path.name)
            self._results.pop(name, None)
            self._changed.notify_all()

    def wait_until(self, films: int, seconds: float) -> bool:
        """Wait until at most `films` films and results wait, but no longer than `seconds`; return whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._films) + len(self._results) <= films, seconds)

    def touch(self) -> None:
        """Show a probe that films are worked on."""
        with suppress(OSError):  # a full disk
            (self._folder / "alive").touch()

    def _remove_film(self, name: str) -> None:
        self.film(name).unlink(missing_ok=True)
        self._films.pop(name, None)

    def _parts(self, name: str) -> list[Path]:
        return sorted((self._folder / "results").glob(f"{name}.[01]"))

    def _done(self, name: str) -> Path:
        return self._folder / "done" / name[:2] / name


@contextmanager
def opened(folder: str, workdir: epath.Path, model: str) -> Iterator[Queue]:
    """Open a queue for this process alone, and create the folder if it is missing.

    Raises:
      UserError: there is none, others may read it, it lies in the workdir, or another process uses it.
    """
    if not folder:
        raise UserError("give --config.pacs.queue: a folder of your own, where films wait; it identifies patients")
    path = Path(files.expanded(folder))
    if path.resolve().is_relative_to(Path(workdir).resolve()):
        raise UserError(f"{folder} lies in the workdir, which must not identify patients: put the queue elsewhere")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"{folder} must be a folder that this user alone can read: chmod 700 {folder}")

    def taken() -> NoReturn:
        raise UserError(f"another process uses the queue {folder}: stop it, or give another --config.pacs.queue")

    with files.locked(epath.Path(path / ".lock"), taken):
        yield Queue(path, model)


def _key(path: Path) -> bytes:
    if not path.exists():
        files.write_whole_bytes(epath.Path(path), secrets.token_bytes(_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise UserError(f"{path} is damaged: bring it back, or empty the queue")
    return key
