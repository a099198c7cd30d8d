"""A whole run from the command line: the files it leaves, that they agree, and what later commands do with it."""

import json
import shutil
import subprocess
import sys

import pytest
from scipy.special import expit, logit
from sklearn import metrics as sk
from support import ROOT, SMALL, draw_folder, in_process, pneumojax, read_json, read_rows, without_tensorflow

from pneumojax.models import kernels

FIGURES = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "bce", "majority_accuracy")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """The folder of a small run on `chests`, its workdir, and what it printed."""
    original, printed = finished
    folder = shutil.copytree(original, tmp_path_factory.mktemp("run") / "here")
    return folder, folder / "work", printed


def test_a_run_leaves_the_files_of_the_contract(trained):
    folder, work, printed = trained
    for name in ("config.json", "splits.csv", "checkpoints", "metrics.jsonl", "tensorboard", "report/index.html"):
        assert (work / name).exists(), name
    assert {path.stem for path in (work / "evaluation").iterdir()} == {"train", "val", "test"}
    assert {path.name for path in folder.iterdir()} == {"work", "cache"}, "nothing is written elsewhere"
    assert "Total parameters: " in printed
    assert "val is carved from train" in printed


def test_one_unnamed_site_without_metadata_has_no_groups(trained):
    _, work, printed = trained
    assert "groups" not in read_json(work / "evaluation/test.json") and "Groups of" not in printed


def test_the_evaluation_agrees_with_its_csv_and_with_scikit_learn(trained):
    _, work, _ = trained
    for split, count in (("test", 40), ("val", 12)):
        evaluation, table = read_json(work / f"evaluation/{split}.json"), read_rows(work / f"evaluation/{split}.csv")
        labels = [int(row["label"]) for row in table]
        scores = [float(row["probability"]) for row in table]
        predicted = [score >= evaluation["threshold"] for score in scores]
        assert list(table[0]) == ["id", "label", "probability"]
        assert evaluation["n"] == len(table) == len({row["id"] for row in table}) == count
        assert evaluation["positives"] == sum(labels)
        assert evaluation["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
        assert evaluation["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
        uncalibrated = expit((logit(scores) - evaluation["offset"]) * evaluation["temperature"])
        assert evaluation["bce"] == pytest.approx(sk.log_loss(labels, uncalibrated), rel=1e-4)
        tn, fp, fn, tp = sk.confusion_matrix(labels, predicted).ravel().tolist()
        assert evaluation["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def test_the_evaluation_is_of_an_epoch_in_the_metrics_lines(trained):
    _, work, _ = trained
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    aucs = {line["epoch"]: line["auc"] for line in lines if line["split"] == "val"}
    evaluation = read_json(work / "evaluation/val.json")
    assert evaluation["auc"] == pytest.approx(aucs[evaluation["epoch"]])
    assert evaluation["auc"] >= max(aucs.values()) - 0.2, "within a standard error of the best, for a dozen images"


def test_the_same_command_again_says_first_that_the_run_is_complete(trained):
    folder, work, _ = trained
    before = (work / "metrics.jsonl").read_bytes()
    again = pneumojax("--workdir=work", "--config.data.cache_dir=cache", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("This run is complete: work.")
    assert (work / "metrics.jsonl").read_bytes() == before


def test_other_images_are_evaluated_at_the_stored_threshold(trained, tmp_path):
    """Each in the split it lies in; an override that has no effect on results changes no number."""
    folder, work, _ = trained
    draw_folder(tmp_path / "other set", "val", 3, 9, first=2000)
    evaluations = []
    for extra in ([], ["--config.evaluation.batch_size=5"]):
        done = in_process("--mode=evaluate", "--workdir=work", f"--data={tmp_path / 'other set'}", *extra, cwd=folder)
        assert done.returncode == 0, done.stderr
        evaluations.append(read_json(work / "evaluation/other_set-val.json"))
    assert evaluations[0]["n"] == 12
    assert evaluations[0]["threshold"] == read_json(work / "evaluation/val.json")["threshold"]
    for name in FIGURES:
        assert evaluations[0][name] == pytest.approx(evaluations[1][name], rel=1e-5)
    assert not (work / "evaluation/other_set-train.json").exists()


def test_what_one_class_leaves_undefined_has_a_reason(trained, tmp_path):
    folder, work, _ = trained
    draw_folder(tmp_path / "sick", "", 0, 5)
    done = in_process("--mode=evaluate", "--workdir=work", f"--data={tmp_path / 'sick'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    evaluation = read_json(work / "evaluation/sick-all.json")
    assert evaluation["auc"] is None
    assert "one class" in evaluation["auc_reason"]
    assert evaluation["sensitivity"] is not None


def test_evaluating_the_runs_own_images_repeats_its_figures(trained, tmp_path):
    """Read from their files, without TensorFlow and shards, they are the images that were trained on."""
    folder, work, _ = trained
    before = {path.name: read_json(path) for path in (work / "evaluation").glob("t*.json")}
    home = tmp_path / "home"
    (home / ".cache/pneumojax").mkdir(parents=True)
    (home / ".cache/pneumojax/kernels").symlink_to(kernels.libraries())
    unset = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "")
    done = without_tensorflow("--mode=evaluate", "--workdir=work", cwd=folder, HOME=str(home), **unset)
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(home).as_posix() for path in (*home.glob("*"), *home.glob(".*/*"))}
    assert written == {".cache", ".cache/pneumojax"}, "in the home folder, only the cache is written to"
    for name, evaluation in before.items():
        for figure in FIGURES:
            assert read_json(work / "evaluation" / name)[figure] == pytest.approx(evaluation[figure], rel=1e-5)


@pytest.mark.slow
def test_training_without_tensorflow_gives_the_same_results(finished, chests, tmp_path):
    """The images are then read straight into memory, not from shards."""
    done = without_tensorflow(*SMALL, f"--data={chests}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "work/report/index.html").exists()
    for name in ("splits.csv", "evaluation/train.csv", "evaluation/test.csv"):
        assert (tmp_path / "work" / name).read_bytes() == (finished[0] / "work" / name).read_bytes(), name
    again = pneumojax("--workdir=work", "--config.data.cache_dir=cache", cwd=tmp_path)
    assert "This run is complete" in again.stdout, again.stderr


def test_a_wheel_runs_from_anywhere(finished, tmp_path):
    """Built from the tree and unpacked elsewhere, it has every module, and evaluates a run without the tree."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, site], check=True)
    modules = {path.relative_to(ROOT) for path in (ROOT / "pneumojax").rglob("*.py")}
    configs = {"pneumojax" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    assert {path.relative_to(site) for path in site.rglob("*.py")} == modules | configs
    shutil.copytree(finished[0] / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work/report")
    command = ("--mode=evaluate", "--workdir=work", f"--config.data.cache_dir={finished[0] / 'cache'}")
    done = pneumojax(*command, cwd=tmp_path, PYTHONPATH=str(site), PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/report/index.html").exists()
