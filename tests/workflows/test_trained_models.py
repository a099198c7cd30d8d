"""Models in folders of their own: used by `--model` as a run's is, without the run."""

import json
import shutil

import pytest
from etils import epath
from support import SIZE, draw, draw_folder, read_json, read_rows

import pneumojax
from pneumojax import modes
from pneumojax.inference import bundle
from pneumojax.modes import Command
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import trained_models

pytestmark = pytest.mark.usefixtures("one_device")
BLOCKS = "8:0,12:0.1,16:0.25"


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A folder with `work`, a run, and `exported`, the folder of its model, with a `digest` of its own."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(finished[0] / "work", folder / "work")
    model = trained_models.load_alone(str(folder / "work"))
    exported = folder / "exported"
    exported.mkdir()
    for name, content in bundle.contents(model, {"trained_by": "a test"}).items():
        (exported / name).write_bytes(content)
    return folder


def test_a_folder_predicts_as_its_run_does(place, tmp_path):
    draw(tmp_path / "films/a.png", 1, 3)
    draw(tmp_path / "films/b.png", 0, 4)
    rows = []
    for name in ("work", "exported"):
        output = f"prediction.output={tmp_path}/{name}.csv"
        command = Command(model=str(place / name), data=str(tmp_path / "films"), overrides=[output])
        assert modes.run("predict", command) == 0
        rows.append(read_rows(tmp_path / f"{name}.csv"))
    assert rows[0] == rows[1]
    assert {len(row["digest"]) for row in rows[0]} == {16}


def test_a_folder_stays_as_it_is(place, tmp_path, monkeypatch):
    """What is made with its model goes elsewhere: into the workdir, by default one below runs/."""
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "clinic", "", 4, 5, first=700)
    before = sorted(path.name for path in (place / "exported").iterdir())
    maps = ["explanation.methods=grad-cam", "explanation.count=1"]
    modes.run("evaluate", Command(model=str(place / "exported"), data="clinic"))
    modes.run("explain", Command(model=str(place / "exported"), data="clinic", overrides=maps))
    assert (
        sorted(path.name for path in (place / "exported").iterdir()) == before == ["config.json", "model.safetensors"]
    )
    work = tmp_path / "runs/model-exported"
    assert (work / "explanations/clinic/explained.csv").exists()
    evaluation = read_json(work / "evaluation/clinic-all.json")
    assert (evaluation["n"], evaluation["positives"], evaluation["known_images"]) == (9, 5, 0)
    assert evaluation["digest"] == bundle.describe(epath.Path(place / "exported"))["digest"]


def test_a_folder_evaluates_as_its_run_does(place, tmp_path):
    draw_folder(tmp_path / "clinic", "", 6, 6, first=700)
    scores = []
    for name, command in {
        "work": Command(model=str(place / "work"), data=str(tmp_path / "clinic")),
        "other": Command(
            model=str(place / "exported"), data=str(tmp_path / "clinic"), workdir=epath.Path(tmp_path / "other")
        ),
    }.items():
        modes.run("evaluate", command)
        folder = place / "work" if name == "work" else tmp_path / "other"
        evaluation = read_json(folder / "evaluation/clinic-all.json")
        scores.append({key: evaluation[key] for key in ("auc", "bce", "ece", "threshold", "unlike_training")})
    assert scores[0] == pytest.approx(scores[1])


@pytest.mark.parametrize(
    ("mode", "command", "message"),
    [
        ("train", {"model": "exported"}, "--mode=train takes no --model: it is for evaluate, predict, explain"),
        ("predict", {"model": "exported", "spec": "m1"}, "give --model or --config, not both"),
        ("predict", {"model": "m9"}, "no model 'm9'"),
        ("predict", {"model": "films"}, "no model in .*films: give an exported folder"),
        ("predict", {"model": "exported", "overrides": ["model.image_size=64"]}, "model.image_size=64, not 32"),
        ("evaluate", {"model": "exported"}, "give --data"),
        ("explain", {"model": "exported"}, "give --data"),
    ],
)
def test_mistakes_are_one_line(place, tmp_path, monkeypatch, mode, command, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    if command["model"] == "exported":
        command = command | {"model": str(place / "exported")}
    with pytest.raises(UserError, match=message):
        modes.run(mode, Command(**command))
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


def harmed(description, **changes):
    return json.dumps(description | changes)


@pytest.mark.parametrize("harm", ["flip", "cut", "digest", "calibration", "blocks", "nan", "list", "format"])
def test_a_damaged_folder_is_refused_in_a_line(place, tmp_path, harm):
    folder = epath.Path(shutil.copytree(place / "exported", tmp_path / "exported"))
    weights, path = folder / workdirs.WEIGHTS, folder / bundle.DESCRIPTION
    description, content = json.loads(path.read_text()), weights.read_bytes()
    if harm == "flip":
        weights.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif harm == "cut":
        weights.write_bytes(content[: len(content) // 2])
    else:
        path.write_text(
            {
                "digest": lambda: harmed(description, digest="0" * 16),
                "calibration": lambda: harmed(description, calibration={"temperature": 1.0}),
                "blocks": lambda: harmed(description, networks=[description["networks"][0] | {"blocks": []}]),
                "nan": lambda: path.read_text().replace('"offset": ', '"offset": NaN, "x": '),
                "list": lambda: "[]",
                "format": lambda: harmed(description, format="PneumoJAX model, version 9"),
            }[harm]()
        )
    with pytest.raises(UserError, match="is damaged .*: export the model again") as caught:
        pneumojax.load(folder, keep_compiled=False, keep_freed_memory=False)
    assert "\n" not in str(caught.value)


def test_a_table_of_blocks_is_a_network(chests, tmp_path):
    """It trains, predicts, and is known by its table afterwards, without a change of the package."""
    work = epath.Path(tmp_path / "work")
    small = [f"model.image_size={SIZE}", "epochs=1", "batch_size=12", f"data.cache_dir={tmp_path}/cache"]
    own = [f"model.blocks={BLOCKS}", "model.name=mine", *(f"augment.{name}=0" for name in ("rotation", "noise"))]
    modes.run("train", Command(spec="m1", data=str(chests), workdir=work, overrides=[*small, *own]))
    model = pneumojax.load(work, keep_compiled=False, keep_freed_memory=False)
    assert model.metadata["name"] == "mine"
    assert [block["filters"] for block in model.metadata["networks"][0]["blocks"]] == [8, 12, 16]
    draw(tmp_path / "film.png", 1, 3)
    assert model.predict(tmp_path / "film.png").model == "mine"
    with pytest.raises(UserError, match="mine .8:0,12:0.1,16:0.25. at 32 pixels, not of m1 at 32 pixels"):
        films = Command(workdir=work, data=str(tmp_path / "film.png"))
        modes.run("predict", films._replace(overrides=["model.blocks=", "model.name=m1"]))
