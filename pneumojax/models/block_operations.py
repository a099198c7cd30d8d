"""The four operations that block_fused.py is made of.

Each is written for XLA here, for any device, and in C++ for CPUs (kernels/block.cc). `kernels.lowered` chooses between
the two where the computation is lowered.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8, UInt32

from pneumojax.models import kernels
from pneumojax.models.block_reference import NOTHING_DROPPED, Dropout, Parameters, convolve, drop, rectify, widened

Shape = tuple[int, ...]
Images = Float[Array, "n height width channels_in"]
Kernel = Float[Array, "3 3 channels_in channels"]
Channels = Float[Array, " channels"]
Seeds = UInt32[Array | np.ndarray, "_ _ 2"]
Activations = Float[Array, "n height width channels"]
Sums = Float[Array, "n 2 channels"]
Slopes = Float[Array, "4 channels"]
KeptActivations = Float[Array, "_ height width channels"]  # empty where `keeps_activations` is false
Pooled = Float[Array, "n (height+1)//2 (width+1)//2 channels"]


def infer(x: Images, parameters: Parameters, scale: Channels, shift: Channels) -> Pooled:
    """Compute the block's output, scale * a + shift of each activation `a` that max-pool chooses."""

    def plain(x: Images, kernel: Kernel, bias: Channels, scale: Channels, shift: Channels) -> tuple[Pooled]:
        extremes, _ = choose(rectify(x, kernel, bias), jnp.sign(scale))
        return ((extremes * scale + shift).astype(x.dtype),)

    def shapes(x: jax.Array, kernel: jax.Array, *_: kernels.Operand) -> tuple[Shape]:
        return (_pooled_shape(x, kernel),)

    kernel = kernels.Kernel("infer", "n----", "n", shapes, {})
    return kernels.lowered(plain, kernel, x, parameters.kernel, parameters.bias, scale, shift)[0]


def forward(x: Images, parameters: Parameters, dropped: Dropout) -> tuple[KeptActivations, Pooled, Sums]:
    """Compute the activations, those of them that max-pool will choose, and their sums.

    Returns:
      The activations after ReLU and dropout; empty (n = 0) where it is cheaper to compute them again.
      The activations that max-pool will choose, one for each window.
      The sums of the activations and of their squares over each image.
    """
    attributes = {"threshold": dropped.threshold, "gain": dropped.gain}

    def plain(
        x: Images, kernel: Kernel, bias: Channels, sign: Channels, seeds: Seeds
    ) -> tuple[KeptActivations, Pooled, Sums]:
        a = drop(rectify(x, kernel, bias), dropped._replace(seeds=seeds))
        wide = widened(a)
        sums = jnp.stack([wide.sum((1, 2)), jnp.square(wide).sum((1, 2))], 1)
        return a if keeps_activations(x) else a[:0], choose(a, sign)[0], sums

    def shapes(x: jax.Array, kernel: jax.Array, *_: kernels.Operand) -> tuple[Shape, Shape, Shape]:
        n, height, width, channels = *x.shape[:3], kernel.shape[3]
        kept = n if keeps_activations(x) else 0
        return (kept, height, width, channels), _pooled_shape(x, kernel), (n, 2, channels)

    kernel = kernels.Kernel("forward", "n---n", "nnn", shapes, attributes)
    sign = jnp.sign(parameters.scale)
    a, extremes, sums = kernels.lowered(plain, kernel, x, parameters.kernel, parameters.bias, sign, dropped.seeds)
    return a, extremes, sums


def activations(x: Images, parameters: Parameters) -> Activations:
    """Compute `block_reference.rectify`, fast and not differentiable."""
    if not keeps_activations(x):
        return rectify(x, parameters.kernel, parameters.bias)
    return forward(x, parameters, NOTHING_DROPPED)[0]


