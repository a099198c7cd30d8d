"""Random changes of training images, as pure functions of key and images, on the device that trains."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

AFFINE = ("rotation", "zoom", "stretch", "shift", "flip")
EXPOSURE = ("contrast", "brightness", "gamma", "shading")
DETAIL = ("sharpness", "noise")
FINE = 0.01  # share of the height: standard deviation of the blur that removes fine detail

Image = Float[Array, "height width 1"]


def augment(
    key: Key[Array, ""], images: Float[Array, "batch height width 1"], strength: ConfigDict
) -> Float[Array, "batch height width 1"]:
    """Change each image, in [0, 1], by a random affine map, then its intensities, then its fine detail.

    The changes depend only on the key and the image's place in the batch. So the result is the same however the batch
    is divided over devices. `strength` is the config's `augment`: the largest change of each kind, in the units that
    configs/base.py names; zero turns a kind off. A place from outside an image takes the value of the nearest edge.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    for kinds, change in ((AFFINE, _affine), (EXPOSURE, _exposure), (DETAIL, _detail)):
        if any(strength[name] for name in kinds):
            images = jax.vmap(partial(change, strength=strength))(keys, images)
    return images


def _affine(key: Key[Array, ""], image: Image, strength: ConfigDict) -> Image:
    rotation, zoom, shift, stretch, flip = jax.random.split(jax.random.fold_in(key, 0), 5)
    angle = jnp.deg2rad(strength.rotation) * jax.random.uniform(rotation, minval=-1, maxval=1)
    scale = 1 + strength.zoom * jax.random.uniform(zoom, minval=-1, maxval=1)
    scales = scale * (1 + strength.stretch * jax.random.uniform(stretch, (2,), minval=-1, maxval=1))
    mirror = jnp.where(jax.random.uniform(flip) < strength.flip, -1, 1)
    height, width = image.shape[:2]
    side = jnp.array([height, width], image.dtype)
    offset = strength.shift * side * jax.random.uniform(shift, (2,), minval=-1, maxval=1)
    centre = (side - 1) / 2
    rows, columns = jnp.meshgrid(jnp.arange(height) - centre[0], jnp.arange(width) - centre[1], indexing="ij")
    # The stretched axes are those of the original picture, along which it was squashed to a square.
    source_rows = (jnp.cos(angle) * rows - jnp.sin(angle) * columns) / scales[0] + centre[0] + offset[0]
    source_columns = mirror * (jnp.sin(angle) * rows + jnp.cos(angle) * columns) / scales[1] + centre[1] + offset[1]
    return map_coordinates(image[..., 0], [source_rows, source_columns], order=1, mode="nearest")[..., None]


def _exposure(key: Key[Array, ""], image: Image, strength: ConfigDict) -> Image:
    key = jax.random.fold_in(key, 1)
    contrast, brightness = jax.random.uniform(key, (2,), minval=-1, maxval=1)
    mean = image.mean()
    changed = (image - mean) * (1 + strength.contrast * contrast) + mean + strength.brightness * brightness
    changed = jnp.clip(changed, 0, 1)
    if strength.gamma:
        # Uniform in the logarithm, so that darkening and brightening by the same factor are equally likely.
        exponent = jnp.log1p(strength.gamma) * jax.random.uniform(jax.random.fold_in(key, 1), minval=-1, maxval=1)
        changed = changed ** jnp.exp(exponent)
    if strength.shading:
        field = _shading(jax.random.fold_in(key, 2), image.shape, strength.shading)
        changed = jnp.clip(changed * jnp.exp(field), 0, 1)
    return changed


def _shading(key: Key[Array, ""], shape: tuple[int, ...], strength: float) -> Image:
    """Draw a smooth field with up to `strength` as its standard deviation, as of uneven exposure."""
    amount, places = jax.random.split(key)
    corners = strength * jax.random.uniform(amount) * jax.random.normal(places, (3, 3, 1))
    return jax.image.resize(corners, shape, "cubic")


def _detail(key: Key[Array, ""], image: Image, strength: ConfigDict) -> Image:
    sharpness, deviation, noise = jax.random.split(jax.random.fold_in(key, 2), 3)
    if strength.sharpness:
        removed = strength.sharpness * jax.random.uniform(sharpness, minval=-1, maxval=1)
        image = image + removed * (blurred(image, FINE) - image)
    if strength.noise:
        scale = strength.noise * jax.random.uniform(deviation)
        image = image + scale * jax.random.normal(noise, image.shape)
    return jnp.clip(image, 0, 1)


def blurred(
    images: Float[Array, "*batch height width channels"], share: float
) -> Float[Array, "*batch height width channels"]:
    """Blur images by a Gaussian with the standard deviation `share` of the height, above 0, with edges repeated."""
    deviation = share * images.shape[-3]
    reach = math.ceil(2.5 * deviation)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).astype(images.dtype)
    for axis in (images.ndim - 3, images.ndim - 2):
        margins = [(reach, reach) if a == axis else (0, 0) for a in range(images.ndim)]
        wide = jnp.pad(images, margins, mode="edge")
        parts = (jax.lax.slice_in_dim(wide, i, i + images.shape[axis], axis=axis) for i in range(len(weights)))
        images = jnp.asarray(sum(weight * part for weight, part in zip(weights, parts, strict=True)))
    return images
