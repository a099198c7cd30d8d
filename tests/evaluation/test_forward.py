"""The evaluation step and the evaluator: every image is evaluated once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from support import SIZE

from pneumojax.evaluation.forward import Evaluator, eval_step
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_every_image_is_evaluated_once_with_any_batch_size(config, splits, batch_size):
    """Outputs of the padding of the last batch must be dropped."""
    model = create_model(config)
    variables = init_variables(model, SIZE, 0)
    layout = sharding.layout()
    with jax.set_mesh(layout.mesh):
        logits, features = Evaluator(model, layout, batch_size).outputs(variables, splits["val"])
    images = splits["val"].read(np.arange(len(splits["val"].ids)))
    expected_logits, expected_features = eval_step(model, variables, jnp.asarray(images))
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, expected_features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logits, model.apply(variables, images / np.float32(255), train=False), rtol=1e-4, atol=1e-5
    )
    assert features.shape == (len(logits), 128)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, SIZE, SIZE), np.uint8), np.zeros((2, SIZE, SIZE, 3), np.uint8), np.zeros((2, SIZE, SIZE, 1))],
    ids=["no channel", "three channels", "float"],
)
def test_images_of_another_shape_or_type_are_refused(config, images):
    """Shapes are part of the signatures; the tests check them at run time, also while JAX traces."""
    model = create_model(config)
    variables = init_variables(model, SIZE, 0)
    for step in (eval_step, jax.jit(eval_step, static_argnums=0)):
        with pytest.raises(TypeCheckError, match="images"):
            step(model, variables, jnp.asarray(images))
