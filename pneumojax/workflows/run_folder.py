"""A workdir that holds one run: started with certain settings and images, and refused to others."""

import hashlib
import os
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager

from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import splits as splitting
from pneumojax.data.source import Options, Source
from pneumojax.data.sources import open_source
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_identity
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError, one_line
from pneumojax.runtime.files import claim as claim_file
from pneumojax.runtime.files import is_local, locked, read_text, write_whole
from pneumojax.runtime.tables import read_csv_table
from pneumojax.workflows.prepare import content_of
from pneumojax.workflows.run_config import read_config

# What a workdir may hold before its run has started: an audit, and what a killed start left.
_BEGINNINGS = {workdirs.AUDIT, workdirs.LOCK, workdirs.SPLITS, workdirs.FINGERPRINT, workdirs.REMARKS, workdirs.CONFIG}


def open_own(place: str, options: Options) -> Source:
    """Open the images that a run started with.

    Raises:
      UserError: they are not there.
    """
    try:
        return open_source(place, options)
    except UserError as error:
        raise UserError(f"{error}; if the run's images have moved, name their new place with --data") from None


def require_trained(workdir: epath.Path) -> None:
    """Raise UserError if the workdir holds no run."""
    if not workdirs.is_run(workdir):
        raise UserError(f"no run in {workdir}: give the --workdir of a run, or train one with --config and --data")


def own_splits(workdir: epath.Path, source: Source) -> splitting.Splits:
    """Read the splits that the run in `workdir` started with.

    Raises:
      UserError: `source` had other images then, or other labels; or the table is damaged.
    """
    text = _splits_table(workdir)
    if text is None:
        path = workdir / workdirs.SPLITS
        raise UserError(f"{path} is damaged: run --mode=train --workdir={workdir} to write it again")
    try:
        return splitting.from_csv(text, source.records)
    except ValueError:
        raise _other_images(workdir) from None


def _splits_table(workdir: epath.Path) -> str | None:
    """Return the table of splits as it was written when the run started; None if it is damaged or missing."""
    try:
        text = (workdir / workdirs.SPLITS).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text if run_identity.is_intact(text, run_identity.of_workdir(workdir)) else None


def has_images_of(workdir: epath.Path, source: Source) -> bool:
    """Whether a source in another place may be the run's own: it has the same ids and labels.

    Then the run's images have moved if `prepare.content_of` it is `run_identity.of_workdir(workdir).images`.
    """
    text = _splits_table(workdir)
    try:
        return bool(text and run_identity.of_workdir(workdir).images and splitting.from_csv(text, source.records))
    except ValueError:
        return False


def is_moved(workdir: epath.Path, config: ConfigDict, source: Source) -> bool:
    """Whether `source` has the images with which the run started, in another place. Every image is read."""
    if not has_images_of(workdir, source):
        return False
    return content_of(config, source) == run_identity.of_workdir(workdir).images


def name_of(workdir: epath.Path, folder: str, name: str, place: str) -> str:
    """Return the name in a folder of the workdir for images at `place`: `name`, unless it is of another place already.

    Then a digest of the place is added. The workdir's places/<folder>/<name> says which place a name is of.
    """
    files = workdir / workdirs.PLACES / folder
    for candidate in (name, f"{name}-{hashlib.sha256(place.encode(errors='replace')).hexdigest()[:8]}"):
        if claim_file(files / candidate, one_line(place)) == one_line(place):
            return candidate
    raise UserError(f"{files / candidate} is damaged: remove it")


def has_report(workdir: epath.Path) -> bool:
    """Whether the run's report is there, from start to end."""
    path = workdir / workdirs.REPORT
    return path.is_file() and path.read_bytes().rstrip().endswith(b"</html>")


def composition(workdir: epath.Path) -> dict[str, dict]:
    """Return what the run's splits are made of, the foremost first: see `splits.composition`."""
    try:
        labels = splitting.labels_in_csv(_splits_table(workdir) or "")
    except ValueError:
        return {}
    return {name: splitting.composition(labels[name]) for name in sorted(labels, key=splitting.importance)}


def labels_by_site(workdir: epath.Path, sites: Collection[str]) -> dict[str, dict[str, list[int]]]:
    """Read the labels of the run's splits, the foremost first, by site: split -> site -> labels.

    Ids of several sites start with "<site>/", one of `sites`. If any id does not, there is one site, "". Nothing is
    read of a damaged table.
    """
    try:
        rows = [(id, int(label), split) for id, label, split, *_ in read_csv_table(_splits_table(workdir) or "")[1:]]
    except ValueError:
        return {}
    named = bool(sites) and all(id.partition("/")[0] in sites for id, _, _ in rows)
    labels: dict[str, dict[str, list[int]]] = {}
    for id, label, split in rows:
        if split:
            site = id.partition("/")[0] if named else ""
            labels.setdefault(split, {}).setdefault(site, []).append(label)
    return {split: labels[split] for split in sorted(labels, key=splitting.importance)}


def remarks(workdir: epath.Path) -> list[str]:
    """Read the remarks on images, labels and splits that were made when the run started."""
    path = workdir / workdirs.REMARKS
    return [one_line(line) for line in read_text(path).splitlines()] if path.exists() else []


def changed(workdir: epath.Path, source: Source) -> list[str]:
    """Return a warning if files of the run's own source have other sizes or times than when it started."""
    path = workdir / workdirs.FINGERPRINT
    if path.exists() and read_text(path).strip() == source.fingerprint:
        return []
    return [f"Files in {source.location} have changed since the run started: these may be scores of other images."]


def refuse_other_run(workdir: epath.Path, config: ConfigDict, source: Source) -> None:
    """Check that the workdir is free, or holds this run or an audit, and can be written.

    Raises:
      UserError: it holds a run with other settings or other images, or something else, or cannot be written.
    """
    if workdirs.is_run(workdir):
        saved = read_config(workdir)
        if source.location != saved.data.source and has_images_of(workdir, source):  # `claim` compares their pixels
            config = configs.with_fields(config, {"data.source": saved.data.source, "data.labels": saved.data.labels})
        refuse_other_settings(workdir, config)
        if _splits_table(workdir) is not None:  # otherwise `claim` writes it again
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
    workdir: epath.Path,
    config: ConfigDict,
    splits: splitting.Splits,
    source: Source,
    content: str,
    remarks: Iterable[str],
) -> None:
    """Write the config, the splits and the remarks on them into a new workdir; into a run's, what is damaged of them.

    `content` is that of the prepared images, see `source.Prepared`.

    Raises:
      UserError: a run there started with other splits, or with other images.
    """
    table, start = splitting.to_csv(splits, source.records), not workdirs.is_run(workdir)
    identity, found = run_identity.of_workdir(workdir), _splits_table(workdir)
    if not start:
        same_files = source.location == read_config(workdir).data.source and not changed(workdir, source)
        if not (found == table or (found is None and identity.splits and run_identity.is_intact(table, identity))):
            raise _other_images(workdir)
        if not same_files and identity.images not in ("", content):
            raise _other_images(workdir)
    write_whole(workdir / workdirs.SPLITS, table)
    write_whole(workdir / workdirs.REMARKS, "".join(f"{sentence}\n" for sentence in remarks))
    if start or (identity.images == content and source.location == read_config(workdir).data.source):
        write_whole(workdir / workdirs.FINGERPRINT, source.fingerprint + "\n")
    if start:  # the last one: a workdir with it holds a run
        configs.write(config, workdir / workdirs.CONFIG, configs.new_identity(config, table, content))


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
