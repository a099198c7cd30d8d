"""A run that 0.1 trained: predict, evaluate, explain and train read it, so that an update disables no model.

The reference is a run of `--config=m1:28px --config.data.subset=16,16 --config.epochs=2` on phantoms. To be small, its
kernels were thinned, and it was evaluated again.
"""

import tarfile

import pytest
from etils import epath
from PIL import Image
from support import ROOT, draw_folder, read_json, read_rows

from pneumojax import modes
from pneumojax.data.sources import phantom
from pneumojax.modes import Command
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_identity
from pneumojax.runtime import workdir as workdirs

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),  # Protobuf's, called by TFDS
]


@pytest.fixture
def work(tmp_path):
    with tarfile.open(ROOT / "tests/references/run_of_0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "work"


def test_every_field_that_it_lacks_has_no_effect_or_a_known_meaning(work):
    """A new field on which results depend goes into `config._ADDED`, with what it would have said then."""
    config = configs.read(epath.Path(work / workdirs.CONFIG))
    assert (config.model.name, config.model.image_size, config.epochs) == ("m1", 28, 2)
    assert config.evaluation.corruptions is True, "its name in 0.1 was shifts"
    assert config.experiment.corruptions is True
    assert run_identity.of_workdir(epath.Path(work)) == run_identity.Identity("", "", "")


def test_it_predicts_what_0_1_predicted(work, tmp_path):
    expected = {row["id"]: float(row["probability"]) for row in read_rows(work / "evaluation/test.csv")[:8]}
    labels = {row["id"]: int(row["label"]) for row in read_rows(work / "splits.csv")}
    (tmp_path / "films").mkdir()
    for id in expected:
        Image.fromarray(phantom.draw(id, labels[id], 28)[0]).save(tmp_path / f"films/{id.replace('/', ' ')}.png")
    assert modes.run("predict", Command(workdir=epath.Path(work), data=str(tmp_path / "films"))) == 0
    rows = read_rows(work / "predictions/films.csv")
    assert [float(row["probability"]) for row in rows] == pytest.approx(list(expected.values()), rel=1e-4)
    assert len(set(expected.values())) > 4


def test_it_is_explained_evaluated_and_complete(work, capsys):
    methods = "explanation.methods=grad-cam"
    assert modes.run("explain", Command(workdir=epath.Path(work), overrides=[methods, "explanation.count=2"])) == 0
    assert len(read_rows(work / "explanations/test/explained.csv")) == 2
    before = {name: read_json(work / f"evaluation/{name}.json") for name in ("train", "val", "test")}
    assert modes.run("evaluate", Command(workdir=epath.Path(work))) == 0
    for name, evaluation in before.items():
        after = read_json(work / f"evaluation/{name}.json")
        for metric in ("auc", "bce", "brier", "threshold", "temperature"):
            assert after[metric] == pytest.approx(evaluation[metric], rel=1e-4), (name, metric)
        assert after["confusion"] == evaluation["confusion"]
    capsys.readouterr()
    assert modes.run("train", Command(workdir=epath.Path(work), overrides=["evaluation.corruptions=true"])) == 0
    assert "This run is complete" in capsys.readouterr().out, "the folder of its corruptions was called shifts"


def test_other_images_are_evaluated_and_its_report_keeps_its_pictures(work, tmp_path, capsys):
    """It kept neither the pictures of its report apart, nor hashes of the images that the model had seen."""
    page = b"<html>as 0.1 wrote it</html>\n"  # the reference has none, to be small
    (work / "report").mkdir()
    (work / workdirs.REPORT).write_bytes(page)
    draw_folder(tmp_path / "other", "", 3, 3)
    assert modes.run("evaluate", Command(workdir=epath.Path(work), data=str(tmp_path / "other"))) == 0
    assert "known_images" not in read_json(work / "evaluation/other-all.json")
    assert (work / workdirs.REPORT).read_bytes() == page
    assert f"The report lacks these scores: run --mode=evaluate --workdir={work}" in capsys.readouterr().out
