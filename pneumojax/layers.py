"""The block's operations whose automatic gradient is slow somewhere, with exact gradients that are not.

Each has its plain version beside it; the tests hold one against the other.
"""

import jax
import jax.numpy as jnp
from jax import lax


def max_pool_reference(images: jax.Array) -> jax.Array:
    """2x2 max-pooling, stride 2, 'same' padding: (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


@jax.custom_vjp
def max_pool(images: jax.Array) -> jax.Array:
    """`max_pool_reference` with a gradient that XLA compiles to one fused pass.

    XLA's own gradient (select-and-scatter) takes longer on a CPU than the convolutions beside it. Where several
    inputs of a window are equally large, the first in row order receives the gradient, as in XLA and Keras.

    Args:
      images: (n, h, w, c) float.

    Returns:
      (n, ceil(h/2), ceil(w/2), c), the dtype of `images`.
    """
    return max_pool_reference(images)


def _max_pool_forward(images):
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    corners = [padded[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    largest = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    winner = jnp.where(
        corners[0] == largest,
        0,
        jnp.where(corners[1] == largest, 1, jnp.where(corners[2] == largest, 2, 3)),
    ).astype(jnp.uint8)
    # An empty array carries the input's height and width to the backward pass at no cost.
    return largest, (winner, jnp.empty((height, width, 0)))


def _max_pool_backward(residuals, gradient):
    winner, extent = residuals
    n, rows, columns, channels = winner.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(winner[:, :, None, :, None, :] == corner, gradient[:, :, None, :, None, :], 0)
    spread = spread.reshape(n, 2 * rows, 2 * columns, channels)
    return (spread[:, : extent.shape[0], : extent.shape[1]],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
