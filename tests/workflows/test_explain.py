"""`--mode=explain`: the files hold what the attribution methods compute, and mistakes are reported."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import draw_folder, read_json, read_rows

from pneumojax.data.decode import images
from pneumojax.inference import attribution, faithfulness
from pneumojax.inference.restore import load
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError
from pneumojax.workflows import explain


@pytest.fixture(scope="module")
def work(finished, tmp_path_factory):
    """The workdir of a small run on `chests`."""
    return epath.Path(shutil.copytree(finished[0] / "work", tmp_path_factory.mktemp("explained") / "work"))


def config_of(work, **options):
    """Return the run's config, with options of `explanation`."""
    options = {"count": 3, "steps": 8, "samples": 4} | options
    fields = {f"explanation.{name}": value for name, value in options.items()}
    return configs.with_fields(configs.read(work / "config.json"), fields)


def test_other_images_are_explained_by_every_method(work, tmp_path):
    draw_folder(tmp_path / "films", "", 2, 0, first=3000)
    config = config_of(work)
    explain.explain_images(config, work, str(tmp_path / "films"))
    folder = work / "explanations/films"
    maps = np.load(folder / "maps.npz")
    files = [str(tmp_path / f"films/NORMAL/chest {i:03d}.png") for i in range(2)]
    assert maps["ids"].tolist() == files
    np.testing.assert_array_equal(maps["images"][1], images.read(Path(files[1]), 32))
    with jax.set_mesh(sharding.layout(jax.local_devices()[:1]).mesh):
        trained = load(work, config, sharding.layout(jax.local_devices()[:1]))
        x = jnp.asarray(maps["images"][..., None] / np.float32(255))
        expected = attribution.grad_cam(trained.model, trained.variables, x, layer="conv_5")
    np.testing.assert_allclose(maps["grad-cam"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    table = read_rows(folder / "explained.csv")
    assert [(row["id"], row["method"]) for row in table] == [(id, name) for id in files for name in attribution.METHODS]
    for row in table:
        with Image.open(folder / row["picture"]) as picture:
            assert picture.size == (32, 32)
        assert row["label"] == ""
    assert [float(row["probability"]) for row in table[::5]] == pytest.approx(maps["probability"].tolist())


def test_without_data_the_worst_errors_are_explained(work):
    explain.explain_images(config_of(work, methods="grad-cam"), work, None)
    rows, evaluation = read_rows(work / "explanations/test/explained.csv"), read_json(work / "evaluation/test.json")
    scores = {row["id"]: row for row in read_rows(work / "evaluation/test.csv")}
    assert 0 < len(rows) <= 3
    for row in rows:
        assert float(row["probability"]) == pytest.approx(float(scores[row["id"]]["probability"]), rel=1e-3)
        assert row["label"] == scores[row["id"]]["label"]
        assert (float(row["probability"]) >= evaluation["threshold"]) != int(row["label"])


def test_checks_of_the_methods_are_written(work):
    explain.explain_images(config_of(work, methods="grad-cam,smooth-grad", checks=True), work, None)
    checks = read_json(work / workdirs.EXPLANATION_CHECKS)
    assert list(checks["methods"]) == ["grad-cam", "smooth-grad", "random"]
    assert all(-1 <= checks["methods"][name]["rank_correlation"] <= 1 for name in ("grad-cam", "smooth-grad"))
    header, rows = faithfulness.table(checks)
    assert header == ["method", "untrained", "deletion", "insertion", "fails: why"]
    assert all(len(row) == len(header) for row in rows)


def test_checks_need_an_image_that_is_predicted_correctly(work, tmp_path):
    copy = epath.Path(shutil.copytree(work, tmp_path / "work"))
    table = copy / "evaluation/test.csv"
    header, *lines = table.read_text().splitlines()
    lines = [line for line in lines if line.split(",")[1] == "1"]
    table.write_text("\n".join([header, *lines]) + "\n")
    path = copy / "evaluation/test.json"
    path.write_text(json.dumps(read_json(path) | {"threshold": 1.0, "n": len(lines)}))
    with pytest.raises(UserError, match="the model predicts no image of test correctly"):
        explain.explain_images(config_of(work, methods="grad-cam", checks=True), copy, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"methods": "grad-cam,nonsense"}, "no method 'nonsense'"), ({"layer": "conv_6"}, "no layer 'conv_6'")],
)
def test_a_wrong_option_is_refused_before_anything_is_written(work, tmp_path, options, message):
    copy = epath.Path(shutil.copytree(work, tmp_path / "work"))
    before = sorted(Path(copy).rglob("*"))
    with pytest.raises(UserError, match=message):
        explain.explain_images(config_of(work, **options), copy, None)
    assert sorted(Path(copy).rglob("*")) == before


def test_an_unreadable_image_is_named(work, tmp_path):
    (tmp_path / "film.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="film.png: neither JPEG, PNG, TIFF, BMP, WebP nor DICOM"):
        explain.explain_images(config_of(work), work, str(tmp_path / "film.png"))


def test_the_first_images_that_can_be_read_are_explained(work, tmp_path, capsys):
    """Others are named, and so are files that are no images."""
    draw_folder(tmp_path / "partly", "", 2, 0, first=3000)
    (tmp_path / "partly/0.png").write_bytes(b"nothing")
    (tmp_path / "partly/1.txt").write_text("notes")
    status = explain.explain_images(config_of(work, methods="grad-cam"), work, str(tmp_path / "partly"))
    assert status == ExitStatus.FINDINGS
    printed = " ".join(capsys.readouterr().out.split())
    assert "partly/0.png: neither JPEG, PNG" in printed and "such as 1.txt" in printed
    assert len(read_rows(work / "explanations/partly/explained.csv")) == 2


def test_errors_on_images_that_have_moved_are_explained(work, chests, tmp_path):
    """Where the run's images are not where they were, --data names their new place."""
    moved = epath.Path(shutil.copytree(work, tmp_path / "work"))
    config = configs.with_fields(config_of(moved, methods="grad-cam"), {"data.source": "/gone/chests"})
    with pytest.raises(UserError, match="name their new place with --data"):
        explain.explain_images(config, moved, None)
    explain.explain_images(config, moved, str(chests))
    rows = read_rows(moved / "explanations/test/explained.csv")
    assert {row["label"] for row in rows} <= {"0", "1"}


def test_folders_of_one_name_are_both_explained(work, tmp_path):
    for number, site in enumerate(("one", "two")):
        draw_folder(tmp_path / site / "site", "", 1, 0, first=4000 + number)
        explain.explain_images(config_of(work, methods="grad-cam"), work, str(tmp_path / site / "site"))
    folders = sorted(path.name for path in (work / "explanations").glob("site*"))
    assert len(folders) == 2 and folders[0] == "site"
    places = [(work / "places/explanations" / name).read_text() for name in folders]
    assert sorted(places) == [str(tmp_path / "one/site"), str(tmp_path / "two/site")]
