"""What the maps of `explain` are compared on: networks and images from seeds, the same under every version of JAX."""

from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from pneumojax import explain, models
from pneumojax.data import phantom

REFERENCES = Path(__file__).parent / "references" / "explanations.npz"  # Captum's, by "<model> <method>"
SIDE = 40  # pixels of the images in there
OPTIONS = {"steps": 50, "window": 9, "stride": 5}  # of the maps in there
# The methods that Captum shares with us, and what ours are computed in to be compared. Where integrated gradients' path
# begins, neighbours are nearly equal, and rounding decides which of them max-pooling takes: in float32, PyTorch's own
# maps are up to 6 % of the largest value off those in float64.
PRECISIONS = {"grad-cam": np.float32, "integrated-gradients": np.float64, "occlusion": np.float32}


def phantoms(count: int, height: int, width: int | None = None) -> np.ndarray:
    """(count, height, width, 1) float32 in [0, 1]: normal and pneumonia in turn, their left where less is asked for."""
    drawn = np.stack([phantom.render(0, i, i % 2, height)[0] for i in range(count)])
    return drawn[:, :, :width, None].astype(np.float32) / 255


@cache
def variables(model: models.Classifier, height: int, width: int) -> dict:
    """None at zero or one, and some channels whose order batch normalization turns round."""
    images = jax.ShapeDtypeStruct((1, height, width, 1), np.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
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


@cache
def _compiled(method, model, **options):
    return jax.jit(partial(explain.METHODS[method], model, **options))


def own(
    method: str, model: models.Classifier, images: np.ndarray, precision=np.float32, key=None, **options
) -> np.ndarray:
    """Our maps at `variables`, by one of `explain.METHODS` with its options, computed in `precision`."""
    random = {} if key is None else {"key": key}
    with jax.enable_x64(precision == np.float64):
        given = jax.tree.map(precision, variables(model, *images.shape[1:3]))
        return np.asarray(_compiled(method, model, **options)(given, precision(images), **random))


def shared(name: str, images: np.ndarray, *, steps: int, window: int, stride: int) -> dict[str, np.ndarray]:
    """Our maps of the model called `name` by the methods that Captum shares with us, as `captum_maps.maps` are."""
    model = models.create(name)
    options = {
        "grad-cam": {"layer": explain.last_convolution(model)},
        "integrated-gradients": {"steps": steps},
        "occlusion": {"window": window, "stride": stride},
    }
    return {
        method: own(method, model, images, precision, **options[method]) for method, precision in PRECISIONS.items()
    }


def stored(name: str) -> dict[str, np.ndarray]:
    """Captum's maps of the model called `name`, by method."""
    with np.load(REFERENCES) as references:
        return {method: references[f"{name} {method}"] for method in PRECISIONS}


def assert_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Each map to a share of its largest value; and none may be even, for that to say anything."""
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max((1, 2))
    assert (np.ptp(theirs, (1, 2)) > 0.1 * largest).all()
    apart = np.abs(ours - theirs).max((1, 2)) / largest
    print(f"largest difference: {apart.max():.1e} of the largest value")
    assert apart.max() <= tolerance, apart
