"""Histogram equalization: how a film was exposed and windowed should not matter."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

LEVELS = 256  # grey levels that are counted


def equalized(images: Float[Array, "batch height width 1"]) -> Float32[Array, "batch height width 1"]:
    """Replace each grey level by the share of its image's pixels below it, plus half of those at it.

    A monotone change of an image's levels, such as another contrast or gamma, changes nothing, as long as it merges no
    levels. Between levels, shares are interpolated. The gradient by an image takes its histogram as fixed.

    Args:
      images: in [0, 1].
    """
    batch, pixels = images.shape[0], images.shape[1] * images.shape[2]
    scaled = (LEVELS - 1) * images.astype(jnp.float32).reshape(batch, pixels)
    nearest = jnp.clip(jnp.rint(scaled), 0, LEVELS - 1).astype(jnp.int32)
    counts = jax.vmap(lambda levels: jnp.zeros(LEVELS).at[levels].add(1, mode="promise_in_bounds"))(nearest)
    shares = (jnp.cumsum(counts, axis=1) - counts / 2) / pixels
    lower = jnp.clip(jnp.floor(scaled), 0, LEVELS - 2).astype(jnp.int32)
    below, above = (jnp.take_along_axis(shares, at, axis=1, mode="promise_in_bounds") for at in (lower, lower + 1))
    return (below + (scaled - lower) * (above - below)).reshape(images.shape)
