"""The block of layers.py in fewer passes over memory, which is where a CPU's time goes, with a gradient by hand.

- Max-pool chooses among values that an affine map per channel leaves in order, or turns round. So the choice is made
  before the map, which then has a quarter of the values to do.
- The gradient needs the input, the activations a before the normalization and the choice, which a tells again; of the
  sums in the gradient of batch normalization, all terms are zero but for the values that were chosen.

Second derivatives, and forward mode, are for `layers.block_reference` alone.

What they are made of, `_forward`, `_backward`, `_saliency` and `_infer`, is written for XLA here, for any device, and
in C++ for CPUs (kernels/block.cc); `kernels.lowered` decides which of the two it is, where the computation is lowered.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from pneumojax import kernels
from pneumojax.layers import (
    EPSILON,
    NOTHING_DROPPED,
    Dropout,
    Parameters,
    Statistics,
    affine,
    convolve,
    drop,
    rectify,
    widened,
)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def block_train(x: jax.Array, parameters: Parameters, seeds: jax.Array, rate: float) -> tuple[jax.Array, Statistics]:
    """`layers.block_reference`'s last layer and statistics, with the batch's own statistics.

    No gradient flows back through the statistics that are returned.

    Args:
      x: (n, height, width, channels in) float.
      parameters: of the block.
      seeds, rate: of `Dropout`.

    Raises:
      ValueError: at a rate above 0, `seeds` are not (n, height, 2).
    """
    return _block_train_forward(x, parameters, seeds, rate)[0]


def _block_train_forward(x, parameters, seeds, rate):
    if rate and seeds.shape != (*x.shape[:2], 2):
        raise ValueError(f"seeds of shape {seeds.shape} are not of each row of images of shape {x.shape}")
    dropped = Dropout(seeds, rate)
    a, extremes, sums = _forward(x, parameters, dropped)
    mean, square = sums.sum(0) / (x.shape[0] * x.shape[1] * x.shape[2])
    statistics = Statistics(mean, jnp.maximum(square - jnp.square(mean), 0))
    scale, shift = affine(parameters, statistics)
    y = (extremes * scale + shift).astype(x.dtype)
    return (y, statistics), (x, parameters, seeds, a, extremes, statistics)


def _block_train_backward(rate, residuals, cotangents):
    x, parameters, seeds, a, extremes, statistics = residuals
    gradient, _ = cotangents
    inverse = lax.rsqrt(statistics.var + EPSILON)
    of_offset = widened(gradient).sum((0, 1, 2))
    of_scale = (widened(gradient) * (extremes - statistics.mean)).sum((0, 1, 2)) * inverse
    scale = parameters.scale * inverse
    count = x.shape[0] * x.shape[1] * x.shape[2]
    linear = -scale * inverse * of_scale / count
    constant = -scale * of_offset / count - linear * statistics.mean
    slopes = jnp.stack([jnp.sign(parameters.scale), scale, constant, linear])
    dx, dw, db = _backward(x, parameters, Dropout(seeds, rate), a, gradient, slopes)
    return dx, Parameters(dw, db, of_scale, of_offset), None


block_train.defvjp(_block_train_forward, _block_train_backward)


@jax.custom_vjp
def block_infer(x: jax.Array, parameters: Parameters, statistics: Statistics) -> jax.Array:
    """`layers.block_reference`'s last layer, normalized by `statistics`, without dropout.

    Args:
      x: (n, height, width, channels in) float.
      parameters, statistics: of the block.
    """
    return _infer(x, parameters, *affine(parameters, statistics))


@jax.custom_vjp
def pool(images: jax.Array) -> jax.Array:
    """`layers.max_pool`, with a gradient that is fast on CPUs."""
    return _choose(images, jnp.ones(()))[0]


def _pool_forward(images):
    return pool(images), images


def _pool_backward(images, gradient):
    return (_spread(gradient, _choose(images, jnp.ones(()))[1], images.shape),)


pool.defvjp(_pool_forward, _pool_backward)


def activations(x: jax.Array, parameters: Parameters) -> jax.Array:
    """`layers.rectify` of x, fast, and not to be differentiated: (n, h, w, channels in) -> (n, h, w, channels)."""
    if not _keeps(x):
        return rectify(x, parameters.kernel, parameters.bias)
    return _forward(x, parameters, NOTHING_DROPPED)[0]


def _block_infer_forward(*given):
    # Explanations differentiate by images alone, which is half the work.
    learnt = any(leaf.perturbed for leaf in jax.tree.leaves(given[1:]))
    x, parameters, statistics = jax.tree.map(lambda leaf: leaf.value, given)
    a, extremes, _ = _forward(x, parameters, NOTHING_DROPPED)
    scale, shift = affine(parameters, statistics)
    y = (extremes * scale + shift).astype(x.dtype)
    return y, (x, parameters, statistics, a, extremes if learnt else None)


def _block_infer_backward(residuals, gradient):
    x, parameters, statistics, a, extremes = residuals
    if extremes is None:
        scale, _ = affine(parameters, statistics)
        return _saliency(x, parameters, a, gradient, _slopes(scale)), None, None
    of_shift = widened(gradient).sum((0, 1, 2))
    of_slope = (widened(gradient) * extremes).sum((0, 1, 2))
    (scale, _), pull = jax.vjp(affine, parameters, statistics)
    dx, dw, db = _backward(x, parameters, NOTHING_DROPPED, a, gradient, _slopes(scale))
    of_parameters, of_statistics = pull((of_slope, of_shift))
    return dx, of_parameters._replace(kernel=dw, bias=db), of_statistics


block_infer.defvjp(_block_infer_forward, _block_infer_backward, symbolic_zeros=True)


def _slopes(scale):
    """`_backward`'s, where the statistics do not hang on the activations."""
    return jnp.stack([jnp.sign(scale), scale, jnp.zeros_like(scale), jnp.zeros_like(scale)])


