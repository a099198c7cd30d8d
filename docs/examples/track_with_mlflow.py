"""Copy a run of PneumoJAX to MLflow: its settings, the metrics of each epoch, the evaluations and the report.

  pip install mlflow
  python track_with_mlflow.py RUN          # after the run
  python track_with_mlflow.py RUN --follow  # beside it: ends when the run's report is there

RUN is a workdir on this machine. The metrics go to the server that MLFLOW_TRACKING_URI names; for that, mlflow-skinny
is enough. Without one, they go into a database in the current folder.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow


def lines(path: Path, end: Path, *, follow: bool) -> Iterator[dict]:
    """Yield the rows of a metrics.jsonl, and wait for more of them until the file `end` exists."""
    while not path.exists():
        if not follow:
            return
        time.sleep(1)
    with path.open() as file:
        line = ""
        while True:
            ended = end.exists() or not follow
            while part := file.readline():
                line += part
                if line.endswith("\n"):  # another process may be writing it
                    yield json.loads(line)
                    line = ""
            if ended:
                return
            time.sleep(1)


def settings(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the fields of a config.json as `group.field`."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def track(run: Path, *, follow: bool) -> None:
    report = run / "report/index.html"
    with mlflow.start_run(run_name=run.name):
        rows = lines(run / "metrics.jsonl", report, follow=follow)
        for number, row in enumerate(rows):
            if number == 0:
                mlflow.log_params(dict(settings(json.loads((run / "config.json").read_text()))))
            values = {name: value for name, value in row.items() if name not in ("step", "epoch", "split")}
            mlflow.log_metrics({f"{row['split']}/{name}": value for name, value in values.items()}, row["epoch"])
        for path in sorted((run / "evaluation").glob("*.json")):
            mlflow.log_artifact(str(path), "evaluation")
        if report.exists():
            mlflow.log_artifact(str(report), "report")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--follow", action="store_true", help="wait for the run's end")
    given = parser.parse_args()
    track(given.run, follow=given.follow)
