"""`--mode=explain`: what it writes is what the functions give, and what is wrong is told in a line."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import draw_folder
from etils import epath
from PIL import Image

from pneumojax import cases, devices, explain, explanations, faithfulness, report
from pneumojax import config as configs
from pneumojax.data import images
from pneumojax.errors import UserError
from pneumojax.trained import load


@pytest.fixture(scope="module")
def work(finished, tmp_path_factory):
    return epath.Path(shutil.copytree(finished[0] / "work", tmp_path_factory.mktemp("explained") / "work"))


def config_of(work, **changes):
    config = configs.read(work / "config.json")
    config.explanation.update({"count": 3, "steps": 8, "samples": 4} | changes)
    return config


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_other_images_are_explained_by_every_method(work, tmp_path):
    draw_folder(tmp_path / "films", "", 2, 0, first=3000)
    config = config_of(work)
    explanations.explain_mode(config, work, str(tmp_path / "films"))
    folder = work / "explanations/films"
    maps = np.load(folder / "maps.npz")
    files = [str(tmp_path / f"films/NORMAL/chest {i:03d}.png") for i in range(2)]
    assert maps["ids"].tolist() == files
    np.testing.assert_array_equal(maps["images"][1], images.read(Path(files[1]), 32))
    with jax.set_mesh(devices.layout(jax.local_devices()[:1]).mesh):
        trained = load(work, config, devices.layout(jax.local_devices()[:1]))
        x = maps["images"][..., None] / np.float32(255)
        expected = explain.grad_cam(trained.model, trained.variables, x, layer="conv_5")
    np.testing.assert_allclose(maps["grad-cam"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    table = rows(folder / "explained.csv")
    assert [(row["id"], row["method"]) for row in table] == [(id, name) for id in files for name in explain.METHODS]
    for row in table:
        with Image.open(folder / row["picture"]) as picture:
            assert picture.size == (32, 32)
        assert row["label"] == ""
    assert [float(row["probability"]) for row in table[::5]] == pytest.approx(maps["probability"].tolist())


def test_without_data_the_worst_errors_are_explained(work):
    explanations.explain_mode(config_of(work, methods="grad-cam"), work, None)
    told, evaluated = (
        rows(work / "explanations/test/explained.csv"),
        json.loads((work / "evaluation/test.json").read_text()),
    )
    scores = {row["id"]: row for row in rows(work / "evaluation/test.csv")}
    assert 0 < len(told) <= 3
    for row in told:
        assert float(row["probability"]) == pytest.approx(float(scores[row["id"]]["probability"]), rel=1e-3)
        assert row["label"] == scores[row["id"]]["label"]
        assert (float(row["probability"]) >= evaluated["threshold"]) != int(row["label"])


def test_checks_are_written_and_the_report_tells_of_them(work):
    explanations.explain_mode(config_of(work, methods="grad-cam,smooth-grad", checks=True), work, None)
    told = json.loads((work / faithfulness.FILE).read_text())
    assert list(told["methods"]) == ["grad-cam", "smooth-grad", "random"]
    assert all(-1 <= told["methods"][name]["rank_correlation"] <= 1 for name in ("grad-cam", "smooth-grad"))
    columns, cells = faithfulness.table(told)
    assert columns == ["method", "untrained", "deletion", "insertion", "fails: why"]
    assert all(len(row) == len(columns) for row in cells)
    page = report.write(work, layer_table="", samples=()).read_text()
    assert "Checks of explanation methods" in page and '<th scope="row">smooth-grad</th>' in page


def test_the_report_does_without_checks_of_the_method_that_it_shows(work):
    """It need not be among those that were checked."""
    explanations.explain_mode(config_of(work, methods="smooth-grad", checks=True), work, None)
    image = np.zeros((8, 8), np.uint8)
    case = cases.Case("a film", 1, 0.1, image, np.zeros((8, 8, 3), np.uint8), False, [])
    page = report.write(work, layer_table="", samples=(), errors=[case]).read_text()
    assert "Worst errors" in page and "fail their checks" not in page


def test_nothing_is_checked_where_nothing_is_called_right(work, tmp_path):
    copy = epath.Path(shutil.copytree(work, tmp_path / "work"))
    path = copy / "evaluation/test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 2.0}))
    table = copy / "evaluation/test.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.split(",")[1] == "1")]) + "\n")
    with pytest.raises(UserError, match="no image of test is called right"):
        explanations.explain_mode(config_of(work, methods="grad-cam", checks=True), copy, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": "grad-cam,nonsense"}, "no method 'nonsense'"),
        ({"methods": ""}, "methods is empty: choose of grad-cam"),
        ({"layer": "conv_6"}, "no layer 'conv_6'"),
        ({"layer": "dense_1"}, "layer dense_1 has no height and width"),
    ],
)
def test_what_there_is_not_is_told_before_anything_is_written(work, changes, says):
    before = sorted((work / "explanations").iterdir()) if (work / "explanations").exists() else []
    with pytest.raises(UserError, match=says):
        explanations.explain_mode(config_of(work, **changes), work, None)
    assert (sorted((work / "explanations").iterdir()) if before else []) == before


def test_an_unreadable_image_is_named(work, tmp_path):
    (tmp_path / "film.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="film.png: neither JPEG, PNG nor DICOM"):
        explanations.explain_mode(config_of(work), work, str(tmp_path / "film.png"))
