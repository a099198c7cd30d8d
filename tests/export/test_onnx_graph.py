"""The ONNX graphs give what the model gives, for any network of the family and any film."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bundles import phantoms
from PIL import Image
from random_models import random_member, random_model

from pneumojax import __version__
from pneumojax.data.decode import dicom
from pneumojax.data.decode.images import grey, look
from pneumojax.evaluation.calibration import at_prevalence
from pneumojax.export import onnx_parity, parity
from pneumojax.export.onnx_graph import OUTPUTS, batch_model, film_model

REAL = Path(__file__).parents[3] / "shared" / "data"
SHAPES = [(37, 411), (1, 1), (150, 150), (700, 1001)]


def films_of(shapes):
    return [np.random.default_rng(number).integers(0, 256, shape, np.uint8) for number, shape in enumerate(shapes)]


def compared(model, squares, films):
    found = onnx_parity.measure(model, film_model(model), batch_model(model), squares, films)
    parity.refuse("the graph", found, "")
    assert (found["square"], found["flags_turned"]) == (0, 0)
    return found


@pytest.mark.parametrize(
    ("tables", "size", "prevalence"),
    [
        (["m1"], 150, 0.1),
        (["m2"], 61, 0.0),
        (["m3"], 45, 0.9),
        (["16:0,40:0.1"], 33, 0.02),
        (["8:0"], 16, 0.0),
        (["16:0,40:0.1", "8:0"], 34, 0.3),
        (["16:0,24:0", "8:0", "8:0.1"], 21, 0.0),
    ],
)
def test_the_graphs_agree_with_the_model(tables, size, prevalence):
    """Of phantoms, of uniform squares, and of films of odd sizes, one of them large in the first case."""
    scales = [1.0] if len(tables) == 1 else [0.5, 2.0, 1.5]
    members = [
        random_member(table, size, number, scales[number], equalize=(size + number) % 2 == 1)
        for number, table in enumerate(tables)
    ]
    model = random_model(members, size, prevalence)
    squares = np.concatenate([phantoms(19, size, seed=8), np.zeros((1, size, size), np.uint8)])
    films = films_of([*SHAPES, (2000, 3001)] if tables == ["m1"] else SHAPES[:2])
    found = compared(model, squares, films)
    assert (found["squares"], found["films"]) == (20, len(films))


@pytest.fixture(scope="module")
def small():
    """A model of two networks for 33 pixels."""
    members = [random_member(table, 33, seed, 1.5) for seed, table in enumerate(("16:0,24:0.1", "8:0"))]
    return random_model(members, 33)


def run(proto, **inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return dict(zip(OUTPUTS, session.run(OUTPUTS, inputs), strict=True))


def test_inputs_and_outputs(small):
    """A batch may have any number of images; a film's answers are without an axis for the batch."""
    for count in (1, 5):
        images = phantoms(count, 33)
        answers = run(batch_model(small), images=images)
        assert {answers[name].shape for name in ("probability", "logit", "ood_score")} == {(count,)}
        assert answers["map"].shape == answers["square"].shape == (count, 33, 33)
        np.testing.assert_array_equal(answers["square"], images)
    answers = run(film_model(small), film=phantoms(1, 60)[0])
    assert {np.shape(answers[name]) for name in ("probability", "decision", "unlike_training")} == {()}
    assert answers["map"].shape == answers["square"].shape == (33, 33)
    kinds = {name: np.asarray(value).dtype.name for name, value in answers.items()}
    assert kinds["decision"] == kinds["decision_at_sens95"] == "int64"
    assert (kinds["unlike_training"], kinds["probability"], kinds["square"]) == ("bool", "float32", "uint8")


