"""Random changes to training images: pure functions of (key, images), on the device that trains."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

from pneumojax.blur import blurred

AFFINE = ("rotation", "zoom", "stretch", "shift", "flip")
EXPOSURE = ("contrast", "brightness", "gamma")
DETAIL = ("sharpness", "noise")
FINE = 0.01  # of the height: standard deviation of the blur that fine detail is what it takes


def augment(key: jax.Array, images: jax.Array, strength: ConfigDict) -> jax.Array:
    """A random affine map, then random changes of the intensities and of fine detail, for each image.

    An image's randomness hangs on its place in the batch alone, so that the result is the same however the batch
    is divided among devices.

    Args:
      key: of the step.
      images: (batch, height, width, 1) float in [0, 1].
      strength: the config's `augment`, each the largest of its kind: `rotation` (degrees); `zoom`, `stretch` of each
        axis on its own, and `shift` (shares of the side); `flip` (the share of images that are mirrored); `contrast`
        (share); `brightness` (of the range); `gamma` (share, of the intensities' exponent); `sharpness` (share of
        what a blur takes away that is taken away, or added); `noise` (standard deviation, of the range). All zero
        leaves the images as they are.

    Returns:
      (batch, height, width, 1) float in [0, 1]; places that come from outside an image take its nearest edge.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    for kinds, change in ((AFFINE, _affine), (EXPOSURE, _exposure), (DETAIL, _detail)):
        if any(strength[name] for name in kinds):
            images = jax.vmap(change, (0, 0, None))(keys, images, strength)
    return images


def _affine(key, image, strength):
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
    # The axes that are stretched are the picture's, along which preparing squashed it to a square.
    source_rows = (jnp.cos(angle) * rows - jnp.sin(angle) * columns) / scales[0] + centre[0] + offset[0]
    source_columns = mirror * (jnp.sin(angle) * rows + jnp.cos(angle) * columns) / scales[1] + centre[1] + offset[1]
    return map_coordinates(image[..., 0], [source_rows, source_columns], order=1, mode="nearest")[..., None]


def _exposure(key, image, strength):
    key = jax.random.fold_in(key, 1)
    contrast, brightness = jax.random.uniform(key, (2,), minval=-1, maxval=1)
    mean = image.mean()
    changed = (image - mean) * (1 + strength.contrast * contrast) + mean + strength.brightness * brightness
    changed = jnp.clip(changed, 0, 1)
    if strength.gamma:
        # As likely to darken by a factor in the exponent as to brighten by it.
        exponent = jnp.log1p(strength.gamma) * jax.random.uniform(jax.random.fold_in(key, 1), minval=-1, maxval=1)
        changed = changed ** jnp.exp(exponent)
    return changed


def _detail(key, image, strength):
    sharpness, deviation, noise = jax.random.split(jax.random.fold_in(key, 2), 3)
    if strength.sharpness:
        taken = strength.sharpness * jax.random.uniform(sharpness, minval=-1, maxval=1)
        image = image + taken * (blurred(image, FINE) - image)
    if strength.noise:
        deviation = strength.noise * jax.random.uniform(deviation)
        image = image + deviation * jax.random.normal(noise, image.shape)
    return jnp.clip(image, 0, 1)
