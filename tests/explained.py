"""Networks and images for comparing explanation maps: made from seeds, and the same under every version of JAX."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pneumojax.data.sources import phantom
from pneumojax.inference import attribution
from pneumojax.models import classifier

REFERENCES = Path(__file__).parent / "references" / "explanations.npz"  # Captum's maps by "<model> <method>"
SIDE = 40  # pixels of the images of the reference maps
OPTIONS = {"steps": 50, "window": 9, "stride": 5}  # of the reference maps
# The methods that Captum has too, and the precision in which they are compared. Where the path of integrated gradients
# starts, neighbouring values are nearly equal, and rounding decides which of them max-pooling takes: PyTorch's own maps
# in float32 differ from those in float64 by up to 6 % of the largest value.
PRECISIONS = {"grad-cam": np.float32, "integrated-gradients": np.float64, "occlusion": np.float32}


def phantoms(count: int, height: int, width: int | None = None) -> np.ndarray:
    """Draw normal and pneumonia in turn, (count, height, width, 1) float32 in [0, 1]; a smaller width is cut off left.

    Args:
      count: how many.
      height: of the images.
      width: of the images, at most the height; None for square ones.
    """
    drawn = np.stack([phantom.render(0, i, i % 2, height)[0] for i in range(count)])
    return drawn[:, :, :width, None].astype(np.float32) / 255


@cache
def variables(model: classifier.Classifier, height: int, width: int) -> dict[str, Any]:
    """Draw variables of which none is zero or one; in some channels batch normalization reverses the order."""
    images = jax.ShapeDtypeStruct((1, height, width, 1), np.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(_drawn(rng, path[-1].key, leaf.shape)), shapes)


def _drawn(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
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
def _compiled(method: str, model: classifier.Classifier, **options: Any) -> Any:
    return jax.jit(partial(attribution.METHODS[method], model, **options))


def compute(
    method: str,
    model: classifier.Classifier,
    images: np.ndarray,
    precision: Any = np.float32,
    key: jax.Array | None = None,
    **options: Any,
) -> np.ndarray:
    """Compute PneumoJAX's maps at `variables`.

    Args:
      method: one of `attribution.METHODS`.
      model: the network.
      images: (n, height, width, 1) float in [0, 1].
      precision: np.float32 or np.float64.
      key: for methods that draw noise.
      options: of the method.
    """
    random = {} if key is None else {"key": key}
    with jax.enable_x64(precision == np.float64):
        # Flax makes modules hashable, which its stubs do not say.
        drawn = variables(model, *images.shape[1:3])  # pyright: ignore[reportArgumentType]
        compiled = _compiled(method, model, **options)  # pyright: ignore[reportArgumentType]
        return np.asarray(compiled(jax.tree.map(precision, drawn), precision(images), **random))


def compute_shared(name: str, images: np.ndarray, *, steps: int, window: int, stride: int) -> dict[str, np.ndarray]:
    """Compute PneumoJAX's maps of the model called `name` by Captum's methods, in the form of `captum_maps.maps`."""
    model = classifier.create(name)
    options = {
        "grad-cam": {"layer": attribution.last_convolution(model)},
        "integrated-gradients": {"steps": steps},
        "occlusion": {"window": window, "stride": stride},
    }
    return {
        method: compute(method, model, images, precision, **options[method]) for method, precision in PRECISIONS.items()
    }


def read_captums(name: str) -> dict[str, np.ndarray]:
    """Read Captum's maps of the model called `name`, by method."""
    with np.load(REFERENCES) as references:
        return {method: references[f"{name} {method}"] for method in PRECISIONS}


def assert_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compare each map to within a share of its largest value. No map may be uniform, or that would say little."""
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max((1, 2))
    assert (np.ptp(theirs, (1, 2)) > 0.1 * largest).all()
    apart = np.abs(ours - theirs).max((1, 2)) / largest
    print(f"largest difference: {apart.max():.1e} of the largest value")
    assert apart.max() <= tolerance, apart
