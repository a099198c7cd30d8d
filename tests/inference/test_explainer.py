"""Explainers: attribution methods with the config's options, and options that are refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from support import SIZE

from pneumojax.data.sources import phantom
from pneumojax.inference import attribution
from pneumojax.inference.explainer import explainer, methods, squares
from pneumojax.models.classifier import equalized, init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime.config import with_fields
from pneumojax.runtime.errors import UserError


def config_with(config, **options):
    return with_fields(config, {f"explanation.{name}": value for name, value in options.items()})


def test_an_explainer_applies_the_configs_options(config):
    config = config_with(config, square=0.25, square_step=0.125, baseline="black")
    model = create_model(config)
    variables, (image, _) = init_variables(model, SIZE, 0), phantom.render(0, 0, 1, SIZE)
    values = explainer("occlusion", model, config)(variables, image)
    images = equalized(jnp.asarray(image[None, :, :, None] / np.float32(255)))
    network = model.clone(equalize=False)
    expected = attribution.occlusion(network, variables, images, window=8, stride=4, baseline=0.0)[0]
    assert (values.dtype, values.shape) == (np.float32, (SIZE, SIZE))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_squares_are_at_least_one_pixel(config):
    config = config_with(config, square=0.25, square_step=0.01)
    assert squares(config, 32) == {"window": 8, "stride": 1}


def test_a_method_that_is_listed_twice_is_used_once(config):
    assert methods(config_with(config, methods="occlusion,grad-cam,occlusion")) == ["occlusion", "grad-cam"]


@pytest.mark.parametrize(
    ("names", "message"),
    [("grad-cam,nonsense", "no method 'nonsense'"), ("", "methods is empty: choose from grad-cam")],
)
def test_unknown_and_missing_methods_are_refused(config, names, message):
    with pytest.raises(UserError, match=message):
        methods(config_with(config, methods=names))


@pytest.mark.parametrize(
    ("layer", "message"), [("conv_6", "no layer 'conv_6'"), ("dense_1", "layer dense_1 has no height and width")]
)
def test_grad_cam_needs_a_layer_with_height_and_width(config, layer, message):
    with pytest.raises(UserError, match=message):
        explainer("grad-cam", create_model(config), config_with(config, layer=layer))
