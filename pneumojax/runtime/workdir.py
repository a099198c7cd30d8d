"""The files of a workdir, every name in one place.

A workdir holds one run, one audit, one experiment or one benchmark.
"""

import os
import stat
from collections.abc import Iterable

from etils import epath

from pneumojax.runtime.errors import UserError

# A run.
CONFIG = "config.json"
SPLITS = "splits.csv"  # each image's label and split
FINGERPRINT = "fingerprint.txt"  # of the source's files
REMARKS = "remarks.txt"  # what the user must know of images, labels and splits
UNREADABLE = "unreadable.csv"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
EVALUATION = "evaluation"
CORRUPTIONS = "corruptions"
NEIGHBOURS = "neighbours.npz"
PREDICTIONS = "predictions"
PACS = "pacs.csv"  # what became of each film of a PACS; no identifier of a patient
PLACES = "places"  # a file for each name of other images in the folders here: their place
EXPLANATIONS = "explanations"
EXPORT = "export"
SITES = "sites"  # a file for each site that the model is set up for
OPERATING_POINTS = "operating_points.json"  # chosen by the worst group of val
SITE_NAME = r"[^\W_][\w.-]{0,99}"  # a pattern of their names
EXPLANATION_CHECKS = f"{EXPLANATIONS}/checks.json"
REPORT = "report/index.html"
REPORT_PICTURES = "report/pictures.npz"  # what the report shows of the run's own images

# An exported model, in a folder of its own with a config.json of another kind.
WEIGHTS = "model.safetensors"
PARITY = "parity.json"

# An audit, which may lie in a run's workdir.
AUDIT = "audit"
AUDIT_JSON = f"{AUDIT}/audit.json"
AUDIT_REPORT = f"{AUDIT}/index.html"

# An experiment: a folder of runs, and a `REPORT` of its own.
EXPERIMENT = "experiment.json"  # lists its runs
EXPERIMENT_TABLES = "experiment.md"

# A benchmark.
BENCHMARK = "benchmark.json"
BENCHMARK_TABLES = "benchmark.md"

UNFINISHED = ".unfinished"  # ends the name of a file that is being written

_TOP = (
    CONFIG, SPLITS, FINGERPRINT, REMARKS, UNREADABLE, LOCK, CHECKPOINTS, METRICS, TENSORBOARD, EVALUATION, CORRUPTIONS,
    NEIGHBOURS, PREDICTIONS, PACS, PLACES, EXPLANATIONS, EXPORT, SITES, OPERATING_POINTS, "report", AUDIT,
    EXPERIMENT, EXPERIMENT_TABLES, BENCHMARK, BENCHMARK_TABLES,
)  # fmt: skip


def refuse_links(workdir: epath.Path, more: Iterable[str] = ()) -> None:
    """Check that all names here, and `more`, are of files and folders in the workdir. It may be a link itself.

    A link would let files elsewhere be read or written over, and reading a pipe would wait forever.

    Raises:
      UserError: one is a link, a pipe, a socket or a device.
    """
    left = [] if "://" in str(workdir) else [os.path.join(workdir, name) for name in (*_TOP, *more)]
    while left:
        path = left.pop()
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISDIR(mode):
            left += [entry.path for entry in os.scandir(path)]
        elif not stat.S_ISREG(mode):
            kind = "link" if stat.S_ISLNK(mode) else "pipe, a socket or a device"
            raise UserError(f"{path} is a {kind}: a workdir holds files and folders only, so remove it")


def default_of(model: epath.Path) -> epath.Path:
    """Return where the model in this folder, which is no run's, writes by default."""
    name = model.absolute().parent.name if model.name == EXPORT else model.name
    return epath.Path(f"runs/model-{name}")


def is_run(workdir: epath.Path) -> bool:
    """Whether the workdir holds a run; an exported model is none."""
    return (workdir / CONFIG).exists() and not any((workdir / name).exists() for name in (WEIGHTS, PARITY))


def is_experiment(workdir: epath.Path | None) -> bool:
    """Whether the workdir holds an experiment."""
    return workdir is not None and (workdir / EXPERIMENT).exists()


def names_in(workdir: epath.Path) -> set[str]:
    """Return the names of what lies in the workdir, without files that are being written."""
    found = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    return {name for name in found if not name.endswith(UNFINISHED)}
