"""`--mode=export`: a folder that needs no run, written whole or not at all, whose every format answers as the model."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from support import ROOT, draw_folder, in_process, pneumojax, read_json, read_rows, refused

import pneumojax as package
from pneumojax.data.decode import images
from pneumojax.evaluation import film_statistics, guard
from pneumojax.export import stablehlo
from pneumojax.inference import bundle
from pneumojax.runtime import run_identity
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import export, run_config, trained_models

NAMES = [name for name in export.FORMATS if name != "onnx" or find_spec("pneumojax.export.onnx_graph")]
FORMATS = f"export.formats={','.join(NAMES)}"
QUICK = "export.formats=safetensors"


def exported(work, *overrides, data=None, model=None):
    """Export from a workdir by the function that does the mode's work, and return the folder."""
    config = run_config.given(None, work) if model is None else trained_models.config_of(model)
    config = run_config.completed(config, overrides)
    return export.export_model(config, work, None if data is None else str(data), model=model)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def work(complete, tmp_path_factory):
    """The workdir of a small run on `chests`."""
    return complete(tmp_path_factory.mktemp("run"))[1]


@pytest.fixture(scope="module")
def folder(work):
    """What the run exports in every format."""
    return exported(work, FORMATS)


@pytest.fixture
def other(finished, tmp_path):
    """A copy of the run, for tests that change what it exports."""
    return epath.Path(shutil.copytree(finished[0] / "work", tmp_path / "other"))


@pytest.fixture(scope="module")
def squares(chests):
    paths = sorted((chests / "test").rglob("*.png"))
    return np.stack([images.read(path, 32) for path in paths])


def test_the_folder_explains_itself(folder, work):
    """Architecture, preprocessing, calibration, thresholds, OOD limit, recipe and digests are in it; no path is."""
    description = read_json(folder / "config.json")
    names = {"safetensors": ["model.safetensors"], "stablehlo": ["model.stablehlo"]}
    names["onnx"] = ["model.onnx", "model-batch.onnx"]
    files = [name for kind in NAMES for name in names.get(kind, ())]
    described = {"config.json", "parity.json", "README.md", "card.json", "try.html"}
    assert set(contents(folder)) == {*described, *files}
    digests = {description["weights"]["file"]: description["weights"]["sha256"]}
    digests |= {name: facts["sha256"] for name, facts in description["formats"].items()}
    assert digests == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    [training] = description["training"]
    assert training["run"] == run_identity.of_workdir(work).id
    assert training["settings"]["epochs"] == 4
    assert {name: part["n"] for name, part in training["images"].items()} == {"train": 108, "val": 12, "test": 40}
    assert description["calibration"]["threshold"] == read_json(work / "evaluation/val.json")["threshold"]
    text = (folder / "config.json").read_text() + (folder / "README.md").read_text()
    assert "/chests" not in text and str(work) not in text
    assert "6 months" in (folder / "README.md").read_text()


def guard_bytes(train):
    """Return the bytes of a guard: means, axes and discriminant of the statistics, and training images along axes."""
    return 4 * (film_statistics.COUNT * (film_statistics.COUNT + 2) + train * guard.NEAR)


def test_it_is_slim(folder, work):
    """Neither the optimizer's state nor ids of training images leave the workdir."""
    [member] = bundle.read(folder).members
    weights = 4 * sum(np.size(leaf) for leaf in jax.tree.leaves(member.variables))
    index = 108 * 4 * 128 + 120 * 32 + guard_bytes(108)
    assert (folder / "model.safetensors").stat().length < weights + index + 10_000
    assert (folder / "model.stablehlo").stat().length < weights + 50_000
    for content in contents(folder).values():
        assert b"chest 0" not in content


def test_parity_was_measured_on_val_for_every_format(folder):
    parity = read_json(folder / "parity.json")
    assert (parity["films"], parity["source"]) == (12, "chests")
    for name in NAMES:
        assert parity[name]["decisions_turned"] == 0
        assert parity[name]["logit"] <= 1e-5
    assert parity["safetensors"] == dict.fromkeys(
        ("logit", "probability", "decisions_turned", "flags_turned", "ood_score"), 0
    )
    assert parity["decoding"] == {"films": 12, "grey_levels": 0.0, **parity["safetensors"]}, "PNG is decoded whole"


def test_the_folder_loads_and_predicts_what_the_run_predicts(folder, work, chests):
    run, model = package.load(work), package.load(folder)
    films = sorted((chests / "test").rglob("*.png"))
    assert model.predict(films) == run.predict(films)
    assert model.metadata["digest"] == run.metadata["digest"]


