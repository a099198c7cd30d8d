"""A wrong export is found and refused, whatever computes it."""

import sys

import numpy as np
import onnx
import pytest
from bundles import phantoms
from onnx import numpy_helper
from random_models import random_member, random_model

from pneumojax.evaluation.calibration import Calibration
from pneumojax.export import onnx_parity, parity
from pneumojax.export.onnx_graph import batch_model, film_model
from pneumojax.runtime.errors import UserError

SIZE = 16
FILM = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


@pytest.fixture(scope="module")
def model():
    return random_model([random_member("8:0,16:0.1", SIZE, 0)], SIZE)


@pytest.fixture(scope="module")
def protos(model):
    return {"film_proto": film_model(model), "batch_proto": batch_model(model)}


def test_graphs_as_they_were_exported_pass(model, protos):
    squares = phantoms(20, SIZE, seed=8)
    parity.refuse("the graph", onnx_parity.measure(model, squares=squares, films=[FILM], **protos), "")


def with_constant(proto, name, change):
    """Return a copy of a graph in which one constant is changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    [constant] = [constant for constant in copy.graph.initializer if constant.name == name]
    constant.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(constant)), name))
    return copy


@pytest.mark.parametrize(
    ("constant", "change", "reported"),
    [
        ("network.dense_2.bias", lambda value: value + np.float32(1e-3), "logit"),
        ("network.conv_1.kernel", lambda value: value[:, :, ::-1].copy(), "logit"),
        ("network.grad_cam.gradients", lambda value: -value, "map"),
        ("network.ood.training_squares", lambda value: value * np.float32(1.1), "ood score"),
        ("network.guard.center", lambda value: value + np.float32(0.01), "ood score"),
        ("batch.offset", lambda value: value + np.float32(0.01), "probability"),
        ("batch.decision.lowest_logit", lambda value: np.float32(-np.inf), "decisions turned"),
        ("batch.decision_at_sens95.lowest_logit", lambda value: np.float32(np.inf), "decisions turned"),
        ("resize.across.odd", lambda value: value - 2, "square"),
    ],
)
def test_a_changed_constant_is_found(model, protos, constant, change, reported):
    """Each kind of difference, whether it is in the graph of films or of batches."""
    squares = phantoms(20, SIZE, seed=8)
    for name, proto in protos.items():
        if constant in {each.name for each in proto.graph.initializer}:
            changed = protos | {name: with_constant(proto, constant, change)}
            films = [FILM] if "resize" in constant else list(squares)
            found = onnx_parity.measure(model, squares=squares, films=films, **changed)
            with pytest.raises(UserError, match=rf"the graph differs from the model .*{reported} .*allowed"):
                parity.refuse("the graph", found, "")


@pytest.mark.parametrize("name", parity.TOLERANCES)
def test_what_is_not_a_number_is_refused(name):
    parity.refuse("x", dict.fromkeys(parity.TOLERANCES, 0), "")
    with pytest.raises(UserError, match=name.replace("_", " ")):
        parity.refuse("x", dict.fromkeys(parity.TOLERANCES, 0) | {name: float("nan")}, "")


def test_the_reference_implementation_agrees(model, monkeypatch):
    """It stands in where ONNX Runtime is not installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = onnx_parity.measure(model, film_model(model), batch_model(model), phantoms(3, SIZE), [FILM])
    parity.refuse("the graph", found, "")
    assert found["runtime"].startswith("onnx.reference ")
    assert (found["square"], found["squares"], found["films"]) == (0, 3, 1)


def test_differences_are_the_largest_and_turned_decisions_are_counted():
    """Of logits 100 and -0.5, the differences 0.5 and 0.25 are 0.005 and 0.25 of what counts."""
    calibration = Calibration(0.8, 0.5, 0.4, 0.5, 0.0)

    def answers(logits, probabilities, **more):
        return parity.with_decisions(
            {"logit": np.float32(logits), "probability": np.array(probabilities), **more}, calibration
        )

    right = answers([100, -0.5], [0.9, 0.45], ood_score=np.float32([0.1, 0.2]))
    found = answers([100.5, -0.75], [0.9, 0.3], ood_score=np.float32([0.1, 0.4]))
    away = parity.differences(found, right)
    assert away == pytest.approx({"logit": 0.25, "probability": 0.15, "decisions_turned": 1, "ood_score": 0.2})
    assert "ood_score" not in parity.differences(answers([1, 2], [0.1, 0.2]), right)


@pytest.mark.parametrize("logit", [2e-5, float("nan"), float("inf")])
def test_a_difference_beyond_its_tolerance_is_refused(logit):
    parity.refuse("x", {"logit": 9e-6, "decisions_turned": 0}, "Do y")
    with pytest.raises(UserError, match="^x differs from the model .logit .*at most 1e-05 allowed.*Do y$"):
        parity.refuse("x", {"logit": logit, "decisions_turned": 0}, "Do y")
    with pytest.raises(UserError, match="decisions turned 1, at most 0 allowed"):
        parity.refuse("x", {"decisions_turned": 1}, "Do y")
