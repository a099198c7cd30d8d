"""What the maps of `explain` are compared on: networks and images from seeds, the same under every version of JAX."""

from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from pneumojax import explain, models
from pneumojax.data import phantom

REFERENCES = Path(__file__).parent / "references" / "explanations.npz"  # Captum's, by "<model> <method>"
SIDE = 40  # pixels of the images in there
METHODS = ("grad-cam", "integrated-gradients", "occlusion")  # that Captum shares with us
OPTIONS = {"steps": 50, "window": 9, "stride": 5}  # of those in there


def phantoms(count: int, height: int, width: int | None = None) -> np.ndarray:
    """(count, height, width, 1) float32 in [0, 1]: normal and pneumonia in turn, the left part where less is asked."""
    drawn = np.stack([phantom.render(0, i, i % 2, height)[0] for i in range(count)])
    return drawn[:, :, :width, None].astype(np.float32) / 255


@cache
def variables(name: str, height: int, width: int) -> dict:
    """Of the model called `name`: none at zero or one, and some channels whose order batch normalization turns."""
    images = jax.ShapeDtypeStruct((1, height, width, 1), np.float32)
    shapes = jax.eval_shape(partial(models.create(name).init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map_with_path(lambda path, leaf: _drawn(rng, path[-1].key, leaf.shape), shapes)


def _drawn(rng, kind, shape):
    if kind == "kernel":
        field = np.prod(shape[:-2])
        values = rng.normal(0, np.sqrt(2 / (field * (shape[-2] + shape[-1]))), shape)
    elif kind == "scale":
        values = rng.uniform(0.5, 1.5, shape) * np.where(np.arange(shape[0]) % 3, 1, -1)
    elif kind == "var":
        values = rng.uniform(0.1, 0.5, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def own_maps(name: str, images: np.ndarray, *, steps: int, window: int, stride: int) -> dict[str, np.ndarray]:
    """Ours by each of `METHODS`, as `captum_maps.maps` gives theirs: (batch, height, width)."""
    model = models.create(name)
    options = {
        "grad-cam": {"layer": explain.last_convolution(model)},
        "integrated-gradients": {"steps": steps},
        "occlusion": {"window": window, "stride": stride},
    }
    given = variables(name, *images.shape[1:3])
    return {
        method: np.asarray(jax.jit(partial(explain.METHODS[method], model, **options[method]))(given, images))
        for method in METHODS
    }


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Each map to 1e-4 of its largest value, which must not be all that there is in it."""
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max((1, 2))
    assert (np.ptp(theirs, (1, 2)) > 0.1 * largest).all()
    apart = np.abs(ours - theirs).max((1, 2)) / largest
    assert apart.max() <= 1e-4, apart
