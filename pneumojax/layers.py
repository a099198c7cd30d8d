"""The block, as it is written down: convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2.

JAX differentiates it; fused.py computes the same faster, and is held to it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EPSILON = 1e-3  # Keras's


class Parameters(NamedTuple):
    """Of a block: kernel (3, 3, channels in, channels); the others (channels,)."""

    kernel: jax.Array
    bias: jax.Array
    scale: jax.Array
    offset: jax.Array


class Statistics(NamedTuple):
    """Of batch normalization, (channels,) float32."""

    mean: jax.Array
    var: jax.Array


class Dropout(NamedTuple):
    """What is dropped: `rate` of the values. `seeds`, (n, height, 2) uint32, of each row's random bits decide which."""

    seeds: jax.Array
    rate: float

    @property
    def threshold(self) -> np.uint32:
        return np.uint32(round(self.rate * 2**32))

    @property
    def gain(self) -> np.float32:
        return np.float32(1 / (1 - self.rate))


NOTHING_DROPPED = Dropout(np.zeros((0, 0, 2), np.uint32), 0.0)


def dropout(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Dropout:
    """What to drop, at `rate` in [0, 1), of activations of `shape`, (n, height, width, channels).

    A row's seeds depend on its place in the batch alone, not on how that is divided over devices.
    """
    return Dropout(jax.random.bits(key, (*shape[:2], 2), jnp.uint32), rate)


def random_bits(seeds: jax.Array, width: int, channels: int) -> jax.Array:
    """32 random bits a value: (n, height, 2) uint32 -> (n, height, width, channels) uint32.

    Threefry for each would be much of a training step on a CPU. It makes the seeds; they and the place in the row
    are hashed: a Weyl sequence through two rounds of multiplying and shifting, by the constants of lowbias32 (Wellons,
    "Hash Prospector"), which turn over each bit in half of the cases when one bit of the input turns over.
    """
    first, second = seeds[:, :, None, None, 0], seeds[:, :, None, None, 1]
    place = lax.iota(jnp.uint32, width * channels).reshape(width, channels)
    bits = place * np.uint32(0x9E3779B9) + first
    bits = ((bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)) ^ second
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def block_reference(
    x: jax.Array, parameters: Parameters, dropped: Dropout, statistics: Statistics | None
) -> tuple[dict[str, jax.Array], Statistics]:
    """The block, layer by layer.

    Args:
      x: (n, height, width, channels in) float.
      parameters: of the block.
      dropped: by dropout.
      statistics: to normalize by; None: the batch's own.

    Returns:
      Each layer's output, the last (n, ceil(height / 2), ceil(width / 2), channels); the statistics normalized by.
    """
    rectified = rectify(x, parameters.kernel, parameters.bias)
    a = drop(rectified, dropped)
    if statistics is None:
        wide = widened(a)
        mean = wide.mean((0, 1, 2))
        statistics = Statistics(mean, jnp.maximum(jnp.square(wide).mean((0, 1, 2)) - jnp.square(mean), 0))
    y = normalize(a, parameters, statistics)
    return {"conv": rectified, "dropout": a, "batch_norm": y, "max_pool": max_pool(y)}, statistics


def rectify(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """ReLU of the convolution, 'same' padding: (n, h, w, channels in) -> (n, h, w, channels)."""
    return jax.nn.relu(convolve(x, kernel) + bias.astype(x.dtype))


def normalize(a: jax.Array, parameters: Parameters, statistics: Statistics) -> jax.Array:
    """Batch normalization by `statistics`: (n, h, w, channels), as is what it gives."""
    scale, shift = affine(parameters, statistics)
    return (a * scale + shift).astype(a.dtype)


def max_pool(images: jax.Array) -> jax.Array:
    """2x2 max-pooling, stride 2, 'same' padding: (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'Same' padding, in x's precision: (n, h, w, in), (3, 3, in, channels) -> (n, h, w, channels)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=numbers)


def drop(a: jax.Array, dropped: Dropout) -> jax.Array:
    """a, (n, h, w, channels): what is dropped is 0, the rest divided by the share that is kept."""
    if not dropped.rate:
        return a
    return jnp.where(random_bits(dropped.seeds, *a.shape[2:]) >= dropped.threshold, a * dropped.gain.astype(a.dtype), 0)


def affine(parameters: Parameters, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """Batch normalization as (scale, shift), each (channels,), which activations are multiplied by and moved by."""
    scale = parameters.scale * lax.rsqrt(statistics.var + EPSILON)
    return scale, parameters.offset - statistics.mean * scale


def widened(a: jax.Array) -> jax.Array:
    """a as float32 at least, to be summed."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))
