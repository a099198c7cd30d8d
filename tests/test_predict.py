"""Predictions: what evaluation tells of the same images, a row for each, whatever is wrong with others."""

import csv
import json
import os
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
from conftest import SIZE, pneumojax
from etils import epath
from PIL import Image
from scipy.special import expit

from pneumojax import neighbours, predict, workdirs
from pneumojax.calibration import Calibration
from pneumojax.data.inputs import Seen
from pneumojax.errors import UserError


@pytest.fixture(scope="module")
def work(finished, tmp_path_factory):
    """The workdir of a small run on `chests`."""
    return shutil.copytree(finished[0] / "work", tmp_path_factory.mktemp("run") / "work")


def status_of(work, data, *overrides):
    """The exit status of a prediction."""
    config = workdirs.config_for("predict", None, epath.Path(work), None, overrides)
    return predict.predict_mode(config, epath.Path(work), None if data is None else str(data))


def predicted(work, data, output, *overrides):
    """(exit status, rows) of a prediction whose output has no parts."""
    return status_of(work, data, f"prediction.output={output}", *overrides), read(output)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluated(work, stem="test"):
    """What the evaluation tells: its summary, and the probability of each id."""
    table = read(work / f"evaluation/{stem}.csv")
    return json.loads((work / f"evaluation/{stem}.json").read_text()), {r["id"]: float(r["probability"]) for r in table}


def probabilities(rows):
    return [float(row["probability"]) for row in rows]


@pytest.fixture(scope="module")
def whole(work, chests, tmp_path_factory):
    """Rows of every test image."""
    status, rows = predicted(work, chests / "test", tmp_path_factory.mktemp("whole") / "test.csv")
    assert status == 0
    return rows


def test_every_image_has_a_row_in_order(whole, chests):
    assert list(whole[0]) == list(predict.Row._fields)
    paths = [chests / "test" / name / f"chest {i:03d}.png" for name in ("NORMAL", "PNEUMONIA") for i in range(20)]
    assert [row["id"] for row in whole] == [str(path) for path in paths]
    assert {row["error"] for row in whole} == {""}


def test_probabilities_are_the_evaluations(work, whole, chests):
    _, expected = evaluated(work)
    found = {os.path.relpath(row["id"], chests): float(row["probability"]) for row in whole}
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(found.values())) > 20


def test_decisions_are_the_evaluations(work, whole):
    """At both operating points: what it counted of them, and its thresholds."""
    told, _ = evaluated(work)
    truth = ["NORMAL" not in row["id"] for row in whole]
    for at, threshold, confusion in (
        ("decision", "threshold", "confusion"),
        ("decision_at_sens95", "threshold_sens95", "confusion_at_sens95"),
    ):
        called = [row[at] == "pneumonia" for row in whole]
        assert {float(row[threshold]) for row in whole} == {told[threshold]}
        assert called == [p >= told[threshold] for p in probabilities(whole)]
        count = Counter(zip(truth, called, strict=True))
        assert told[confusion] == {
            "tp": count[True, True], "fp": count[False, True], "fn": count[True, False], "tn": count[False, False]
        }  # fmt: skip
    assert {row["decision"] for row in whole} == {"normal", "pneumonia"}


def test_the_training_images_are_like_themselves_and_noise_is_not(work, chests, tmp_path):
    """Most of val keep the limit that was taken from them; snow is no chest."""
    index = neighbours.read(epath.Path(work))
    labels = {row["id"]: (row["split"], int(row["label"])) for row in read(work / "splits.csv")}
    assert sorted(index.ids) == sorted(id for id, (split, _) in labels.items() if split == "train")
    assert index.labels.tolist() == [labels[id][1] for id in index.ids]
    (tmp_path / "val").mkdir()
    for number, id in enumerate(id for id, (split, _) in labels.items() if split == "val"):
        shutil.copy(chests / id, tmp_path / f"val/{number}.png")
    _, rows = predicted(work, tmp_path / "val", tmp_path / "val.csv")
    unlike = [float(row["unlikeness"]) > index.limit for row in rows]
    assert sum(unlike) == 1, "the farthest of 30"
    assert [row["doubts"] for row in rows] == ["unlike_training" if beyond else "" for beyond in unlike]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "snow.png")
    _, [snow] = predicted(work, tmp_path / "snow.png", tmp_path / "snow.csv")
    assert "unlike_training" in snow["doubts"].split(";")


