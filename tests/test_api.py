"""The Python API: what `--mode=predict` says of a film, it says too; its errors are of one family; threads share it."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dicom_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundles import phantoms, random_model, written
from etils import epath
from PIL import Image
from support import ROOT, read_json

import pneumojax
from pneumojax import PneumoJAXError, UnreadableImage, UserError, api
from pneumojax.evaluation import calibration
from pneumojax.inference import bundle
from pneumojax.inference.attribution import METHODS
from pneumojax.runtime import workdir as workdirs
from pneumojax.workflows import predict, run_config, trained_models

SIZE = 32
NUMBERS = ("probability", "threshold", "threshold_sens95", "ood_score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(random_model(size=SIZE), tmp_path_factory.mktemp("model") / "exported")


@pytest.fixture(scope="module")
def model(folder):
    return pneumojax.load(folder)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of many kinds, of which one cannot be read: more than are computed at once."""
    root = tmp_path_factory.mktemp("films")
    for number, image in enumerate(phantoms(36, 60)):
        Image.fromarray(image).save(root / f"{number:02d}.png")
    Image.fromarray(phantoms(1, SIZE, seed=2)[0]).save(root / "seen.png")
    Image.fromarray(phantoms(2, 200)[1]).save(root / "tall.jpg", quality=90)
    Image.fromarray(phantoms(1, 40)[0]).resize((200, 40)).save(root / "wide.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    dicom_files.write(root / "film.dcm", dicom_files.WIDE, 12)
    return root


def by_mode(folder, data, output):
    """Predict by the function that does the work of `--mode=predict`, and return the rows as dictionaries."""
    folder = epath.Path(folder)
    config = run_config.completed(trained_models.config_of(folder), [f"prediction.output={output}"])
    predict.predict_images(config, folder, str(data), model=folder)
    return [json.loads(line) for line in output.read_text().splitlines()]


def assert_equal(rows, expected):
    """Assert that rows are those of `--mode=predict`: numbers to 1e-6, since batches are of other sizes.

    Of OOD scores, the squares are to 1e-4: they are roots of differences, of which little remains near 0, in units of
    a limit that may be small.
    """
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        found = row._asdict() | {"flags": list(row.flags)}
        assert {**found, **dict.fromkeys(NUMBERS)} == {**line, **dict.fromkeys(NUMBERS)}
        for name in NUMBERS if line["error"] is None else ():
            power, tolerance = (2, 1e-4) if name == "ood_score" else (1, 1e-6)
            assert found[name] ** power == pytest.approx(line[name] ** power, abs=tolerance), name
        assert row.error is None or {found[name] for name in NUMBERS} == {None}


@pytest.fixture(scope="module")
def lines(folder, films, tmp_path_factory):
    return by_mode(folder, films, tmp_path_factory.mktemp("rows") / "rows.jsonl")


def test_rows_are_those_of_the_command_line(model, lines):
    """Field for field, whether films are many or few, and flags and errors too."""
    paths = [line["id"] for line in lines]
    rows = model.predict(paths)
    assert_equal(rows, lines)
    assert_equal([model.predict(path) for path in paths], lines)
    assert {row.decision for row in rows} == {"normal", "pneumonia", None}
    assert {flag for row in rows for flag in row.flags} > {"size", "in_training"}
    assert len(lines) > 36
    assert sum(row.error is not None for row in rows) == 1


def test_a_run_is_loaded_as_its_export_is(finished, chests, tmp_path):
    """Both predict what `--mode=predict` does in its workdir."""
    work = epath.Path(shutil.copytree(finished[0] / "work", tmp_path / "work"))
    config = run_config.completed(run_config.read_config(work), [f"prediction.output={tmp_path / 'rows.jsonl'}"])
    predict.predict_images(config, work, str(chests / "test"))
    expected = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    exported = written(trained_models.load_alone(str(work)), tmp_path / "exported")
    for place in (work, exported):
        loaded = pneumojax.load(place)
        assert_equal(loaded.predict([line["id"] for line in expected]), expected)
        assert loaded.metadata["digest"] == expected[0]["digest"]


def png_row(model, pixels, tmp_path, **options):
    Image.fromarray(pixels, **options).save(tmp_path / "film.png")
    return model.predict(tmp_path / "film.png")


def without_id(row):
    return row._replace(id="")


def test_an_array_is_a_film_with_its_pixels(model, tmp_path):
    """Of 8 bits, of 16 as a file has them, of 12 bits that are stated, and with 0 as white."""
    for pixels in (phantoms(1, 90)[0], phantoms(1, 90)[0][:, :40]):
        assert without_id(model.predict(pixels)) == without_id(png_row(model, pixels, tmp_path))
        wide = pixels.astype(np.uint16) * 257
        assert without_id(model.predict(wide)) == without_id(png_row(model, wide, tmp_path))
        dim = pixels.astype(np.uint16) * 8  # 11 bits are used, of 12
        dicom_files.write(tmp_path / "film.dcm", dim, 12, WindowCenter=2048, WindowWidth=4096)
        stated, guessed = model.predict(dim, bits=12), model.predict(dim)
        assert stated.probability == pytest.approx(model.predict(tmp_path / "film.dcm").probability, abs=0.02)
        assert stated.probability != guessed.probability
    square = phantoms(1, SIZE)[0]  # which needs no resizing, where halves are rounded up
    assert model.predict(255 - square, inverted=True) == model.predict(square) != model.predict(255 - square)
    assert model.predict(square).id == "0"


def test_several_films_give_as_many_rows_in_order(model, films):
    path, array = films / "00.png", phantoms(3, 50)[1]
    rows = model.predict([path, array, str(path)])
    assert isinstance(rows, list)
    assert [row.id for row in rows] == [str(path), "1", str(path)]
    assert rows[0].probability == rows[2].probability != rows[1].probability
    assert [row.id for row in model.predict((path,))] == [str(path)]
    assert model.predict([]) == []
    assert list(model.predict(iter([]))) == []


def test_an_iterator_is_read_as_rows_are_taken(model):
    """Never more than a batch ahead: any number of films fits in memory."""
    taken = []

    def source():
        for number, image in enumerate(phantoms(100, 40)):
            taken.append(number)
            yield image

    rows = model.predict(source())
    assert taken == []
    for count, row in enumerate(rows, start=1):
        assert row.id == str(count - 1)
        assert len(taken) <= 32 * -(-count // 32)
    assert count == 100


def test_a_film_that_cannot_be_read_is_a_row_with_a_reason(model, films):
    row = model.predict(films / "broken.png")
    assert row.error and row.probability is None and row.decision is None
    assert model.predict(films / "none.png").error == "No such file or directory"
    assert "give (height, width), uint8 or uint16" in model.predict(np.zeros((3, 4, 5), np.uint8)).error
    assert model.predict(np.zeros((4, 4), np.float32)).error
    with pytest.raises(UnreadableImage, match="broken.png: "):
        model.explain(films / "broken.png")


@pytest.mark.parametrize("thing", [None, 5, b"film.png", [None], [5], [[5]], object()])
def test_what_is_no_film_is_refused_in_a_line(model, thing):
    with pytest.raises(UserError, match=r"is no film: give a path, or a NumPy array \(height, width\)$"):
        model.predict(thing)
    with pytest.raises(UserError, match="is no film"):
        model.explain(thing)


def test_options_out_of_range_are_refused(model, folder):
    for bits in (7, 17, -1):
        with pytest.raises(UserError, match="bits are out of range: give from 8 to 16"):
            model.predict(phantoms(1, 40)[0], bits=bits)
    for prevalence in (0, 1, -0.1, float("nan")):
        with pytest.raises(UserError, match="prevalence of .* is out of range"):
            pneumojax.load(folder, prevalence=prevalence)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_and_saves(model, films, tmp_path, method):
    found = model.explain(films / "tall.jpg", method=method)
    assert (found.values.shape, found.image.shape, found.method) == ((SIZE, SIZE), (SIZE, SIZE), method)
    assert np.isfinite(found.values).all() and found.values.any()
    found.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert (picture.size, picture.mode) == ((SIZE, SIZE), "RGB")
    for name in ("map.nothing", "no/folder/map.png"):
        with pytest.raises(UserError, match="cannot write .*: give a path such as map.png"):
            found.save(tmp_path / name)


def test_a_method_that_does_not_exist_is_refused(model, films):
    with pytest.raises(UserError, match="no method 'gradcam': did you mean grad-cam"):
        model.explain(films / "00.png", method="gradcam")


def test_logits_are_what_rows_are_made_of_and_have_a_gradient(model):
    """A small step along the gradient changes the logit as the gradient says."""
    squares = phantoms(5, SIZE)
    images = squares[..., None].astype(np.float32) / 255
    logits = model.logits(images)
    assert (logits.shape, logits.dtype) == ((5,), np.float32)
    fitted = calibration.Calibration(**model.metadata["calibration"])
    odds = np.asarray(logits, np.float64) / fitted.temperature + fitted.offset
    assert [row.probability for row in model.predict([*squares])] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    between = np.random.default_rng(0).uniform(0.1, 0.9, images.shape)  # levels, where equalization is smooth
    images = ((np.minimum(squares, 254)[..., None] + between) / 255).astype(np.float32)
    gradient = np.asarray(jax.grad(lambda images: model.logits(images).sum())(images))
    assert gradient.shape == images.shape
    step = 2e-4 * gradient / np.abs(gradient).max()
    change = np.asarray(model.logits(images + step)) - np.asarray(model.logits(images - step))
    np.testing.assert_allclose(change, 2 * (step * gradient).sum((1, 2, 3)), rtol=0.1)


def test_an_ensemble_answers_together(tmp_path):
    ensemble = random_model(size=SIZE, members=2)
    loaded = pneumojax.load(written(ensemble, tmp_path / "both"))
    squares = phantoms(3, SIZE)
    images = squares[..., None].astype(np.float32) / 255
    alone = [
        np.asarray(one.model.apply(jax.tree.map(jnp.asarray, one.variables), images, train=False)) / one.scale
        for one in ensemble.members
    ]
    np.testing.assert_allclose(loaded.logits(images), np.mean(alone, axis=0), rtol=1e-5, atol=1e-5)
    assert loaded.explain(squares[0]).values.any()
    assert all(row.error is None for row in loaded.predict([*squares]))


def test_a_prevalence_restates_probabilities_and_changes_no_decision(folder, model):
    films = [*phantoms(10, 50)]
    for row, restated in zip(model.predict(films), pneumojax.load(folder, prevalence=0.05).predict(films), strict=True):
        p = row.probability
        assert restated.probability == pytest.approx(p * 0.05 / (p * 0.05 + (1 - p) * 0.95), rel=1e-5)
        assert (restated.decision, restated.digest) == (row.decision, row.digest)


def test_threads_share_a_model(folder, films, lines):
    """Eight at once, from the first call on, with each its own films."""
    shared = pneumojax.load(folder)
    paths = [line["id"] for line in lines]

    def work(number):
        some = paths[number:] + paths[:number]
        rows = shared.predict(some)
        shared.explain(films / "00.png")
        return sorted(rows, key=lambda row: row.id)

    with ThreadPoolExecutor(8) as pool:
        for rows in pool.map(work, range(8)):
            assert_equal(rows, sorted(lines, key=lambda line: line["id"]))


def test_a_name_that_nothing_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^no model 'nothing': choose from .*a folder"):
        pneumojax.load("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="^no model in empty: give an exported folder, or the workdir of a run"):
        pneumojax.load("empty")


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: flipped(content, len(content) // 2),
        lambda content: flipped(content, 3),
        lambda content: flipped(content, len(content) - 1),
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: b"",
    ],
    ids=["flipped", "header", "last", "cut", "longer", "empty"],
)
def test_damaged_weights_are_refused_in_a_line(folder, tmp_path, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / workdirs.WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"model.safetensors is damaged \(.*\): export the model again"):
        pneumojax.load(copy)


def changed(*names, to):
    """A function that changes a value deep in the description."""

    def change(tree):
        node = tree
        for name in names[:-1]:
            node = node[name]
        node[names[-1]] = to
        return tree

    return change


NETWORK = ("networks", 0)
CHANGES = {
    "list": lambda tree: [tree],
    "number": lambda tree: 3,
    "nothing": lambda tree: None,
    "other format": changed("format", to="PneumoJAX model, version 2"),
    "no fields": lambda tree: {"format": tree["format"]},
    "no network": changed("networks", to=[]),
    "networks of another kind": changed("networks", to="m1"),
    "size of another kind": changed("preprocessing", "image_size", to="32"),
    "fractional size": changed("preprocessing", "image_size", to=32.0),
    "huge size": changed("preprocessing", "image_size", to=10**9),
    "preprocessing of another kind": changed("preprocessing", to=[]),
    "other blocks": changed(*NETWORK, "blocks", to=[{"filters": 32, "dropout": 0}]),
    "blocks of another kind": changed(*NETWORK, "blocks", to=[[32, 0]]),
    "other type": changed(*NETWORK, "dtype", to="int8"),
    "equalization of another kind": changed(*NETWORK, "equalize", to="no"),
    "other equalization": changed(*NETWORK, "equalize", to=False),
    "no scale": changed(*NETWORK, "scale", to=0),
    "limit of another kind": changed(*NETWORK, "ood_limit", to=None),
    "no limit": changed(*NETWORK, "ood_limit", to=99),
    "other calibration": changed("calibration", "offset", to=1.0),
    "calibration out of range": changed("calibration", "temperature", to=-1.0),
    "calibration of another kind": changed("calibration", to={"temperature": "hot"}),
    "other digest": changed("digest", to="0" * 16),
    "other weights": changed("weights", "sha256", to="0" * 64),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_description_is_refused_in_a_line(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / bundle.DESCRIPTION
    path.write_text(json.dumps(change(read_json(path))))
    with pytest.raises(UserError, match=r"is damaged \(.*\): export the model again, or bring the file back$"):
        pneumojax.load(copy)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 99_999, b'{"format": NaN}'])
def test_a_description_that_is_no_json_is_refused_in_a_line(folder, tmp_path, content):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / bundle.DESCRIPTION
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged"):
        pneumojax.load(copy)


def test_every_error_is_of_one_family():
    assert issubclass(UserError, PneumoJAXError) and issubclass(UnreadableImage, PneumoJAXError)


def in_a_fresh_process(program, *arguments, **environment):
    """Run a program where JAX has no place yet for what it compiles, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_next_to_nothing():
    program = (
        "import sys; before = set(sys.modules); import pneumojax;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; print(sorted(new))"
    )
    imported = set(eval(in_a_fresh_process(program)))
    assert imported <= {"pneumojax", "typing", "importlib", "collections", "functools", "re", "operator", "keyword",
                        "reprlib", "warnings", "contextlib", "types", "copyreg", "sre_compile", "enum", "_collections",
                        "_functools", "_operator", "_sre", "itertools", "_typing", "_weakref", "sre_parse",
                        "sre_constants", "weakref"}, imported  # fmt: skip


FIRST = """
import sys, pneumojax
pneumojax.load(sys.argv[1], **eval(sys.argv[2])).predict(sys.argv[3])
import jax
print(jax.config.values["jax_compilation_cache_dir"])
print([name for name in ("scipy", "orbax", "sklearn", "pydicom", "imagecodecs", "matplotlib", "tensorflow", "optax",
                         "tensorboardX", "onnx") if name in sys.modules])
"""


def test_a_first_prediction_imports_what_it_needs_and_what_load_does_can_be_declined(folder, films, tmp_path):
    cache = tmp_path / "cache"
    for options, kept in (({}, str(cache / "pneumojax/compiled")), ({"keep_compiled": False}, "None")):
        options = options | {"keep_freed_memory": bool(not options)}
        printed = in_a_fresh_process(FIRST, folder, options, films / "tall.jpg", XDG_CACHE_HOME=str(cache))
        assert printed.splitlines() == [kept, "[]"]


@pytest.fixture
def desk(folder, films, tmp_path, monkeypatch):
    """A folder with what the examples name, which is the current one."""
    shutil.copytree(folder, tmp_path / "m1")
    shutil.copy(films / "film.dcm", tmp_path / "film.dcm")
    shutil.copy(films / "00.png", tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples_of_the_page():
    text = (ROOT / "docs/api.md").read_text()
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", ["package", "page"])
def test_the_examples_run(desk, name):
    text = pneumojax.__doc__ if name == "package" else examples_of_the_page()
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert len(test.examples) >= 3
    printed = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=printed.append).failed == 0, "".join(printed)


def test_a_model_has_the_documented_members():
    for name in ("predict", "explain", "logits"):
        assert getattr(api.Model, name).__doc__
    assert set(pneumojax.__all__) <= set(dir(pneumojax))
    assert all(getattr(pneumojax, name) is not None for name in pneumojax.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pneumojax.nothing
