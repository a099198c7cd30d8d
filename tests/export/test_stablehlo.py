"""A model as StableHLO computes what the model computes, for every network and any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundles import phantoms, random_model

from pneumojax.export import parity, stablehlo
from pneumojax.models.architectures import FAMILY, Block

MODELS = {
    "m1": {"size": 150},
    "m2": {"size": 45, "blocks": FAMILY["m2"]},
    "m3": {"size": 30, "blocks": FAMILY["m3"]},
    "ensemble": {"size": 33, "members": 3},
    "own blocks": {"size": 21, "blocks": (Block(5, 0.1), Block(7, 0.0))},
    "bfloat16": {"size": 32, "dtype": "bfloat16"},
}
SLOW = ("m2", "m3")
FAST = [name for name in MODELS if name not in SLOW]


@pytest.fixture(scope="module", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def model(request):
    return random_model(**MODELS[request.param])


def test_it_answers_as_the_model_does_in_float32(model):
    squares = phantoms(19, model.image_size)
    content = stablehlo.serialized(model)
    found = parity.with_decisions(stablehlo.answers(content, squares), model.calibration)
    away = parity.differences(found, parity.of_model(model, squares, jnp.float32))
    parity.refuse("model.stablehlo", away, "")
    assert len(np.unique(found["logit"])) == 19
    assert found["probability"].min() < 0.5 < found["probability"].max()
    call = jax.export.deserialize(bytearray(content)).call
    for count in (1, 7):
        np.testing.assert_allclose(call(squares[:count])["logit"], found["logit"][:count], rtol=1e-5, atol=1e-5)


def test_it_says_how_to_call_it():
    described = stablehlo.describe(stablehlo.serialized(random_model(size=16, blocks=(Block(2, 0.0),))))
    assert described["platforms"] == ["cpu", "cuda", "tpu"]
    assert described["exported_by"] == f"jax {jax.__version__}"
    assert described["compatibility"].startswith("JAX reads it for 6 months")
