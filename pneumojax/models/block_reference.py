"""The block, layer by layer: convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2.

This is the definition, which JAX differentiates. block_fused.py computes the same faster; tests compare the two.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, UInt32

EPSILON = 1e-3  # Keras's


class Parameters(NamedTuple):
    """The trainable parameters of a block."""

    kernel: Float[Array, "3 3 channels_in channels"]
    bias: Float[Array, " channels"]
    scale: Float[Array, " channels"]
    offset: Float[Array, " channels"]


class Statistics(NamedTuple):
    """The statistics of batch normalization, in float32 at any precision of the block."""

    mean: Float[Array, " channels"]
    var: Float[Array, " channels"]


class Dropout(NamedTuple):
    """The choice of the activations that are dropped.

    Attributes:
      seeds: seeds of the random bits of each row of each image. Unused, and empty, where the rate is 0.
      rate: share of the activations that is dropped, in [0, 1).
    """

    seeds: UInt32[Array | np.ndarray, "n height 2"]
    rate: float

    @property
    def threshold(self) -> np.uint32:
        """An activation whose random bits are below this is dropped."""
        return np.uint32(round(self.rate * 2**32))

    @property
    def gain(self) -> np.float32:
        """The factor of the activations that are kept."""
        return np.float32(1 / (1 - self.rate))


NOTHING_DROPPED = Dropout(np.zeros((0, 0, 2), np.uint32), 0.0)


def dropout(key: Key[Array, ""], rate: float, shape: tuple[int, int, int, int]) -> Dropout:
    """Draw which activations of shape (n, height, width, channels) to drop: a share of `rate`, in [0, 1).

    The seeds of a row depend only on its place in the batch, not on how the batch is divided over devices.
    """
    return Dropout(jax.random.bits(key, (*shape[:2], 2), jnp.uint32), rate)


def random_bits(
    seeds: UInt32[Array | np.ndarray, "n height 2"], width: int, channels: int
) -> UInt32[Array, "n height {width} {channels}"]:
    """Make 32 random bits for each activation.

    Drawing each by Threefry would take much of a training step on a CPU. So Threefry draws the seeds of the rows only.
    Each row's seeds and the place in the row are hashed: a Weyl sequence through two rounds of multiplying and
    shifting, by the constants of lowbias32 (Wellons, "Hash Prospector"). When one bit of the input flips, each bit of
    the output flips in half of the cases.
    """
    first, second = seeds[:, :, None, None, 0], seeds[:, :, None, None, 1]
    place = lax.iota(jnp.uint32, width * channels).reshape(width, channels)
    bits = place * np.uint32(0x9E3779B9) + first
    bits = ((bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)) ^ second
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def block_reference(
    x: Float[Array, "n height width channels_in"],
    parameters: Parameters,
    dropped: Dropout,
    statistics: Statistics | None,
) -> tuple[dict[str, Float[Array, "n _ _ channels"]], Statistics]:
    """Compute the block, layer by layer, normalized by `statistics` or, where that is None, by the batch's own.

    Returns:
      The outputs of the layers by name, "max_pool" last; and the statistics that were used.
    """
    rectified = rectify(x, parameters.kernel, parameters.bias)
    a = drop(rectified, dropped)
    if statistics is None:
        wide = widened(a)
        mean = wide.mean((0, 1, 2))
        statistics = Statistics(mean, jnp.maximum(jnp.square(wide).mean((0, 1, 2)) - jnp.square(mean), 0))
    y = normalize(a, parameters, statistics)
    return {"conv": rectified, "dropout": a, "batch_norm": y, "max_pool": max_pool(y)}, statistics


def rectify(
    x: Float[Array, "n height width channels_in"],
    kernel: Float[Array, "3 3 channels_in channels"],
    bias: Float[Array, " channels"],
) -> Float[Array, "n height width channels"]:
    """Compute the convolution with 'same' padding, then ReLU."""
    return jax.nn.relu(convolve(x, kernel) + bias.astype(x.dtype))


def normalize(
    a: Float[Array, "n height width channels"], parameters: Parameters, statistics: Statistics
) -> Float[Array, "n height width channels"]:
    """Normalize by the `statistics`."""
    scale, shift = affine(parameters, statistics)
    return (a * scale + shift).astype(a.dtype)


def max_pool(images: Float[Array, "n height width channels"]) -> Float[Array, "n (height+1)//2 (width+1)//2 channels"]:
    """Compute the 2x2 max-pooling with stride 2 and 'same' padding."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def convolve(
    x: Float[Array, "n height width channels_in"], kernel: Float[Array, "3 3 channels_in channels"]
) -> Float[Array, "n height width channels"]:
    """Compute the convolution with 'same' padding, in x's precision."""
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=layouts)


def drop(a: Float[Array, "n height width channels"], dropped: Dropout) -> Float[Array, "n height width channels"]:
    """Set the dropped activations to 0, and divide the others by the share that is kept."""
    if not dropped.rate:
        return a
    bits = random_bits(dropped.seeds, a.shape[2], a.shape[3])
    return jnp.where(bits >= dropped.threshold, a * dropped.gain.astype(a.dtype), 0)


def affine(
    parameters: Parameters, statistics: Statistics
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Return batch normalization as scale and shift: y = scale * a + shift."""
    scale = parameters.scale * lax.rsqrt(statistics.var + EPSILON)
    return scale, parameters.offset - statistics.mean * scale


def widened(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `a` in at least float32, in which it can be summed."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))
