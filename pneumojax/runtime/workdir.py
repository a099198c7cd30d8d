"""The files of a workdir, every name in one place.

A workdir holds one run, one audit, one experiment or one benchmark.
"""

from etils import epath

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
EXPLANATIONS = "explanations"
EXPLANATION_CHECKS = f"{EXPLANATIONS}/checks.json"
REPORT = "report/index.html"

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


def is_run(workdir: epath.Path) -> bool:
    """Whether the workdir holds a run."""
    return (workdir / CONFIG).exists()


def is_experiment(workdir: epath.Path | None) -> bool:
    """Whether the workdir holds an experiment."""
    return workdir is not None and (workdir / EXPERIMENT).exists()


def names_in(workdir: epath.Path) -> set[str]:
    """Return the names of what lies in the workdir, without files that are being written."""
    found = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    return {name for name in found if not name.endswith(UNFINISHED)}
