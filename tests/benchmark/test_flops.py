"""The count of operations: by hand, and as XLA counts them."""

import jax
import jax.numpy as jnp
import pytest

from pneumojax import kernels, models
from pneumojax.benchmark import flops


def test_m3_at_16_px_by_hand():
    """Sides 16, 8, 4, then 2; 64, 128 and 256 filters; 1,024 features."""
    convolutions = 2 * 9 * (1 * 64 * 16**2 + 64 * 128 * 8**2 + 128 * 256 * 4**2)
    assert flops.forward("m3", 16) == convolutions + 2 * (1024 * 128 + 128)
    assert flops.training("m3", 16) == 3 * flops.forward("m3", 16)


@pytest.mark.parametrize(("name", "expected"), [("m1", 0.44), ("m2", 0.65), ("m3", 1.73)])
def test_at_the_papers_size(name, expected):
    """GFLOP of an image at 150 px."""
    assert round(flops.forward(name, 150) / 1e9, 2) == expected


@pytest.mark.parametrize("name", ["m1", "m2", "m3"])
def test_xla_counts_nearly_as_many(name, monkeypatch):
    """It leaves out what is multiplied with the padding's zeros, and counts the small operations: within 3 %."""
    monkeypatch.setattr(kernels, "load", lambda: False)  # into which it cannot look
    jax.clear_caches()
    model = models.create(name)
    images = jnp.zeros((2, 150, 150, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    lowered = jax.jit(lambda given, images: model.apply(given, images, train=False)).lower(variables, images)
    assert lowered.cost_analysis()["flops"] / 2 == pytest.approx(flops.forward(name, 150), rel=0.03)
