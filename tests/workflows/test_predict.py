"""`--mode=predict`: the evaluation's predictions of the same images, one row each, whatever is wrong with others."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import ROOT, pneumojax, read_json, read_rows

from pneumojax import __version__
from pneumojax.evaluation import neighbours
from pneumojax.inference.predictions import Row
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.tables import read_csv_table
from pneumojax.workflows import predict, run_config


@pytest.fixture(scope="module")
def work(finished, tmp_path_factory):
    """The workdir of a small run on `chests`."""
    return shutil.copytree(finished[0] / "work", tmp_path_factory.mktemp("run") / "work")


def status_of(work, data, *overrides, **options):
    """Predict, and return the exit status."""
    config = run_config.completed(run_config.read_config(epath.Path(work)), overrides)
    return predict.predict_images(config, epath.Path(work), None if data is None else str(data), **options)


def predicted(work, data, output, *overrides):
    """Predict into one file, and return the exit status and the rows."""
    return status_of(work, data, f"prediction.output={output}", *overrides), read_rows(output)


def probabilities(rows):
    return [float(row["probability"]) for row in rows]


@pytest.fixture(scope="module")
def whole(work, chests, tmp_path_factory):
    """The rows of all test images."""
    status, rows = predicted(work, chests / "test", tmp_path_factory.mktemp("whole") / "test.csv")
    assert status == 0
    return rows


def test_every_image_has_a_row_in_order(whole, chests):
    assert list(whole[0]) == list(Row._fields)
    paths = [chests / "test" / name / f"chest {i:03d}.png" for name in ("NORMAL", "PNEUMONIA") for i in range(20)]
    assert [row["id"] for row in whole] == [str(path) for path in paths]
    assert {row["error"] for row in whole} == {""}


def test_probabilities_are_the_evaluations(work, whole, chests):
    expected = {row["id"]: float(row["probability"]) for row in read_rows(work / "evaluation/test.csv")}
    predicted_by_id = {os.path.relpath(row["id"], chests): float(row["probability"]) for row in whole}
    assert predicted_by_id == pytest.approx(expected, rel=1e-5)
    assert len(set(predicted_by_id.values())) > 20


def test_decisions_are_the_evaluations(work, whole):
    """Thresholds and confusion counts must be the same at both operating points."""
    evaluation = read_json(work / "evaluation/test.json")
    actual = ["NORMAL" not in row["id"] for row in whole]
    for column, threshold, confusion in (
        ("decision", "threshold", "confusion"),
        ("decision_at_sens95", "threshold_sens95", "confusion_at_sens95"),
    ):
        decisions = [row[column] == "pneumonia" for row in whole]
        assert {float(row[threshold]) for row in whole} == {evaluation[threshold]}
        assert decisions == [p >= evaluation[threshold] for p in probabilities(whole)]
        count = Counter(zip(actual, decisions, strict=True))
        assert evaluation[confusion] == {
            "tp": count[True, True], "fp": count[False, True], "fn": count[True, False], "tn": count[False, False]
        }  # fmt: skip
    assert {row["decision"] for row in whole} == {"normal", "pneumonia"}


def test_noise_is_flagged_as_unlike_training_and_most_of_val_is_not(work, chests, tmp_path):
    """The limit was set so that 99 % of val is within it."""
    index = neighbours.read(epath.Path(work))
    labels = {row["id"]: (row["split"], int(row["label"])) for row in read_rows(work / "splits.csv")}
    assert sorted(index.ids) == sorted(id for id, (split, _) in labels.items() if split == "train")
    assert index.labels.tolist() == [labels[id][1] for id in index.ids]
    (tmp_path / "val").mkdir()
    for number, id in enumerate(id for id, (split, _) in labels.items() if split == "val"):
        shutil.copy(chests / id, tmp_path / f"val/{number}.png")
    _, rows = predicted(work, tmp_path / "val", tmp_path / "val.csv")
    unlike = [float(row["ood_score"]) > index.limit for row in rows]
    assert sum(unlike) == 1, "only the farthest of 30"
    # The model was chosen on val.
    assert [row["flags"] for row in rows] == [
        ("unlike_training;" if beyond else "") + "in_training" for beyond in unlike
    ]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "noise.png")
    _, [noise] = predicted(work, tmp_path / "noise.png", tmp_path / "noise.csv")
    assert "unlike_training" in noise["flags"].split(";")


def test_unreadable_images_have_rows_and_do_not_affect_others(work, whole, chests, tmp_path):
    """There are more of them than images in a batch: at the start, between others and at the end."""
    data = tmp_path / "mixed"
    data.mkdir()
    sound = [f"{100 * i:04d}.png" for i in range(1, 13)]
    broken = [f"{i:04d}.png" for i in (*range(20), 402, *range(1301, 1325))]
    for name, row in zip(sound, whole, strict=False):
        shutil.copy(row["id"], data / name)
    for name in broken:
        (data / name).write_bytes(b"<html>")
    status, rows = predicted(work, data, tmp_path / "mixed.csv", "evaluation.batch_size=8")
    assert status == 1
    assert [os.path.basename(row["id"]) for row in rows] == sorted(sound + broken)
    by_name = {os.path.basename(row["id"]): row for row in rows}
    for name in broken:
        assert by_name[name].pop("id") == str(data / name)
        assert by_name[name].pop("error") == "neither JPEG, PNG, TIFF, BMP, WebP nor DICOM"
        made_by = {by_name[name].pop(key) for key in ("model", "version", "digest")}
        assert made_by == {whole[0][key] for key in ("model", "version", "digest")} > {"m1", __version__}
        assert set(by_name[name].values()) == {""}
    assert probabilities(by_name[name] for name in sound) == pytest.approx(probabilities(whole[:12]), rel=1e-5)
    assert {by_name[name]["error"] for name in sound} == {""}


def test_if_nothing_can_be_read_every_image_has_an_error(work, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    status, rows = predicted(work, tmp_path, tmp_path / "out.csv")
    assert status == 1
    assert [row["error"] for row in rows] == ["the file is empty"] * 3


def test_lines_of_json_equal_the_rows(work, whole, chests, tmp_path):
    """Numbers are numbers there, flags are a list, and missing values are null."""
    shutil.copytree(chests / "test/NORMAL", tmp_path / "data")
    (tmp_path / "data/chest 005.png").write_bytes(b"")
    with Image.open(tmp_path / "data/chest 006.png") as image:
        image.resize((20, 200)).save(tmp_path / "data/chest 006.png")
    _, rows = predicted(work, tmp_path / "data", tmp_path / "out.csv")
    assert status_of(work, tmp_path / "data", f"prediction.output={tmp_path / 'new/out.jsonl'}") == 1
    lines = [json.loads(line) for line in (tmp_path / "new/out.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows) == 20
    for line, row in zip(lines, rows, strict=True):
        assert list(line) == list(row)
        assert {name: value for name, value in line.items() if isinstance(value, str)} == {
            name: row[name]
            for name in ("id", "decision", "decision_at_sens95", "error", "model", "version", "digest", "site")
            if row[name] or name == "site"
        }
        for name in ("probability", "threshold", "threshold_sens95", "ood_score"):
            assert line[name] == (float(row[name]) if row[name] else None)
        assert ";".join(line["flags"]) == row["flags"]
    assert lines[5]["probability"] is lines[5]["decision"] is None
    assert lines[6]["flags"][0] == "size"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_a_prevalence_restates_probabilities_and_changes_no_decision(work, whole, chests, tmp_path):
    """By Bayes' rule; half of val is pneumonia."""
    _, rows = predicted(work, chests / "test", tmp_path / "out.csv", "evaluation.prevalence=0.05")
    for original, restated in zip(whole, rows, strict=True):
        for name in ("probability", "threshold", "threshold_sens95"):
            p = float(original[name])
            assert float(restated[name]) == pytest.approx(p * 0.05 / (p * 0.05 + (1 - p) * 0.95), rel=1e-5)
        for name in ("id", "decision", "decision_at_sens95", "ood_score", "flags"):
            assert restated[name] == original[name]


