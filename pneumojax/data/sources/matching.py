"""From how a table names an image to the file: by path, name, or name without suffix, in any spelling."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from posixpath import basename, splitext


class Files:
    """The files below a folder, to be found by the names that a table gives them."""

    def __init__(self, ids: Iterable[str]):
        """`ids` are paths below the folder."""
        self._ids = set(ids)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for id in sorted(self._ids):
            for name in {_folded(basename(id)), _folded(_stem(id))}:
                self._by_name[name].append(id)

    def find(self, name: str) -> list[str]:
        """Return the ids that a name, as `tidy` gives it, may mean: one if all is well.

        The name is a file's path below the folder or one around it, or the end of this path, with or without the
        suffix. If no file has this spelling, small and capital letters count as equal, and so do all ways to write an
        accented letter.
        """
        if name in self._ids:
            return [name]
        last = basename(name)
        named = [id for id in self._by_name.get(_folded(last), ()) if may_be_equal(name, id)]
        if len(named) < 2:
            return named
        named = [id for id in named if last in (basename(id), _stem(id))] or named
        return [id for id in named if id.count("/") >= name.count("/")] or named  # rather below the folder than around

    def only(self, name: str) -> str | None:
        """Return the id that a name, as `tidy` gives it, certainly means; None if there is none.

        It is the name itself, or the end of its path, or the only id with this file name. This takes the same time for
        any number of files.
        """
        parts = name.split("/")
        for start in range(len(parts)):
            if (id := "/".join(parts[start:])) in self._ids:
                return id
        named = self._by_name.get(_folded(parts[-1]), [])
        return named[0] if len(named) == 1 and may_be_equal(name, named[0]) else None


def tidy(name: str) -> str:
    """Return a path with slashes between its parts, and none before them."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def may_be_equal(path: str, other: str) -> bool:
    """Return whether one of two paths, apart from the files' names, ends in the folders of the other."""
    if "/" not in path or "/" not in other:
        return True
    ours, theirs = _folded(path).split("/")[-2::-1], _folded(other).split("/")[-2::-1]
    return all(a == b for a, b in zip(ours, theirs, strict=False))


def _stem(path: str) -> str:
    name, suffix = splitext(basename(path))
    return name + suffix if suffix[1:].isdecimal() else name  # a UID without a suffix ends in a number


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
