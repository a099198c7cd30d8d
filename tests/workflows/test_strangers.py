"""A workdir from a stranger reaches nothing outside it: it names no file to write and no program to run."""

import json
import os
import shutil

import pytest
from etils import epath
from support import ROOT, draw, pneumojax

from pneumojax import modes
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.modes import Command
from pneumojax.runtime import cache
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import experiment

SMALL = ["data.cache_dir=cache", "model.image_size=32", "epochs=1", "batch_size=8"]


@pytest.fixture
def work(finished, tmp_path):
    """A copy of a complete run, beside a file that it must not touch."""
    (tmp_path / "precious.csv").write_text("precious")
    draw(tmp_path / "film.png", 1, 3)
    return shutil.copytree(finished[0] / "work", tmp_path / "work")


def test_a_config_in_a_workdir_names_no_output_cache_or_runner(work, tmp_path, monkeypatch):
    tree = json.loads((work / "config.json").read_text())
    tree["prediction"]["output"] = str(tmp_path / "precious.csv")
    tree["data"] |= {"cache_dir": str(tmp_path), "beam_runner": "Evil", "beam_options": "--evil"}
    (work / "config.json").write_text(json.dumps(tree))
    caches = []
    monkeypatch.setattr(cache, "keep_compiled", caches.append)
    assert modes.run("predict", Command(workdir=epath.Path(work), data=str(tmp_path / "film.png"))) == 0
    assert (tmp_path / "precious.csv").read_text() == "precious"
    assert os.listdir(work / "predictions") == ["film.png.csv"]
    assert caches == [""]


@pytest.mark.parametrize("mode", ["train", "evaluate", "predict", "explain", "audit", "experiment"])
@pytest.mark.parametrize("name", [".lock", "evaluation", "predictions", "checkpoints", "audit", "report"])
def test_no_mode_follows_a_link_in_a_workdir(work, tmp_path, mode, name):
    if (work / name).is_dir():
        shutil.rmtree(work / name)
    (work / name).unlink(missing_ok=True)
    (work / name).symlink_to(tmp_path / "precious.csv" if name == ".lock" else tmp_path)
    with pytest.raises(UserError, match=f"{name} is a link: a workdir holds files and folders only"):
        modes.run(mode, Command(spec=None, workdir=epath.Path(work), data=str(tmp_path / "film.png")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.png", "precious.csv", "work"]
    assert (tmp_path / "precious.csv").read_text() == "precious"


def test_an_experiment_in_a_workdir_names_no_program(tmp_path):
    """A config given as a path runs. Only this command line may give one."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')")
    run = Run(str(tmp_path / "evil.py"), "recommended", None, 0)
    (tmp_path / "work" / run.name / "report").mkdir(parents=True)
    (tmp_path / "work" / run.name / "report/index.html").touch()
    (tmp_path / "work/experiment.json").write_text(json.dumps({"runs": [run._asdict()]}))
    with pytest.raises(UserError, match=r"has runs of .*evil.py: add it to --config.experiment.models"):
        modes.run("experiment", Command(spec="m1", workdir=epath.Path(tmp_path / "work"), data="phantom"))
    assert not (tmp_path / "harmed").exists()


def test_a_run_of_an_experiment_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/m1-recommended-seed0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "work/experiment.json").write_text('{"runs": []}')
    overrides = ["experiment.recipes=recommended", *SMALL]
    with pytest.raises(UserError, match="m1-recommended-seed0 is a link"):
        modes.run("experiment", Command("m1", epath.Path(tmp_path / "work"), data="phantom", overrides=overrides))
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("change", ["data.cache_dir=elsewhere", "prediction.output=x.csv", "data.beam_runner=Evil"])
def test_a_recipe_names_no_place(change):
    with pytest.raises(UserError, match=f"is no part of a recipe: set it as --config.{change}"):
        experiment.config_of(Run("m1", f"paper+{change}", None, 0), "phantom", [])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"runs": 3}', '{"runs": [3]}', '{"runs": [{}]}', "[" * 10_000,
     '{"runs": [{"config": 1, "recipe": "x", "fold": null, "seed": 0}]}',
     '{"runs": [{"config": "m1", "recipe": "x", "fold": null, "seed": "0"}]}'],
)  # fmt: skip
def test_a_damaged_list_of_runs_is_one_line(tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(UserError, match="experiment.json does not list runs"):
        experiment.evaluate_experiment([], epath.Path(tmp_path), None)


def test_the_cache_of_a_workdir_is_not_used_by_the_command_line(work, tmp_path):
    """JAX runs what it finds in a cache of compiled programs, and old entries are removed from it."""
    tree = json.loads((work / "config.json").read_text())
    tree["data"]["cache_dir"] = str(tmp_path / "evil")
    (work / "config.json").write_text(json.dumps(tree))
    old = tmp_path / "evil/compiled" / f"jit_f-{64 * '0'}-cache"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    environment = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "xdg"), "PYTHONPATH": str(ROOT)}
    done = pneumojax("--mode=predict", "--workdir=work", "--data=film.png", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert list((tmp_path / "xdg/pneumojax/compiled").iterdir())