def test_shards_make_up_the_whole(work, whole, chests, tmp_path):
    for shard in ("0/2", "1/2"):
        overrides = [f"prediction.shard={shard}", f"prediction.output={tmp_path / 'out.csv'}"]
        assert status_of(work, chests / "test", *overrides) == 0
    names = ["out-00000-of-00002.csv", "out-00001-of-00002.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    shards = [read_rows(tmp_path / name) for name in names]
    assert [len(rows) for rows in shards] == [20, 20]
    rows = sorted(shards[0] + shards[1], key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)


def test_a_prediction_that_is_stopped_leaves_no_file(work, chests, tmp_path):
    """Otherwise it could be mistaken for the rows of all images."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        status_of(
            work,
            chests / "test",
            f"prediction.output={tmp_path / 'out' / 'o.csv'}",
            after_row=lambda row: signal.raise_signal(signal.SIGTERM),
        )
    signal.signal(signal.SIGTERM, before)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_may_be_empty(work, chests, tmp_path):
    overrides = ["prediction.shard=3/4", f"prediction.output={tmp_path / 'out.csv'}"]
    assert status_of(work, chests / "test/NORMAL/chest 000.png", *overrides) == 0
    assert (tmp_path / "out-00003-of-00004.csv").read_text() == ",".join(Row._fields) + "\n"


@pytest.mark.parametrize("size", [1, 24, 100])
def test_the_batch_size_does_not_matter(work, whole, chests, tmp_path, size):
    _, rows = predicted(work, chests / "test", tmp_path / "out.csv", f"evaluation.batch_size={size}")
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)
    scores, expected = ([float(row["ood_score"]) for row in table] for table in (rows, whole))
    assert scores == pytest.approx(expected, abs=1e-3)


def test_an_npz_is_predicted_like_files_with_the_same_pixels(work, whole, tmp_path):
    pixels = np.stack([np.asarray(Image.open(row["id"])) for row in whole])
    np.savez(tmp_path / "drawn.npz", test_images=pixels, test_labels=np.repeat([0, 1], 20)[:, None])
    status, rows = predicted(work, tmp_path / "drawn.npz", tmp_path / "out.csv")
    assert status == 0
    assert [row["id"] for row in rows] == [f"test/{number:05d}" for number in range(40)]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)


def test_file_names_may_hold_any_bytes(work, whole, tmp_path, capsys):
    """Neither the table nor the terminal fails on a line break, a comma, or bytes that are not UTF-8."""
    for name in (b"a,\n.png", b"b \xff.png", "c 胸.png".encode()):
        shutil.copy(whole[0]["id"], tmp_path / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"d \xff.png")).touch()
    status, rows = predicted(work, tmp_path, tmp_path / "out.csv")
    assert [os.path.basename(row["id"]) for row in rows] == ["a,\n.png", "b \ufffd.png", "c 胸.png", "d \ufffd.png"]
    assert status == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2].partition(": ")[0] for line in printed[:4]] == [
        "a,\\n.png", "b \\udcff.png", "c 胸.png", "d \\udcff.png"
    ]  # fmt: skip


def test_the_command_line_predicts(work, whole, tmp_path):
    """The rows go into the workdir, and the exit status says that an image could not be read."""
    shutil.copy(whole[0]["id"], tmp_path / "sound.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = pneumojax("--mode=predict", f"--workdir={work}", "--data=*.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    [output] = (work / "predictions").iterdir()
    broken, sound = read_rows(output)
    assert (broken["id"], sound["id"]) == ("broken.png", "sound.png")
    assert probabilities([sound]) == pytest.approx(probabilities(whole[:1]), rel=1e-4)
    assert f"{float(sound['probability']):.3f}  {sound['decision']:<9}  sound.png" in done.stdout
    assert f"unreadable: broken.png: {broken['error']}\n" in done.stdout
    assert "2 images: " in done.stdout
    assert "1 unreadable." in done.stdout
    assert f"Written: {output}" in done.stdout


def test_rows_go_to_the_standard_output_and_all_else_elsewhere(work, whole, tmp_path):
    """So that another program can read them; the workdir stays as it is."""
    shutil.copy(whole[0]["id"], tmp_path / "sound é.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = sorted(work.rglob("*"))
    flags = ("--mode=predict", f"--workdir={work}", "--data=*.png", "--config.prediction.output=-")
    done = pneumojax(*flags, cwd=tmp_path)
    assert done.returncode == 1
    header, *rows = read_csv_table(done.stdout)
    assert header == list(Row._fields)
    assert [row[0] for row in rows] == ["broken.png", "sound é.png"]
    assert float(rows[1][1]) == pytest.approx(float(whole[0]["probability"]), rel=1e-4)
    assert "2 images: " in done.stderr and "unreadable: broken.png: " in done.stderr
    assert "Written" not in done.stderr
    assert sorted(work.rglob("*")) == before


def test_a_reader_that_leaves_is_no_error(work, chests, tmp_path):
    """As `head -1` does."""
    flags = [f"--workdir={work}", f"--data={chests}/test", "--config.prediction.output=-"]
    command = [sys.executable, "-m", "pneumojax.main", "--mode=predict", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        printed = process.stderr.read()
    assert process.returncode == 0, printed
    assert "40 images: " in printed


def test_without_data_the_command_line_is_refused(work, tmp_path):
    done = pneumojax("--mode=predict", f"--workdir={work}", cwd=tmp_path)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("pneumojax: give --data: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "data", "message"),
    [
        ([], None, "^give --data"),
        ([], "nowhere", "^no image at .*nowhere"),
        (["prediction.shard=2/2"], "test", "'prediction.shard' must be empty, or like 0/4, not '2/2'"),
        (["prediction.shard=0"], "test", "'prediction.shard' must be"),
        (["prediction.output=out.txt"], "test", "'prediction.output' must be empty, -, or end in .csv or .jsonl"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(work, chests, overrides, data, message):
    before = sorted(work.rglob("*"))
    with pytest.raises(UserError, match=message):
        status_of(work, data and chests / data, *overrides)
    assert sorted(work.rglob("*")) == before


def test_a_folder_without_a_complete_run_is_refused(work, chests, tmp_path):
    """Prediction needs the config, the index of training images and a checkpoint."""
    with pytest.raises(UserError, match="^no run in "):
        status_of(tmp_path, chests / "test")
    for name, message in (
        ("config.json", "neighbours.npz is missing: run --mode=evaluate"),
        (workdirs.NEIGHBOURS, "no checkpoint"),
    ):
        shutil.copy(work / name, tmp_path)
        with pytest.raises(UserError, match=message):
            status_of(tmp_path, chests / "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", workdirs.NEIGHBOURS]


def test_folders_of_one_name_have_their_own_predictions(work, whole, tmp_path, capsys):
    """Two hospitals' folders may both be called images. Each keeps its file when it is predicted again."""
    run = shutil.copytree(work, tmp_path / "run")
    for number, site in enumerate(("one", "two", "one")):
        (tmp_path / site / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(whole[number % 2]["id"], tmp_path / site / "images/film.png")
        assert status_of(run, tmp_path / site / "images") == 0
    first, second = sorted((run / "predictions").glob("images*.csv"), key=lambda path: len(path.name))
    assert first.name == "images.csv"
    for path, site in ((first, "one"), (second, "two")):
        assert [row["id"] for row in read_rows(path)] == [str(tmp_path / site / "images/film.png")]
        assert (run / "places/predictions" / path.stem).read_text() == str(tmp_path / site / "images")


def test_names_become_no_formulas_in_a_spreadsheet(work, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1.png", "-2.png", "a\x1b[31m\r.png"):
        shutil.copy(whole[0]["id"], tmp_path / name)
    assert status_of(work, "*.png", f"prediction.output={tmp_path / 'out.csv'}") == 0
    text = (tmp_path / "out.csv").read_text()
    assert sorted(line.partition(",")[0] for line in text.splitlines()[1:]) == [
        "'-2.png", "'=1+1.png", "'\\a\\x1b[31m\\x0d.png"
    ]  # fmt: skip
    assert {row[0] for row in read_csv_table(text)[1:]} == {"=1+1.png", "-2.png", "a\x1b[31m\r.png"}


def test_files_that_are_no_images_are_counted_and_named(work, chests, tmp_path, capsys):
    """Whoever sees fewer rows than files must learn why; the exit status is that of the rows."""
    shutil.copytree(chests / "test", tmp_path / "films")
    shutil.copy(tmp_path / "films/NORMAL/chest 000.png", tmp_path / "films/IM000001")
    (tmp_path / "films/notes.txt").touch()
    (tmp_path / "films/masks").mkdir()
    shutil.copy(tmp_path / "films/NORMAL/chest 000.png", tmp_path / "films/masks/chest.png")
    status, rows = predicted(work, tmp_path / "films", tmp_path / "rows.csv")
    assert (status, len(rows)) == (0, 40)
    printed = capsys.readouterr().out
    assert "2 other files are left out, such as IM000001." in printed
    assert "1 mask is left out, such as masks/chest.png." in printed
