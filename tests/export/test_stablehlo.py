"""A model as StableHLO computes what the model computes, for every network and any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundles import phantoms, random_model

from pneumojax.export import agreement, stablehlo
from pneumojax.models.architectures import FAMILY, Block
from pneumojax.runtime.errors import UserError

MODELS = {
    "m1": {"size": 150},
    "m2": {"size": 45, "blocks": FAMILY["m2"]},
    "m3": {"size": 30, "blocks": FAMILY["m3"]},
    "ensemble": {"size": 33, "members": 3},
    "own blocks": {"size": 21, "blocks": (Block(5, 0.1), Block(7, 0.0))},
    "bfloat16": {"size": 32, "dtype": "bfloat16"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return random_model(**MODELS[request.param])


def test_it_answers_as_the_model_does_in_float32(model):
    squares = phantoms(19, model.image_size)
    content = stablehlo.serialized(model)
    found = agreement.of_stablehlo(content, squares)
    away = agreement.differences(found, agreement.of_model(model, squares, jnp.float32), model.calibration)
    agreement.refuse("model.stablehlo", away)
    assert len(np.unique(found.logits)) == 19
    assert found.probabilities.min() < 0.5 < found.probabilities.max()
    call = jax.export.deserialize(bytearray(content)).call
    for count in (1, 7):
        np.testing.assert_allclose(call(squares[:count])["logit"], found.logits[:count], rtol=1e-5, atol=1e-5)


def test_it_says_how_to_call_it():
    described = stablehlo.describe(stablehlo.serialized(random_model(size=16, blocks=(Block(2, 0.0),))))
    assert described["platforms"] == ["cpu", "cuda", "tpu"]
    assert described["exported_by"] == f"jax {jax.__version__}"
    assert described["compatibility"].startswith("JAX reads it for 6 months")


def test_differences_are_the_largest_and_turned_decisions_are_counted():
    """Of logits 100 and -0.5, the differences 0.5 and 0.25 are 0.005 and 0.25 of what counts."""
    calibration = random_model(size=16, blocks=(Block(2, 0.0),)).calibration  # thresholds 0.5 and 0.4
    right = agreement.Answers(np.float32([100, -0.5]), np.array([0.9, 0.45]), np.float32([0.1, 0.2]))
    found = agreement.Answers(np.float32([100.5, -0.75]), np.array([0.9, 0.3]), np.float32([0.1, 0.4]))
    away = agreement.differences(found, right, calibration)
    assert away == pytest.approx({"logit": 0.25, "probability": 0.15, "decisions_turned": 1, "ood_score": 0.2})
    assert "ood_score" not in agreement.differences(found._replace(ood_scores=None), right, calibration)


@pytest.mark.parametrize("logit", [2e-5, float("nan"), float("inf")])
def test_a_difference_beyond_its_tolerance_is_refused(logit):
    agreement.refuse("x", {"logit": 9e-6, "decisions_turned": 0})
    with pytest.raises(UserError, match="^x differs from the model .logit .*at most 1e-05 allowed"):
        agreement.refuse("x", {"logit": logit, "decisions_turned": 0})
    with pytest.raises(UserError, match="decisions turned 1, at most 0 allowed"):
        agreement.refuse("x", {"decisions_turned": 1})