def test_predict_takes_the_folder_without_its_run(folder, chests, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    flags = ("--model=moved", f"--data={chests / 'test'}", "--config.prediction.output=rows.csv")
    done = pneumojax("--mode=predict", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_rows(tmp_path / "rows.csv")
    expected = package.load(moved).predict([row["id"] for row in rows])
    assert [float(row["probability"]) for row in rows] == pytest.approx([row.probability for row in expected], abs=1e-6)


READ_STABLEHLO = """
import sys
import numpy as np
from jax import export

call = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
squares = np.load(sys.argv[2])
found = [call(squares[:count]) for count in (1, 7)]
np.savez(sys.argv[3], **{f"{name}_{len(one[name])}": one[name] for one in found for name in one})
print(sorted(name for name in sys.modules if name.startswith(("pneumojax", "flax"))))
"""


def test_a_fresh_process_reads_stablehlo_without_this_package(folder, squares, tmp_path):
    """It computes any batch, and answers as the model does."""
    np.save(tmp_path / "squares.npy", squares)
    files = [str(folder / "model.stablehlo"), str(tmp_path / "squares.npy"), str(tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", READ_STABLEHLO, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    model = package.load(folder)
    floats = squares[..., None].astype(np.float32) / 255
    with np.load(tmp_path / "found.npz") as found:
        for count in (1, 7):
            np.testing.assert_allclose(found[f"logit_{count}"], model.logits(floats[:count]), rtol=1e-5, atol=1e-5)
            rows = model.predict([*squares[:count]])
            np.testing.assert_allclose(found[f"probability_{count}"], [row.probability for row in rows], atol=1e-6)


def test_stablehlo_is_for_every_platform_and_calls_nothing_of_this_package(folder):
    read = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    called = set(re.findall(r"custom_call @(\w+)", read.mlir_module()))
    assert called == {"shape_assertion"}, "XLA's own check of the batch"
    assert str(read.in_avals[0].shape[0]) == "batch"


def test_a_second_export_replaces_the_first(other):
    """What the second does not write is gone, and no name but the folder's is left."""
    output = exported(other, FORMATS)
    first = contents(output)
    assert exported(other, QUICK) == output
    second = contents(output)
    assert set(first) - set(second) == set(first) - {
        "config.json",
        "parity.json",
        "README.md",
        "card.json",
        "model.safetensors",
    }
    assert second["model.safetensors"] == first["model.safetensors"]
    assert [path.name for path in other.glob("export*")] == ["export"]


def test_an_exported_model_exports_again_on_films_that_are_named(folder, chests, tmp_path):
    """What it says of its training stays."""
    with pytest.raises(UserError, match="^give --data: films"):
        exported(epath.Path(tmp_path), model=folder)
    output = exported(epath.Path(tmp_path / "work"), FORMATS, model=folder, data=chests / "test")
    before, after = (read_json(each / "config.json") for each in (folder, output))
    assert {**after, "formats": ()} == {**before, "formats": ()}
    assert read_json(output / "parity.json")["films"] == 40
    assert read_json(output / "parity.json")["source"] == "test"
    before, after = (read_json(each / "card.json") for each in (folder, output))
    assert after["evaluations"] == before["evaluations"] != {}


def test_an_exported_folder_is_no_run(folder, chests, tmp_path):
    """Its config.json is not a run's: the flag --model names it, not --workdir."""
    for mode in ("predict", "export", "train"):
        line = refused(
            f"--mode={mode}", f"--workdir={folder}", f"--data={chests / 'test'}", cwd=tmp_path, run=in_process
        )
        assert "no run in" in line


def test_if_the_runs_films_are_gone_others_are_named(other, chests, tmp_path):
    tree = read_json(other / "config.json")
    tree["data"]["source"] = str(tmp_path / "gone")
    (other / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="no such data: .*gone.*name their new place with --data"):
        exported(other, QUICK)
    assert not (other / "export").exists()
    exported(other, QUICK, data=chests / "test/NORMAL")
    assert read_json(other / "export/parity.json")["films"] == 20


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("onx", "no format 'onx': did you mean onnx?"),
        ("", "no format '': choose from html, onnx, safetensors, stablehlo"),
        ("stablehlo,keras", "no format 'keras': choose from html, onnx, safetensors, stablehlo"),
    ],
)
def test_an_unknown_format_is_refused(work, formats, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        exported(work, f"export.formats={formats}", f"export.output={work / 'never'}")
    assert not (work / "never").exists()


def test_the_command_line_exports_and_refuses_in_a_line(other, chests, tmp_path):
    """Also a place for which it would have to remove other files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    run = ("--mode=export", f"--workdir={other}")
    for flags, message in (
        (("--config.export.formats=keras",), "no format 'keras'"),
        (("--config.export.output=home",), "home holds other files, such as thesis.txt: choose another"),
    ):
        assert message in refused(*run, *flags, cwd=tmp_path)
    done = pneumojax(*run, f"--config.{QUICK}", "--config.export.output=new/model", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"Exported: {tmp_path / 'new/model'}"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    assert package.load(tmp_path / "new/model").predict(next((chests / "test/NORMAL").iterdir())).error is None


def test_only_an_export_is_replaced(other, tmp_path):
    """A folder with its names but another content is somebody's, and so is an export to which files were added."""
    output = f"export.output={tmp_path / 'out'}"
    for name, content, message in (
        ("config.json", "{}", "out holds no export"),
        ("README.md", "notes", "out holds no export"),
        ("model.safetensors.bak", "", "out holds other files, such as model.safetensors.bak"),
    ):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text(content)
        with pytest.raises(UserError, match=message):
            exported(other, QUICK, output)
        shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="out is a file"):
        exported(other, QUICK, output)
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    exported(other, QUICK, output)  # an empty folder is free
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(UserError, match="such as notes.txt"):
        exported(other, QUICK, output)
    with pytest.raises(UserError, match="is a bucket"):
        exported(other, QUICK, "export.output=gs://bucket/model")


@pytest.fixture
def disk(tmp_path):
    """A folder on a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this process may not mount a disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_export(other, disk):
    output = disk / "model"
    exported(other, QUICK, f"export.output={output}")
    before = contents(output)
    subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'ballast'}", "bs=64k"], capture_output=True)
    with pytest.raises(OSError, match="No space left on device"):
        exported(other, QUICK, f"export.output={output}")
    assert contents(output) == before
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "model"]
    assert package.load(output).metadata["name"] == "m1"


def test_a_read_only_disk_is_refused_before_anything_is_computed(other, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match="cannot write .*model, since .*disk is no writable folder"):
        exported(other, QUICK, f"export.output={disk / 'model'}")


def start(other, *overrides):
    """Start the command line, and wait until it has begun to write."""
    command = [sys.executable, "-m", "pneumojax.main", "--mode=export", f"--workdir={other}"]
    command += [f"--config.{override}" for override in overrides]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    while not list((other / "export.unfinished").glob("*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    return process


def test_a_killed_export_leaves_nothing_half(other):
    """The first attempt leaves no export, the next the old one; and what a killed one left is removed."""
    process = start(other, FORMATS)
    process.kill()
    process.communicate()
    assert not (other / "export").exists()
    exported(other, FORMATS)
    before = contents(other / "export")
    assert not (other / "export.unfinished").exists()
    process = start(other, FORMATS)
    process.kill()
    process.communicate()
    assert contents(other / "export") == before
    exported(other, QUICK)
    assert [path.name for path in other.glob("export*")] == ["export"]


def test_a_stopped_export_leaves_nothing(other):
    process = start(other, FORMATS)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate()
    assert (process.returncode, printed) == (75, "pneumojax: interrupted: run the same command again to continue\n")
    assert list(other.glob("export*")) == []


def test_the_models_files_are_compared_not_trusted(monkeypatch, other):
    """A format that answers otherwise than the model is refused, and nothing is left."""
    answers = stablehlo.answers

    def shifted(content, squares):
        found = answers(content, squares)
        return found | {"logit": found["logit"] + np.float32(1e-3)}

    monkeypatch.setattr(stablehlo, "answers", shifted)
    with pytest.raises(UserError, match="model.stablehlo differs from the model .logit .*nothing was exported"):
        exported(other, FORMATS)
    assert list(other.glob("export*")) == []


def test_films_at_full_size_show_what_decoding_in_part_changes(other, tmp_path):
    """A JPEG that is much larger than the model's square is decoded at a fraction by this package alone."""
    from PIL import Image

    draw_folder(tmp_path / "films", "", 4, 4, first=900)
    for path in (tmp_path / "films").rglob("*.png"):
        with Image.open(path) as image:
            image.resize((400, 300), Image.Resampling.BICUBIC).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    exported(other, QUICK, data=tmp_path / "films")
    decoding = read_json(other / "export/parity.json")["decoding"]
    assert decoding["films"] == 8
    assert 0 < decoding["grey_levels"] < 1.5
    assert 0 < decoding["probability"] < 0.1
