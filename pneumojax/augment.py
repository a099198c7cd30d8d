"""Random changes to training images: pure functions of (key, images), on the device that trains."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict


def augment(key: jax.Array, images: jax.Array, strength: ConfigDict) -> jax.Array:
    """A random affine map and a random change of contrast and brightness for each image.

    An image's randomness hangs on its place in the batch alone, so that the result is the same however the batch
    is divided among devices.

    Args:
      key: of the step.
      images: (batch, height, width, 1) float in [0, 1].
      strength: the config's `augment`: the largest `rotation` (degrees), `zoom`, `shift` (shares of the side),
        `contrast` (share), `brightness` (of the range). All zero leaves the images as they are.

    Returns:
      (batch, height, width, 1) float in [0, 1]; places that come from outside an image take its nearest edge.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    if any(strength[name] for name in ("rotation", "zoom", "shift")):
        images = jax.vmap(lambda k, image: _affine(k, image, strength))(keys, images)
    if any(strength[name] for name in ("contrast", "brightness")):
        images = jax.vmap(lambda k, image: _exposure(k, image, strength))(keys, images)
    return images


def _affine(key, image, strength):
    rotation, zoom, shift = jax.random.split(jax.random.fold_in(key, 0), 3)
    angle = jnp.deg2rad(strength.rotation) * jax.random.uniform(rotation, minval=-1, maxval=1)
    scale = 1 + strength.zoom * jax.random.uniform(zoom, minval=-1, maxval=1)
    height, width = image.shape[:2]
    side = jnp.array([height, width], image.dtype)
    offset = strength.shift * side * jax.random.uniform(shift, (2,), minval=-1, maxval=1)
    centre = (side - 1) / 2
    rows, columns = jnp.meshgrid(jnp.arange(height) - centre[0], jnp.arange(width) - centre[1], indexing="ij")
    source_rows = (jnp.cos(angle) * rows - jnp.sin(angle) * columns) / scale + centre[0] + offset[0]
    source_columns = (jnp.sin(angle) * rows + jnp.cos(angle) * columns) / scale + centre[1] + offset[1]
    return map_coordinates(image[..., 0], [source_rows, source_columns], order=1, mode="nearest")[..., None]


def _exposure(key, image, strength):
    contrast, brightness = jax.random.uniform(jax.random.fold_in(key, 1), (2,), minval=-1, maxval=1)
    mean = image.mean()
    changed = (image - mean) * (1 + strength.contrast * contrast) + mean + strength.brightness * brightness
    return jnp.clip(changed, 0, 1)
