"""A workdir that holds one run: started with certain settings and images, and refused to others."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager

from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import splits as splitting
from pneumojax.data.source import Source
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import is_local, locked, write_whole
from pneumojax.workflows.run_config import read_config

# What a workdir may hold before its run has started: an audit, and what a killed start left.
_BEGINNINGS = {workdirs.AUDIT, workdirs.LOCK, workdirs.SPLITS, workdirs.FINGERPRINT, workdirs.REMARKS, workdirs.CONFIG}


def own_splits(workdir: epath.Path, source: Source) -> splitting.Splits:
    """Read the splits that the run in `workdir` started with.

    Raises:
      UserError: `source` had other images then, or other labels.
    """
    path = workdir / workdirs.SPLITS
    try:
        return splitting.from_csv(path.read_bytes().decode(), source.records)
    except (OSError, ValueError):
        raise _other_images(workdir) from None


def composition(workdir: epath.Path) -> dict[str, dict]:
    """Return what the run's splits are made of, the foremost first: see `splits.composition`."""
    path = workdir / workdirs.SPLITS
    labels = splitting.labels_in_csv(path.read_bytes().decode()) if path.exists() else {}
    return {name: splitting.composition(labels[name]) for name in sorted(labels, key=splitting.importance)}


def remarks(workdir: epath.Path) -> list[str]:
    """Read the remarks on images, labels and splits that were made when the run started."""
    path = workdir / workdirs.REMARKS
    return path.read_text().splitlines() if path.exists() else []


def changed(workdir: epath.Path, source: Source) -> list[str]:
    """Return a warning if files of the run's own source have other sizes or times than when it started."""
    path = workdir / workdirs.FINGERPRINT
    if path.exists() and path.read_text().strip() == source.fingerprint:
        return []
    return [f"Files in {source.location} have changed since the run started: these may be scores of other images."]


def refuse_other_run(workdir: epath.Path, config: ConfigDict, source: Source) -> None:
    """Check that the workdir is free, or holds this run or an audit, and can be written.

    Raises:
      UserError: it holds a run with other settings or other images, or something else, or cannot be written.
    """
    if workdirs.is_run(workdir):
        refuse_other_settings(workdir, config)
        own_splits(workdir, source)
        return
    if is_local(workdir):
        nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"cannot write {workdir}, since {nearest} is no writable folder: choose another --workdir")
    if workdirs.names_in(workdir) - _BEGINNINGS:
        raise UserError(f"{workdir} is not empty and holds no run: choose another --workdir")


def alone(workdir: epath.Path) -> AbstractContextManager[None]:
    """Keep every other process from training in the workdir while the block runs.

    Raises:
      UserError: another process is training there.
    """

    def taken() -> None:
        raise UserError(f"another process is training in {workdir}: wait for it, or choose another --workdir")

    return locked(workdir / workdirs.LOCK, taken)


def claim(
    workdir: epath.Path, config: ConfigDict, splits: splitting.Splits, source: Source, remarks: Iterable[str]
) -> None:
    """Write the config, the splits and the remarks on them into a new workdir.

    Raises:
      UserError: a run there started with other splits.
    """
    path, table = workdir / workdirs.SPLITS, splitting.to_csv(splits, source.records)
    if not workdirs.is_run(workdir):
        write_whole(path, table)
        write_whole(workdir / workdirs.FINGERPRINT, source.fingerprint + "\n")
        write_whole(workdir / workdirs.REMARKS, "".join(f"{sentence}\n" for sentence in remarks))
        configs.write(config, workdir / workdirs.CONFIG)
    elif not path.exists() or path.read_bytes().decode() != table:
        raise _other_images(workdir)


def _other_images(workdir: epath.Path) -> UserError:
    return UserError(
        f"the images are not those that the run in {workdir} started with: bring them back, or choose another --workdir"
    )


def refuse_other_settings(workdir: epath.Path, config: ConfigDict, prefixes: tuple[str, ...] = ("",)) -> None:
    """Check that the config agrees with the run's in every field whose name starts with one of `prefixes`.

    Raises:
      UserError: it does not.
    """
    differences = [line for line in configs.differences(config, read_config(workdir)) if line.startswith(prefixes)]
    if differences:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(differences)}): leave them out, or choose another"
            " --workdir"
        )