# --------------------------------------------------------------------------------------------- what they are made of


def _infer(x, parameters, scale, shift):
    """y, (n, rows, columns, channels): the affine map of what max-pool chooses of the activations."""

    def plain(x, kernel, bias, scale, shift):
        extremes, _ = _choose(rectify(x, kernel, bias), jnp.sign(scale))
        return ((extremes * scale + shift).astype(x.dtype),)

    def shapes(x, kernel, *_):
        return (_pooled(x, kernel),)

    kernel = kernels.Kernel("infer", "n----", "n", shapes, {})
    return kernels.lowered(plain, kernel, x, parameters.kernel, parameters.bias, scale, shift)[0]


def _forward(x, parameters, dropped):
    """Activations, what max-pool will choose of them, and their sums.

    Returns:
      a: (n, height, width, channels) after ReLU and dropout; empty where it is cheaper to compute them anew.
      extremes: (n, rows, columns, channels) of a.
      sums: (n, 2, channels) float32, of a and of its square over each image.
    """
    attributes = {"threshold": dropped.threshold, "gain": dropped.gain}

    def plain(x, kernel, bias, sign, seeds):
        a = drop(rectify(x, kernel, bias), dropped._replace(seeds=seeds))
        wide = widened(a)
        sums = jnp.stack([wide.sum((1, 2)), jnp.square(wide).sum((1, 2))], 1)
        return a if _keeps(x) else a[:0], _choose(a, sign)[0], sums

    def shapes(x, kernel, *_):
        n, height, width, channels = *x.shape[:3], kernel.shape[3]
        return (n if _keeps(x) else 0, height, width, channels), _pooled(x, kernel), (n, 2, channels)

    kernel = kernels.Kernel("forward", "n---n", "nnn", shapes, attributes)
    sign = jnp.sign(parameters.scale)
    return kernels.lowered(plain, kernel, x, parameters.kernel, parameters.bias, sign, dropped.seeds)


