"""A Gaussian blur on the device: a pure function of images."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def blurred(images: jax.Array, share: float) -> jax.Array:
    """Images blurred by a Gaussian whose standard deviation is a share of their height, edges repeated.

    Args:
      images: (..., height, width, channels) float.
      share: above 0.
    """
    deviation = share * images.shape[-3]
    reach = math.ceil(2.5 * deviation)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).astype(images.dtype)
    for axis in (images.ndim - 3, images.ndim - 2):
        wide = jnp.pad(images, [(reach, reach) if a == axis else (0, 0) for a in range(images.ndim)], mode="edge")
        parts = (jax.lax.slice_in_dim(wide, i, i + images.shape[axis], axis=axis) for i in range(len(weights)))
        images = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return images
