"""A checkpoint's manifest: the digest of each of its files, which Orbax does not check."""

import hashlib
import json
import os
from collections.abc import Iterator

from etils import epath

from pneumojax.runtime.files import is_local, read_json, write_whole

MANIFEST = "manifest.json"  # in the checkpoint's folder
_TIMES = "_CHECKPOINT_METADATA"  # Orbax adds to it after the checkpoint is finished


def write(folder: epath.Path) -> None:
    """Write the manifest of the checkpoint in `folder`."""
    write_whole(folder / MANIFEST, json.dumps(_digests(folder), indent=1))


def damage(folder: epath.Path) -> str:
    """Return what is wrong with the files of the checkpoint in `folder`; empty where they are as they were written."""
    path = folder / MANIFEST
    if not path.is_file():
        return f"{MANIFEST} is missing"
    for place in _files(folder) if is_local(folder) else ():  # a pipe would be read forever
        if os.path.islink(place) or not os.path.isfile(place):
            return f"{place.relative_to(folder).as_posix()} is no file"
    try:
        written = dict(read_json(path))
    except (TypeError, ValueError):
        return f"{MANIFEST} cannot be read"
    digests = _digests(folder)
    if not written:
        return f"{MANIFEST} is empty"
    for name in written:
        if name not in digests:
            return f"{name} is missing"
        if written[name] != digests[name]:
            return f"{name} is not as it was written"
    return ""


def _digests(folder: epath.Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint, by its path relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files(folder)
        if path.name not in (_TIMES, MANIFEST)
    }


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir() and not os.path.islink(path):
            yield from _files(path)
        else:
            yield path
