"""The command line as a user meets it: a whole run, other data, a second time, and each mistake."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, draw_folder, pneumojax
from scipy.special import expit, logit
from sklearn import metrics as sk

from pneumojax import kernels

PLAIN = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "bce", "majority_accuracy")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """(working folder, workdir, what was printed) of a small run on `chests`."""
    original, printed = finished
    folder = shutil.copytree(original, tmp_path_factory.mktemp("run") / "here")
    return folder, folder / "work", printed


def read(path):
    return json.loads(path.read_text())


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_the_contract_names(trained):
    folder, work, printed = trained
    for name in ("config.json", "splits.csv", "checkpoints", "metrics.jsonl", "tensorboard", "report/index.html"):
        assert (work / name).exists(), name
    assert {path.stem for path in (work / "evaluation").iterdir()} == {"train", "val", "test"}
    assert {path.name for path in folder.iterdir()} == {"work", "cache"}, "nothing is written elsewhere"
    assert "Total parameters: " in printed
    assert "val is carved from train" in printed


def test_the_evaluation_is_what_its_own_csv_says(trained):
    """The files agree with each other and with scikit-learn."""
    _, work, _ = trained
    for split, count in (("test", 40), ("val", 12)):
        found, table = read(work / f"evaluation/{split}.json"), rows(work / f"evaluation/{split}.csv")
        labels = [int(row["label"]) for row in table]
        scores = [float(row["probability"]) for row in table]
        called = [score >= found["threshold"] for score in scores]
        assert list(table[0]) == ["id", "label", "probability"]
        assert found["n"] == len(table) == len({row["id"] for row in table}) == count
        assert found["positives"] == sum(labels)
        assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
        assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, called))
        raw = expit((logit(scores) - found["offset"]) * found["temperature"])
        assert found["bce"] == pytest.approx(sk.log_loss(labels, raw), rel=1e-4)
        tn, fp, fn, tp = sk.confusion_matrix(labels, called).ravel().tolist()
        assert found["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def test_the_metrics_lines_and_the_evaluation_tell_of_the_same_epoch(trained):
    _, work, _ = trained
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    aucs = {line["epoch"]: line["auc"] for line in lines if line["split"] == "val"}
    told = read(work / "evaluation/val.json")
    assert told["auc"] == pytest.approx(aucs[told["epoch"]])
    assert told["auc"] >= max(aucs.values()) - 0.2, "a standard error, of a dozen images"


def test_the_same_command_again_says_that_the_run_is_complete(trained, chests, tmp_path):
    folder, work, _ = trained
    before = (work / "metrics.jsonl").read_bytes()
    again = pneumojax("--workdir=work", "--config.data.cache_dir=cache", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "complete" in again.stdout
    assert (work / "metrics.jsonl").read_bytes() == before


def test_evaluating_other_images_needs_the_flags_alone(trained, tmp_path):
    """Every image is scored in the split it lies in, at the stored threshold; an override changes no number."""
    folder, work, _ = trained
    draw_folder(tmp_path / "other set", "val", 3, 9, first=2000)
    results = []
    for extra in ([], ["--config.evaluation.batch_size=5"]):
        done = pneumojax("--mode=evaluate", "--workdir=work", f"--data={tmp_path / 'other set'}", *extra, cwd=folder)
        assert done.returncode == 0, done.stderr
        results.append(read(work / "evaluation/other_set-val.json"))
    assert results[0]["n"] == 12
    assert results[0]["threshold"] == read(work / "evaluation/val.json")["threshold"]
    for name in PLAIN:
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)
    assert not (work / "evaluation/other_set-train.json").exists()


def test_one_class_alone_is_evaluated_with_reasons(trained, tmp_path):
    folder, work, _ = trained
    draw_folder(tmp_path / "sick", "", 0, 5)
    done = pneumojax("--mode=evaluate", "--workdir=work", f"--data={tmp_path / 'sick'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = read(work / "evaluation/sick-all.json")
    assert found["auc"] is None
    assert "one class" in found["auc_reason"]
    assert found["sensitivity"] is not None


def test_evaluating_the_runs_own_images_repeats_its_numbers(trained, tmp_path):
    """Decoded anew, without TensorFlow and without shards, they are the images that were trained on."""
    folder, work, _ = trained
    before = {path.name: read(path) for path in (work / "evaluation").glob("t*.json")}
    home = tmp_path / "home"
    (home / ".cache/pneumojax").mkdir(parents=True)
    (home / ".cache/pneumojax/kernels").symlink_to(kernels.libraries())
    unset = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "")
    done = without_tensorflow("--mode=evaluate", "--workdir=work", cwd=folder, HOME=str(home), **unset)
    assert done.returncode == 0, done.stderr
    outside = {path.relative_to(home).as_posix() for path in (*home.glob("*"), *home.glob(".*/*"))}
    assert outside == {".cache", ".cache/pneumojax"}, "of all that is the user's, the cache alone is written to"
    for name, found in before.items():
        for metric in PLAIN:
            assert read(work / "evaluation" / name)[metric] == pytest.approx(found[metric], rel=1e-5)


def test_it_trains_without_tensorflow(finished, chests, tmp_path):
    """From images read straight into memory, which are those of the shards, to the same figures."""
    done = without_tensorflow(*SMALL, f"--data={chests}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "work/report/index.html").exists()
    for name in ("splits.csv", "evaluation/train.csv", "evaluation/test.csv"):
        assert (tmp_path / "work" / name).read_bytes() == (finished[0] / "work" / name).read_bytes(), name
    again = pneumojax("--workdir=work", "--config.data.cache_dir=cache", cwd=tmp_path)
    assert "This run is complete" in again.stdout, again.stderr


def test_what_takes_tensorflow_says_so_in_one_line(chests, tmp_path, tiny):
    for arguments in (["--mode=prepare"], ["--config=m1", "--config.data.resident=never", *tiny]):
        done = without_tensorflow(*arguments, f"--data={chests}", "--config.data.cache_dir=cache", cwd=tmp_path)
        [line] = done.stderr.splitlines()
        assert (done.returncode, list(tmp_path.glob("runs/*"))) == (2, [])
        assert "not installed: pip install tensorflow tensorflow-datasets array-record" in line


@pytest.mark.parametrize(
    "ends",
    [
        "from pneumojax import interrupt; interrupt.leave_on_signals(); signal.raise_signal(signal.SIGTERM)",
        "from pneumojax import main, interrupt; main._stop(interrupt.TOLD, interrupt.STOPPED)",
    ],
)
def test_a_signal_is_answered_though_nobody_reads_what_is_told(ends):
    """As after Ctrl-C, which ends the `tee` of a pipeline as well."""
    program = f"import signal, sys; sys.stdin.read(); {ends}"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=subprocess.STDOUT, cwd=ROOT)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 75


def without_tensorflow(*arguments, cwd, **environment) -> subprocess.CompletedProcess:
    """The command line where neither TensorFlow, TFDS nor ArrayRecord can be imported."""
    program = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'tensorflow_datasets', 'array_record'));"
        "from pneumojax.main import run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def refused(folder, *arguments) -> str:
    """The one line with which the command line refuses; holds that nothing else is printed and nothing is written."""
    before = sorted(folder.rglob("*"))
    done = pneumojax(*arguments, cwd=folder)
    assert done.returncode == 2, (done.returncode, done.stderr)
    line, *rest = done.stderr.splitlines()
    assert rest == []
    assert line.startswith("pneumojax: ")
    assert done.stdout == "" or "Traceback" not in done.stdout
    assert sorted(folder.rglob("*")) == before
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --config"),
        (["--config=m9"], "no config 'm9': there is m1, m2, m3"),
        (["--config=m1:best"], "no recipe 'best': there is 28px, notebook, paper, recommended"),
        (["--config=m1", "--config.optimizer.learning_rat=1"], "did you mean optimizer.learning_rate"),
        (["--config=m1", "--config.epochs=many"], "takes a whole number, not 'many'"),
        (["--config=m1", "--config.epochs=0"], "'epochs' must be from 1"),
        (["--config=m1", "--data=nowhere"], "no such data: 'nowhere'"),
        (["--config=m1", "--mode=dance"], "dance"),
        (["--config=m1", "--wrkdir=x"], "wrkdir"),
        (["--config=m1", "stray"], "unexpected argument 'stray'"),
        (["--config=m1", "--data="], "no such data: ''"),
        (["--config="], "no config ''"),
        (["--config=m1", "--workdir=/dev/null/run"], "/dev/null/run"),
        (["--mode=evaluate", "--workdir=nowhere"], "no run in nowhere"),
        (["--mode=evaluate", "--config=m1", "--workdir=nowhere"], "no run in nowhere"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(tmp_path, arguments, says):
    assert says in refused(tmp_path, *arguments)


@pytest.mark.parametrize("kind", ["empty", "one class", "broken image", "file"])
def test_a_mistake_in_the_data_is_one_line(tmp_path, tiny, kind):
    data = tmp_path / "data"
    if kind == "empty":
        data.mkdir()
        says = "holds no images"
    elif kind == "one class":
        draw_folder(data, "train", 0, 5)
        says = "no normal image"
    elif kind == "broken image":
        draw_folder(data, "train", 30, 30)
        for name in ("chest 003.png", "chest 007.png"):
            (data / "train/NORMAL" / name).write_bytes((data / "train/NORMAL" / name).read_bytes()[:300])
        says = "2 unreadable: train/NORMAL/chest 003.png"
    else:
        data.write_text("not a folder")
        says = "neither an .npz file nor an image"
    folder = tmp_path / "here"
    folder.mkdir()
    done = pneumojax("--config=m1", f"--data={data}", "--config.data.cache_dir=cache", *tiny, cwd=folder)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert says in line


def test_other_settings_in_a_used_workdir_are_refused(trained):
    folder, work, _ = trained
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    line = refused(folder, "--workdir=work", "--config.seed=3")
    assert "holds a run with other settings (seed=3, not 0)" in line
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("override", ["--config.seed=5", "--config.data.val_fraction=0.3", "--config=m1"])
def test_evaluating_a_run_under_other_settings_is_refused(trained, override):
    """Another seed would carve val out of the images trained on; another size is another network."""
    folder, _, _ = trained
    assert "with other settings" in refused(folder, "--mode=evaluate", "--workdir=work", override)


def test_images_that_changed_since_the_run_began_are_refused(trained, chests):
    """Val would be carved anew, and a resumed run would train on what it is chosen by."""
    folder, _, _ = trained
    more = chests / "train/NORMAL/one more.png"
    shutil.copy(chests / "train/NORMAL/chest 000.png", more)
    try:
        for mode in ("train", "evaluate"):
            line = refused(folder, "--workdir=work", f"--mode={mode}")
            assert "the images are not those that the run in work began with" in line
    finally:
        more.unlink()


def test_a_damaged_cache_is_named(trained, chests, tmp_path, tiny):
    shutil.copytree(trained[0] / "cache", tmp_path / "cache")
    [index] = (tmp_path / "cache").glob("*/index.json")
    index.unlink()
    arguments = ["--config=m1", f"--data={chests}", "--config.data.cache_dir=cache", *tiny]
    done = pneumojax(*arguments, "--workdir=work", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert f"{index.parent.name} is damaged: remove it" in line


def test_a_workdir_that_is_no_run_is_left_alone(chests, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    assert "is not empty" in refused(tmp_path, "--config=m1", f"--data={chests}", "--workdir=thesis")


def test_a_checkpoint_of_another_model_is_refused(trained):
    folder, _, _ = trained
    line = refused(folder, "--mode=evaluate", "--config=m2", "--workdir=work", "--config.model.image_size=32")
    assert "holds a run with other settings (model.name='m2', not 'm1')" in line


def test_a_run_without_a_checkpoint_is_told(trained, tmp_path):
    _, work, _ = trained
    (tmp_path / "work").mkdir()
    for name in ("config.json", "splits.csv"):
        shutil.copy(work / name, tmp_path / "work")
    assert "no checkpoint in work of a whole epoch: train first" in refused(
        tmp_path, "--mode=evaluate", "--workdir=work"
    )


def test_a_wheel_runs_from_anywhere(finished, tmp_path):
    """Built from the tree and unpacked elsewhere, with no source in reach: all modules, and a run evaluated by them."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, site], check=True)
    own = {path.relative_to(ROOT) for path in (ROOT / "pneumojax").rglob("*.py")}
    configs = {"pneumojax" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    assert {path.relative_to(site) for path in site.rglob("*.py")} == own | configs
    shutil.copytree(finished[0] / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work/report")
    command = ("--mode=evaluate", "--workdir=work", f"--config.data.cache_dir={finished[0] / 'cache'}")
    done = pneumojax(*command, cwd=tmp_path, PYTHONPATH=str(site), PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/report/index.html").exists()
