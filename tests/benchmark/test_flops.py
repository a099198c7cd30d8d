"""The count of operations equals one made by hand, and nearly XLA's."""

import jax
import jax.numpy as jnp
import pytest

from pneumojax.benchmark import flops
from pneumojax.models import classifier, kernels


def test_m3_at_16_px_by_hand():
    """The sides are 16, 8, 4 and 2; there are 64, 128 and 256 filters, and 1,024 features."""
    convolutions = 2 * 9 * (1 * 64 * 16**2 + 64 * 128 * 8**2 + 128 * 256 * 4**2)
    assert flops.forward("m3", 16) == convolutions + 2 * (1024 * 128 + 128)
    assert flops.training("m3", 16) == 3 * flops.forward("m3", 16)


@pytest.mark.parametrize(("name", "expected"), [("m1", 0.44), ("m2", 0.65), ("m3", 1.73)])
def test_gflop_of_an_image_of_150_px(name, expected):
    """The numbers that the documentation gives."""
    assert round(flops.forward(name, 150) / 1e9, 2) == expected


@pytest.mark.parametrize("name", ["m1", "m2", "m3"])
def test_xla_counts_nearly_as_many(name, monkeypatch):
    """Within 3 %: XLA leaves out products with the padding's zeros, and counts the small operations."""
    monkeypatch.setattr(kernels, "load", lambda: False)  # XLA counts nothing inside the CPU kernels
    jax.clear_caches()
    model = classifier.create(name)
    images = jnp.zeros((2, 150, 150, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    lowered = jax.jit(lambda variables, images: model.apply(variables, images, train=False)).lower(variables, images)
    assert lowered.cost_analysis()["flops"] / 2 == pytest.approx(flops.forward(name, 150), rel=0.03)
