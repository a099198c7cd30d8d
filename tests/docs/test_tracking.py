"""The example in the documents copies a whole run to MLflow. `make test-peers` installs MLflow."""

import json
import subprocess
import sys

import pytest
from support import ROOT

mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny: see make test-peers")


def test_a_run_is_copied_to_mlflow(finished, tmp_path, monkeypatch):
    place = f"file:{tmp_path}/mlruns"
    command = [sys.executable, str(ROOT / "docs/examples/track_with_mlflow.py"), str(finished[0] / "work"), "--follow"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which needs no database
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(tracking_uri=place)
    [run] = client.search_runs(["0"])
    last = [json.loads(line) for line in (finished[0] / "work/metrics.jsonl").read_text().splitlines()][-1]
    assert last["split"] == "val"
    history = client.get_metric_history(run.info.run_id, "val/auc")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert history[-1].value == pytest.approx(last["auc"])
    assert run.data.params["model.name"] == "m1"
    names = {
        file.path for folder in ("evaluation", "report") for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"evaluation/val.json", "report/index.html"} <= names
