"""Histogram equalization: its definition, what it makes equal, and that networks see and explain equalized images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundles import phantoms
from ml_collections import ConfigDict
from scipy.stats import rankdata

from pneumojax.inference.explainer import explainer
from pneumojax.models import classifier
from pneumojax.models.classifier import equalized
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding

SIZE = 32


@pytest.fixture(scope="module")
def squares():
    return phantoms(3, SIZE)


def intensities(squares):
    return jnp.asarray(squares[..., None].astype(np.float32) / np.float32(255))


def config_of(**model) -> ConfigDict:
    fields = {"image_size": SIZE, "name": "m3"} | model
    return configs.with_fields(configs.load("m1"), {f"model.{name}": value for name, value in fields.items()})


def test_a_level_becomes_its_rank(squares):
    ranks = np.stack([(rankdata(square).reshape(square.shape) - 0.5) / square.size for square in squares])
    np.testing.assert_allclose(equalized(intensities(squares))[..., 0], ranks, rtol=1e-6)


def test_a_uniform_image_becomes_grey():
    images = jnp.stack([jnp.zeros((5, 5, 1)), jnp.ones((5, 5, 1))])
    np.testing.assert_array_equal(equalized(images), np.full((2, 5, 5, 1), 0.5))


def test_exposure_and_windowing_make_no_difference(squares):
    dark = (squares // 3).astype(np.uint8) * 3  # as many levels as are left after the change
    changed = np.rint(40 + 200 * (dark / 255) ** 0.8)
    np.testing.assert_array_equal(equalized(intensities(changed)), equalized(intensities(dark)))


def test_the_gradient_is_the_density_of_levels():
    """Between two levels, each of half of the pixels, the shares rise from a quarter to three quarters."""
    image = jnp.full((1, 16, 16, 1), 100.3 / 255).at[0, :8].set(100.7 / 255)
    np.testing.assert_allclose(np.unique(equalized(image)), [0.25 + 0.3 / 2, 0.25 + 0.7 / 2], rtol=1e-4)
    slopes = jax.grad(lambda images: equalized(images).sum())(image)
    np.testing.assert_allclose(slopes, 255 / 2, rtol=1e-4)


@pytest.mark.parametrize("devices", [1, 3])
def test_a_network_sees_equalized_images(squares, devices):
    model = create_model(config_of(equalize=True))
    variables = classifier.init_variables(model, SIZE, 0)
    plain, images = model.clone(equalize=False), intensities(squares)
    with jax.set_mesh((layout := sharding.layout(jax.devices()[:devices])).mesh):
        placed = sharding.place(layout, images)
        compute = jax.jit(model.apply, static_argnames="train", out_shardings=layout.replicated)
        found = compute(variables, placed, train=False)
    np.testing.assert_allclose(found, plain.apply(variables, equalized(images), train=False), rtol=1e-4, atol=1e-5)
    assert np.abs(found - plain.apply(variables, images, train=False)).min() > 1e-3
    first, last = classifier.halves(model, variables, "conv_2")
    np.testing.assert_allclose(last(first(images)), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion", "grad-cam"])
def test_maps_are_of_the_equalized_image(squares, method):
    """Not of the image before, whose pixels' ranks change along a path."""
    config = config_of(equalize=True)
    fields = {"explanation.steps": 4, "explanation.square": 0.5, "explanation.square_step": 0.25}
    config = configs.with_fields(config, fields)
    model = create_model(config)
    variables = classifier.init_variables(model, SIZE, 0)
    found = explainer(method, model, config)(variables, squares[0])
    seen = np.rint(np.asarray(equalized(intensities(squares)))[0, ..., 0] * 255).astype(np.uint8)
    expected = explainer(method, model.clone(equalize=False), config)(variables, seen)
    assert np.ptp(found) > 0
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())  # `seen` is rounded