def backward(
    x: Images, parameters: Parameters, dropped: Dropout, a: KeptActivations, gradient: Pooled, slopes: Slopes
) -> tuple[Images, Kernel, Channels]:
    """Compute the gradients of x, the kernel and the bias, from that of the block's output.

    `a` is what `forward` returned for the same x. `slopes` are the sign of the scale; then scale, constant and linear,
    by which the gradient of `a` is scale * (gradient, where chosen) + constant + linear * a.
    """
    attributes = {"threshold": dropped.threshold, "gain": dropped.gain}

    def plain(
        x: Images, kernel: Kernel, bias: Channels, seeds: Seeds, a: KeptActivations, gradient: Pooled, slopes: Slopes
    ) -> tuple[Images, Kernel, Channels]:
        return _backward_plain(x, kernel, bias, dropped._replace(seeds=seeds), a, gradient, slopes)

    def shapes(x: jax.Array, kernel: jax.Array, bias: jax.Array, *_: kernels.Operand) -> tuple[Shape, Shape, Shape]:
        return x.shape if keeps_activations(x) else (0, *x.shape[1:]), kernel.shape, bias.shape

    def without_x(*arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.zeros((0, *x.shape[1:]), x.dtype), *plain(*arrays)[1:]

    arrays = (x, parameters.kernel, parameters.bias, dropped.seeds, a, gradient, slopes)
    kernel = kernels.Kernel("backward", "n--nnn-", "n--", shapes, attributes)
    if keeps_activations(x):
        of_x, of_kernel, of_bias = kernels.lowered(plain, kernel, *arrays)
    else:  # x is the images, whose gradient is seldom used: XLA then leaves it out
        of_x, (_, of_kernel, of_bias) = plain(*arrays)[0], kernels.lowered(without_x, kernel, *arrays)
    return of_x, of_kernel, of_bias


def saliency(x: Images, parameters: Parameters, a: KeptActivations, gradient: Pooled, slopes: Slopes) -> Images:
    """Compute the gradient of x alone, as `backward` does, without dropout."""

    def plain(
        x: Images, kernel: Kernel, bias: Channels, a: KeptActivations, gradient: Pooled, slopes: Slopes
    ) -> tuple[Images]:
        return (_backward_plain(x, kernel, bias, NOTHING_DROPPED, a, gradient, slopes)[0],)

    def shapes(x: jax.Array, *_: kernels.Operand) -> tuple[Shape]:
        return (x.shape,)

    kernel = kernels.Kernel("saliency", "n--nn-", "n", shapes, {})
    return kernels.lowered(plain, kernel, x, parameters.kernel, parameters.bias, a, gradient, slopes)[0]


def _backward_plain(
    x: Images, kernel: Kernel, bias: Channels, dropped: Dropout, a: KeptActivations, gradient: Pooled, slopes: Slopes
) -> tuple[Images, Kernel, Channels]:
    a = a if keeps_activations(x) else drop(rectify(x, kernel, bias), dropped)
    sign, scale, constant, linear = slopes
    of_a = spread(gradient * scale, choose(a, sign)[1], a.shape) + constant + linear * a
    of_z = jnp.where(a == 0, 0, of_a * dropped.gain)  # where ReLU or dropout passed nothing on, no gradient returns
    _, pull = jax.vjp(convolve, x, kernel)
    of_x, of_kernel = pull(of_z.astype(x.dtype))
    return of_x, of_kernel, of_z.sum((0, 1, 2))


def keeps_activations(x: jax.Array) -> bool:
    """Tell whether activations are kept: with one input channel, computing them again is cheaper than memory."""
    return x.shape[3] > 1


def _pooled_shape(x: jax.Array, kernel: jax.Array) -> Shape:
    return x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), kernel.shape[3]


def choose(
    a: Activations, sign: Float[Array, "*sign"]
) -> tuple[Pooled, UInt8[Array, "n (height+1)//2 (width+1)//2 channels"]]:
    """Choose in each 2x2 window the first of the largest of sign * a.

    Returns:
      The chosen activations, and their corners from 0 to 3 in row order.
    """
    height, width = a.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    keys = jnp.pad(widened(a) * sign, padding, constant_values=-jnp.inf)
    corners = [keys[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    largest = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    chosen = jnp.where(corners[2] == largest, 2, 3)
    for number in (1, 0):
        chosen = jnp.where(corners[number] == largest, number, chosen)
    first = (sign == 0) & ~jnp.isnan(largest)  # all are equal; a NaN is passed on
    return jnp.where(first, a[:, ::2, ::2], (largest * sign).astype(a.dtype)), chosen.astype(jnp.uint8)


def spread(
    values: Float[Array, "n rows columns channels"], chosen: UInt8[Array, "n rows columns channels"], shape: Shape
) -> Float[Array, "n _ _ channels"]:
    """Put the values at the chosen corners of their windows, and zero elsewhere: the transpose of `choose`.

    The result has the given shape, (n, height, width, channels).
    """
    n, rows, columns, channels = chosen.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    windows = jnp.where(chosen[:, :, None, :, None, :] == corner, values[:, :, None, :, None, :], 0)
    return windows.reshape(n, 2 * rows, 2 * columns, channels)[:, : shape[1], : shape[2]]