def test_a_prevalence_changes_probabilities_and_no_decision(small):
    images = phantoms(16, 33, seed=9)
    as_fitted, rare = (
        run(batch_model(model), images=images)
        for model in (small, small._replace(calibration=at_prevalence(small.calibration, 0.01)))
    )
    assert (rare["probability"] < as_fitted["probability"]).all()
    np.testing.assert_array_equal(rare["decision"], as_fitted["decision"])
    assert len(set(as_fitted["decision"])) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_most_networks_decide_whether_an_image_is_unlike(count):
    """Limits at the middle of each network's scores make the networks disagree."""
    members = [random_member("8:0", 16, seed, 1.0) for seed in range(count)]
    model = random_model(members, 16)
    images = np.concatenate([phantoms(30, 16, seed=8), films_of([(10, 16, 16)])[0]])
    scores = np.stack([parity.of_model(model._replace(members=[each]), images)["ood_score"] for each in members])
    limits = (np.sort(scores)[:, 19] + np.sort(scores)[:, 20]) / 2
    members = [
        member._replace(training=member.training._replace(limit=float(limit)))
        for member, limit in zip(members, limits, strict=True)
    ]
    answers = run(batch_model(model._replace(members=members)), images=images)
    np.testing.assert_array_equal(answers["unlike_training"], (scores > limits[:, None]).mean(0) > 0.5)
    np.testing.assert_allclose(answers["ood_score"], np.median(scores, axis=0), rtol=1e-4, atol=1e-4)
    assert len(set(answers["unlike_training"])) == 2


def test_few_training_images_and_an_image_without_features():
    """With fewer training images than K, the farthest counts; where no unit is active, features and map are zeros."""
    member = random_member("8:0", 16, 0, guarded=False)
    index = member.training._replace(ids=member.training.ids[:3], features=member.training.features[:3])
    few = random_model([member._replace(training=index)], 16)
    compared(few, phantoms(8, 16), films_of([(20, 30)]))
    member.variables["params"]["dense_1"]["bias"] -= 100
    dead = few._replace(members=[member])
    compared(dead, phantoms(2, 16), films_of([(20, 30)]))
    answers = run(batch_model(dead), images=phantoms(2, 16))
    assert not answers["map"].any()
    np.testing.assert_allclose(answers["ood_score"], 1)


def test_a_model_trained_in_bfloat16_is_exported_in_float32():
    """The graph is that of the same parameters in float32; the metadata say both."""
    plain, narrow = (random_member("8:0,16:0.1", 16, 0, dtype=dtype) for dtype in ("float32", "bfloat16"))
    same = random_model([plain], 16)
    half = same._replace(members=[plain._replace(model=narrow.model)])
    assert batch_model(half).graph == batch_model(same).graph
    facts = {prop.key: prop.value for prop in batch_model(half).metadata_props}
    assert (facts["trained_in"], facts["computed_in"]) == ("bfloat16", "float32")
    compared(half, phantoms(4, 16), films_of([(20, 30)]))


def test_metadata(small):
    for proto in (film_model(small), batch_model(small)):
        facts = {prop.key: prop.value for prop in proto.metadata_props}
        assert (facts["name"], facts["digest"], facts["version"]) == (small.name, small.digest, __version__)
        assert float(facts["threshold"]) == small.calibration.threshold
        assert float(facts["threshold_sens95"]) == small.calibration.threshold_sens95
        assert facts["networks"] == "16:0,24:0.1; 8:0"
        assert "not a medical device" in facts["notice"].lower()


def test_names_say_what_they_are(small):
    """No name repeats, and each node's name is that of its first result."""
    graph = film_model(small).graph
    results = [name for node in graph.node for name in node.output]
    assert len(set(results)) == len(results)
    assert {"network_1.conv_1", "network_0.hidden", "resize.across.matrix"} <= set(results)
    assert all(node.name in (node.output[0], f"{node.input[0]}.split") for node in graph.node)


def real_paths():
    """The real films: 52 of children at 224 pixels and 48 at full size, 40 of adults, and all DICOM."""
    groups = {"kermany_224/train": 26, "kermany_fullsize": 24, "adults_224": 20}
    for group, count in groups.items():
        for label in ("NORMAL", "PNEUMONIA"):
            yield from sorted((REAL / group / label).glob("*"))[:count]
    yield from sorted((REAL / "dicom").glob("*.dcm"))


def film_of(path):
    """Decode a film in full, to grey levels."""
    if path.suffix == ".dcm":
        return np.asarray(grey(dicom.decode(path), bits=16))
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.slow
def test_real_films():
    """M1 with random weights and statistics of real films; the films decoded in full, and as our reader has them."""
    if not REAL.exists():
        pytest.skip("the shared radiographs are not here")
    paths = list(real_paths())
    assert len(paths) >= 96
    squares = np.stack([look(path, 64).square for path in paths])
    model = random_model([random_member("m1", 64, 0)], 64)
    compared(model, squares, [film_of(path) for path in paths])