def _backward(x, parameters, dropped, a, gradient, slopes):
    """Gradients of x, the kernel and the bias.

    Args:
      x, parameters, dropped, a: as in `_forward`.
      gradient: (n, rows, columns, channels), of the block's output y.
      slopes: (4, channels): the scale's sign; and scale, constant, linear, of which the gradient of a is
        scale * (gradient, where chosen) + constant + linear * a.
    """
    attributes = {"threshold": dropped.threshold, "gain": dropped.gain}

    def plain(x, kernel, bias, seeds, a, gradient, slopes):
        return _backward_plain(x, kernel, bias, dropped._replace(seeds=seeds), a, gradient, slopes)

    def shapes(x, kernel, bias, *_):
        return x.shape if _keeps(x) else (0, *x.shape[1:]), kernel.shape, bias.shape

    def without_x(*arrays):
        return jnp.zeros((0, *x.shape[1:]), x.dtype), *plain(*arrays)[1:]

    arrays = (x, parameters.kernel, parameters.bias, dropped.seeds, a, gradient, slopes)
    kernel = kernels.Kernel("backward", "n--nnn-", "n--", shapes, attributes)
    if _keeps(x):
        return kernels.lowered(plain, kernel, *arrays)
    # Images seldom want a gradient: where they do not, XLA leaves this out.
    return plain(*arrays)[0], *kernels.lowered(without_x, kernel, *arrays)[1:]


def _backward_plain(x, kernel, bias, dropped, a, gradient, slopes):
    a = a if _keeps(x) else drop(rectify(x, kernel, bias), dropped)
    sign, scale, constant, linear = slopes
    of_a = _spread(gradient * scale, _choose(a, sign)[1], a.shape) + constant + linear * a
    of_z = jnp.where(a == 0, 0, of_a * dropped.gain)  # closed by ReLU or by dropout
    _, pull = jax.vjp(convolve, x, kernel)
    return *pull(of_z.astype(x.dtype)), of_z.sum((0, 1, 2))


def _saliency(x, parameters, a, gradient, slopes):
    """The first of what `_backward` gives, without dropout."""

    def plain(x, kernel, bias, a, gradient, slopes):
        return (_backward_plain(x, kernel, bias, NOTHING_DROPPED, a, gradient, slopes)[0],)

    arrays = (x, parameters.kernel, parameters.bias, a, gradient, slopes)
    kernel = kernels.Kernel("saliency", "n--nn-", "n", lambda x, *_: (x.shape,), {})
    return kernels.lowered(plain, kernel, *arrays)[0]


def _keeps(x):
    """Whether activations are kept: with one channel that comes in, computing is cheaper than memory."""
    return x.shape[3] > 1


def _pooled(x, kernel):
    return x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), kernel.shape[3]


def _choose(a, sign):
    """(values, corners from 0 to 3) of the first of the largest of sign * a in each 2x2 window."""
    height, width = a.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    keys = jnp.pad(widened(a) * sign, padding, constant_values=-jnp.inf)
    corners = [keys[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    largest = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    chosen = jnp.where(corners[2] == largest, 2, 3)
    for number in (1, 0):
        chosen = jnp.where(corners[number] == largest, number, chosen)
    first = (sign == 0) & ~jnp.isnan(largest)  # of equals; a NaN is passed on
    return jnp.where(first, a[:, ::2, ::2], (largest * sign).astype(a.dtype)), chosen.astype(jnp.uint8)


def _spread(values, chosen, shape):
    """The values at their windows' chosen corners, zero elsewhere: the transpose of choosing."""
    n, rows, columns, channels = chosen.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(chosen[:, :, None, :, None, :] == corner, values[:, :, None, :, None, :], 0)
    return spread.reshape(n, 2 * rows, 2 * columns, channels)[:, : shape[1], : shape[2]]
