"""A folder holds one run: begun with certain settings and images, and refused to others."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager

from etils import epath
from ml_collections import ConfigDict

from pneumojax import config as configs
from pneumojax.benchmark.plan import plan
from pneumojax.data import audit_page
from pneumojax.data import splits as splitting
from pneumojax.data.records import Source, name_of
from pneumojax.errors import UserError
from pneumojax.family import FAMILY
from pneumojax.files import UNFINISHED, locked, write_whole

SPLITS_FILE = "splits.csv"
FINGERPRINT_FILE = "fingerprint.txt"
REMARKS_FILE = "remarks.txt"
LOCK_FILE = ".lock"


def default(mode: str, config: ConfigDict) -> epath.Path:
    """runs/<config>-<recipe>-<source>, runs/<mode>-<source> or runs/benchmark-<models>."""
    if mode == "benchmark":
        return epath.Path("-".join(["runs/benchmark", *plan(config).models]))
    begin = mode if mode in ("audit", "experiment") else f"{config.name}-{config.recipe}"
    return epath.Path(f"runs/{begin}-{name_of(config.data.source)}")


def config_for(
    mode: str, spec: str | None, workdir: epath.Path | None, data: str | None, overrides: Iterable[str]
) -> ConfigDict:
    """The config that `spec` names; where there is none, the workdir's; with `overrides`, and checked.

    What concerns images alone needs neither: there, m1, m2 and m3 agree. A benchmark and an
    experiment of no config are of all three.

    Raises:
      UserError: neither gives a config, or an override or a field is wrong.
    """
    if spec is not None:
        config = configs.load(spec)
    elif mode in ("benchmark", "experiment"):
        config = configs.load("m1")
        config[mode].models = ",".join(FAMILY)
    elif workdir is not None and (mode != "audit" or (workdir / configs.FILE).exists()):
        config = read_config(workdir)
    elif mode in ("audit", "prepare"):
        config = configs.load("m1")
    else:
        raise UserError("give --config (such as m1), or the --workdir of a run")
    if mode == "evaluate" and any(assignment.startswith("data.source=") for assignment in overrides):
        raise UserError("what is evaluated is named by --data=SOURCE, not by --config.data.source")
    if mode == "experiment" and spec is not None:
        config.experiment.models = spec.partition(":")[0]
    if mode == "evaluate":
        config.evaluation.shifts = False  # which an experiment's runs were evaluated under, not what is asked for now
    for assignment in overrides:
        configs.override(config, *assignment.split("=", 1))
    if data is not None and mode not in ("evaluate", "predict", "explain"):
        config.data.source = data
    configs.check(config)
    return config


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config that the run in `workdir` was started with.

    Raises:
      UserError: there is no run.
    """
    path = workdir / configs.FILE
    if not path.exists():
        raise UserError(f"no run in {workdir}: give --config to start one, or the --workdir of one")
    return configs.read(path)


def own_splits(workdir: epath.Path, source: Source) -> splitting.Splits:
    """The splits that the run in `workdir` began with.

    Raises:
      UserError: `source` had other images then, or other labels.
    """
    path = workdir / SPLITS_FILE
    try:
        return splitting.from_csv(path.read_bytes().decode(), source.records)
    except (OSError, ValueError):
        raise _other_images(workdir) from None


def composition(workdir: epath.Path) -> dict[str, dict]:
    """What the splits that the run began with are made of, the foremost first: see `splits.composition`."""
    path = workdir / SPLITS_FILE
    labels = splitting.labels_in_csv(path.read_bytes().decode()) if path.exists() else {}
    return {name: splitting.composition(labels[name]) for name in sorted(labels, key=splitting.importance)}


def remarks(workdir: epath.Path) -> list[str]:
    """What was said of images, labels and splits when the run began."""
    path = workdir / REMARKS_FILE
    return path.read_text().splitlines() if path.exists() else []


def changed(workdir: epath.Path, source: Source) -> list[str]:
    """A sentence where files of the run's own source have other sizes or times than when it began."""
    path = workdir / FINGERPRINT_FILE
    if path.exists() and path.read_text().strip() == source.fingerprint:
        return []
    return [f"Files in {source.location} have changed since the run began: these may be scores of other images."]


def refuse_other_run(workdir: epath.Path, config: ConfigDict, source: Source) -> None:
    """Raises UserError if the workdir holds another run, or what is none and no audit, or cannot be written.

    Another run is one of other settings, or of other images than `source` has.
    """
    if (workdir / configs.FILE).exists():
        refuse_other_settings(workdir, config)
        own_splits(workdir, source)
        return
    names = (SPLITS_FILE, FINGERPRINT_FILE, REMARKS_FILE, configs.FILE)
    beginnings = {audit_page.FOLDER, LOCK_FILE, *names}
    if "://" not in str(workdir):
        there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"cannot write {workdir}, as {there} is no folder to write into: choose another --workdir")
    there = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    if any(name not in beginnings and not name.endswith(UNFINISHED) for name in there):
        raise UserError(f"{workdir} is not empty and holds no run: choose another --workdir")


def alone(workdir: epath.Path) -> AbstractContextManager[None]:
    """Keeps every other process from training in the workdir meanwhile, as long as this one lives.

    Raises:
      UserError: another one does.
    """

    def taken():
        raise UserError(f"another process is training in {workdir}: wait for it, or choose another --workdir")

    return locked(workdir / LOCK_FILE, taken)


def claim(
    workdir: epath.Path, config: ConfigDict, splits: splitting.Splits, source: Source, said: Iterable[str]
) -> None:
    """Writes config, splits, and what was said of them, into a new workdir.

    Raises:
      UserError: a run there began with other splits.
    """
    path, table = workdir / SPLITS_FILE, splitting.to_csv(splits, source.records)
    if not (workdir / configs.FILE).exists():
        write_whole(path, table)
        write_whole(workdir / FINGERPRINT_FILE, source.fingerprint + "\n")
        write_whole(workdir / REMARKS_FILE, "".join(f"{sentence}\n" for sentence in said))
        configs.write(config, workdir / configs.FILE)
    elif not path.exists() or path.read_bytes().decode() != table:
        raise _other_images(workdir)


def _other_images(workdir: epath.Path) -> UserError:
    return UserError(
        f"the images are not those that the run in {workdir} began with: bring them back, or choose another --workdir"
    )


def refuse_other_settings(workdir: epath.Path, config: ConfigDict, fields: tuple[str, ...] = ("",)) -> None:
    """Refuses a config that differs from the run's in a field of which the name begins with one of `fields`."""
    differences = [told for told in configs.differences(config, read_config(workdir)) if told.startswith(fields)]
    if differences:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(differences)}): leave them out, or choose another"
            " --workdir"
        )