def test_an_unreadable_image_has_a_row_and_costs_no_other(work, whole, chests, tmp_path):
    """More of them than a batch has places, at the beginning, between others and at the end."""
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
    found = {os.path.basename(row["id"]): row for row in rows}
    for name in broken:
        assert found[name].pop("id") == str(data / name)
        assert found[name].pop("error") == "neither JPEG, PNG nor DICOM"
        assert set(found[name].values()) == {""}
    assert probabilities(found[name] for name in sound) == pytest.approx(probabilities(whole[:12]), rel=1e-5)
    assert {found[name]["error"] for name in sound} == {""}


def test_where_nothing_can_be_read_all_is_said(work, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    status, rows = predicted(work, tmp_path, tmp_path / "out.csv")
    assert status == 1
    assert [row["error"] for row in rows] == ["the file is empty"] * 3


def test_lines_of_json_say_the_same(work, whole, chests, tmp_path):
    """With numbers as numbers, doubts as a list, and null where there is nothing to tell."""
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
        assert {name: told for name, told in line.items() if isinstance(told, str)} == {
            name: row[name] for name in ("id", "decision", "decision_at_sens95", "error") if row[name]
        }
        for name in ("probability", "threshold", "threshold_sens95", "unlikeness"):
            assert line[name] == (float(row[name]) if row[name] else None)
        assert ";".join(line["doubts"]) == row["doubts"]
    assert lines[5]["probability"] is lines[5]["decision"] is None
    assert lines[6]["doubts"][0] == "size"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_a_prevalence_restates_probabilities_and_changes_no_decision(work, whole, chests, tmp_path):
    """By Bayes' rule from val's, which has as many of either class."""
    _, rows = predicted(work, chests / "test", tmp_path / "out.csv", "evaluation.prevalence=0.05")
    for given, restated in zip(whole, rows, strict=True):
        for name in ("probability", "threshold", "threshold_sens95"):
            p = float(given[name])
            assert float(restated[name]) == pytest.approx(p * 0.05 / (p * 0.05 + (1 - p) * 0.95), rel=1e-5)
        for name in ("id", "decision", "decision_at_sens95", "unlikeness", "doubts"):
            assert restated[name] == given[name]


def test_parts_make_up_the_whole(work, whole, chests, tmp_path):
    for part in ("0/2", "1/2"):
        overrides = [f"prediction.shard={part}", f"prediction.output={tmp_path / 'out.csv'}"]
        assert status_of(work, chests / "test", *overrides) == 0
    names = ["out-00000-of-00002.csv", "out-00001-of-00002.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    parts = [read(tmp_path / name) for name in names]
    assert [len(part) for part in parts] == [20, 20]
    rows = sorted(parts[0] + parts[1], key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)


def test_stopped_it_leaves_no_part_of_the_rows(work, chests, tmp_path, monkeypatch):
    tell = predict._tell

    def tell_and_stop(row, told):
        tell(row, told)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(predict, "_tell", tell_and_stop)
    with pytest.raises(KeyboardInterrupt):
        status_of(work, chests / "test", f"prediction.output={tmp_path / 'out' / 'o.csv'}")
    signal.signal(signal.SIGTERM, before)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_part_may_be_empty(work, chests, tmp_path):
    overrides = ["prediction.shard=3/4", f"prediction.output={tmp_path / 'out.csv'}"]
    assert status_of(work, chests / "test/NORMAL/chest 000.png", *overrides) == 0
    assert (tmp_path / "out-00003-of-00004.csv").read_text() == ",".join(predict.Row._fields) + "\n"


@pytest.mark.parametrize("size", [1, 24, 100])
def test_the_batch_size_does_not_matter(work, whole, chests, tmp_path, size):
    _, rows = predicted(work, chests / "test", tmp_path / "out.csv", f"evaluation.batch_size={size}")
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)
    assert [float(row["unlikeness"]) for row in rows] == pytest.approx(
        [float(row["unlikeness"]) for row in whole], abs=1e-3
    )


def test_an_npz_is_predicted_as_files_with_the_same_pixels(work, whole, tmp_path):
    pixels = np.stack([np.asarray(Image.open(row["id"])) for row in whole])
    np.savez(tmp_path / "drawn.npz", test_images=pixels, test_labels=np.repeat([0, 1], 20)[:, None])
    status, rows = predicted(work, tmp_path / "drawn.npz", tmp_path / "out.csv")
    assert status == 0
    assert [row["id"] for row in rows] == [f"test/{number:05d}" for number in range(40)]
    assert probabilities(rows) == pytest.approx(probabilities(whole), rel=1e-5)


def test_names_of_any_bytes_are_told(work, whole, tmp_path, capsys):
    """A line break, a comma, and bytes that are no UTF-8: one name stops neither the table nor the terminal."""
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


def test_rows_by_hand():
    """Two readable images around an unreadable one, in a batch that was filled up with the first."""
    axes = np.eye(3, dtype=np.float32)
    index = neighbours.Index(np.arange(10).astype(str), np.zeros(10, np.uint8), axes[[0] * 10], limit=0.5)
    calibration = Calibration(temperature=2.0, threshold=0.6, threshold_sens95=0.3, prevalence=0.5, offset=0.25)
    image = np.zeros((SIZE, SIZE), np.uint8)
    batch = [("a", Seen(image, "", ("size",))), ("b", Seen(None, "broken", ())), ("c", Seen(image, "", ("colour",)))]
    outputs = np.array([1.0, -1.0, 1.0, 1.0]), 4 * axes[[0, 1, 0, 0]]
    like, broken, unlike = predict.rows(batch, outputs, calibration, index)
    assert broken == predict.Row("b", error="broken")
    assert like.probability == pytest.approx(expit(1 / 2 + 0.25))
    assert unlike.probability == pytest.approx(expit(-1 / 2 + 0.25))
    assert (like.id, like.decision, like.decision_at_sens95) == ("a", "pneumonia", "pneumonia")
    assert (unlike.id, unlike.decision, unlike.decision_at_sens95) == ("c", "normal", "pneumonia")
    assert (like.threshold, like.threshold_sens95, like.error) == (0.6, 0.3, None)
    assert (like.unlikeness, like.doubts) == (pytest.approx(0, abs=1e-3), ("size",))
    assert (unlike.unlikeness, unlike.doubts) == (pytest.approx(2**0.5), ("colour", "unlike_training"))
    assert predict.rows(batch[1:2], None, calibration, index) == [broken]


def test_the_command_line_predicts(work, whole, tmp_path):
    """Into the workdir; the status tells that something could not be read."""
    shutil.copy(whole[0]["id"], tmp_path / "sound.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = pneumojax("--mode=predict", f"--workdir={work}", "--data=*.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    [output] = (work / "predictions").iterdir()
    broken, sound = read(output)
    assert (broken["id"], sound["id"]) == ("broken.png", "sound.png")
    assert probabilities([sound]) == pytest.approx(probabilities(whole[:1]), rel=1e-4)
    assert f"{float(sound['probability']):.3f}  {sound['decision']:<9}  sound.png" in done.stdout
    assert f"unreadable: broken.png: {broken['error']}\n" in done.stdout
    assert "2 images: " in done.stdout
    assert "1 unreadable." in done.stdout
    assert f"Written: {output}" in done.stdout


def test_without_data_the_command_line_is_refused(work, tmp_path):
    done = pneumojax("--mode=predict", f"--workdir={work}", cwd=tmp_path)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("pneumojax: give --data: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "data", "says"),
    [
        ([], None, "^give --data"),
        ([], "nowhere", "^no image at .*nowhere"),
        (["prediction.shard=2/2"], "test", "'prediction.shard' must be empty, or such as 0/4, not '2/2'"),
        (["prediction.shard=0"], "test", "'prediction.shard' must be"),
        (["prediction.output=out.txt"], "test", "'prediction.output' must be empty, or end in .csv or .jsonl"),
    ],
)
def test_a_mistake_is_refused(work, chests, overrides, data, says):
    before = sorted(work.rglob("*"))
    with pytest.raises(UserError, match=says):
        status_of(work, data and chests / data, *overrides)
    assert sorted(work.rglob("*")) == before


def test_a_folder_without_a_run_is_refused(work, chests, tmp_path):
    """Nor is there anything to predict by before its evaluation, or without its checkpoint."""
    with pytest.raises(UserError, match="^no run in "):
        status_of(tmp_path, chests / "test")
    for name, says in (
        ("config.json", "neighbours.npz is missing: --mode=evaluate"),
        (neighbours.FILE, "no checkpoint"),
    ):
        shutil.copy(work / name, tmp_path)
        with pytest.raises(UserError, match=says):
            status_of(tmp_path, chests / "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", neighbours.FILE]
