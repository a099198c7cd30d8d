"""The block of block_reference.py in fewer passes over memory, with its gradient by hand.

Memory is what takes a CPU's time. Two facts save most of it:

- Max-pool chooses among values that an affine map per channel leaves in order, or reverses. So the choice is made
  before the map, which then has a quarter of the values to do.
- The gradient needs only the input and the activations before the normalization, from which the choice follows. In the
  sums of batch normalization's gradient, only the chosen values have terms other than zero.

For second derivatives and forward mode, use `block_reference.block_reference`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from pneumojax.models import block_operations
from pneumojax.models.block_operations import Activations, Images, Pooled, Seeds
from pneumojax.models.block_reference import EPSILON, NOTHING_DROPPED, Dropout, Parameters, Statistics, affine, widened


def _block_train(x: Images, parameters: Parameters, seeds: Seeds, rate: float) -> tuple[Pooled, Statistics]:
    """Compute the block's output with the batch's own statistics, and those statistics.

    Seeds and rate are those of `Dropout`. No gradient flows back through the statistics that are returned.

    Raises:
      ValueError: the rate is above 0, and `seeds` do not have the shape (n, height, 2).
    """
    return _block_train_forward(x, parameters, seeds, rate)[0]


def _block_train_forward(
    x: jax.Array, parameters: Parameters, seeds: jax.Array | np.ndarray, rate: float
) -> tuple[tuple[jax.Array, Statistics], tuple[Any, ...]]:
    if rate and seeds.shape != (*x.shape[:2], 2):
        raise ValueError(f"seeds of shape {seeds.shape} do not fit images of shape {x.shape}: give two for each row")
    a, extremes, sums = block_operations.forward(x, parameters, Dropout(seeds, rate))
    mean, square = sums.sum(0) / (x.shape[0] * x.shape[1] * x.shape[2])
    statistics = Statistics(mean, jnp.maximum(square - jnp.square(mean), 0))
    scale, shift = affine(parameters, statistics)
    y = (extremes * scale + shift).astype(x.dtype)
    return (y, statistics), (x, parameters, seeds, a, extremes, statistics)


def _block_train_backward(
    rate: float, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, Statistics]
) -> tuple[jax.Array, Parameters, None]:
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
    dx, dw, db = block_operations.backward(x, parameters, Dropout(seeds, rate), a, gradient, slopes)
    return dx, Parameters(dw, db, of_scale, of_offset), None


block_train = jax.custom_vjp(_block_train, nondiff_argnums=(3,))
block_train.defvjp(_block_train_forward, _block_train_backward)


@jax.custom_vjp
def block_infer(x: Images, parameters: Parameters, statistics: Statistics) -> Pooled:
    """Compute the block's output, normalized by `statistics`, without dropout."""
    return block_operations.infer(x, parameters, *affine(parameters, statistics))


def _block_infer_forward(*primals: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    # Explanations differentiate with respect to the images alone, which is half the work.
    learning = any(leaf.perturbed for leaf in jax.tree.leaves(primals[1:]))
    x, parameters, statistics = jax.tree.map(lambda leaf: leaf.value, primals)
    a, extremes, _ = block_operations.forward(x, parameters, NOTHING_DROPPED)
    scale, shift = affine(parameters, statistics)
    y = (extremes * scale + shift).astype(x.dtype)
    return y, (x, parameters, statistics, a, extremes if learning else None)


def _block_infer_backward(
    residuals: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array, Parameters | None, Statistics | None]:
    x, parameters, statistics, a, extremes = residuals
    if extremes is None:
        scale, _ = affine(parameters, statistics)
        return block_operations.saliency(x, parameters, a, gradient, _constant_slopes(scale)), None, None
    of_shift = widened(gradient).sum((0, 1, 2))
    of_slope = (widened(gradient) * extremes).sum((0, 1, 2))
    (scale, _), pull = jax.vjp(affine, parameters, statistics)
    dx, dw, db = block_operations.backward(x, parameters, NOTHING_DROPPED, a, gradient, _constant_slopes(scale))
    of_parameters, of_statistics = pull((of_slope, of_shift))
    return dx, of_parameters._replace(kernel=dw, bias=db), of_statistics


def _constant_slopes(scale: Float[Array, " channels"]) -> Float[Array, "4 channels"]:
    """Return the slopes for `backward` where the statistics do not depend on the activations."""
    return jnp.stack([jnp.sign(scale), scale, jnp.zeros_like(scale), jnp.zeros_like(scale)])


block_infer.defvjp(_block_infer_forward, _block_infer_backward, symbolic_zeros=True)


@jax.custom_vjp
def pool(images: Activations) -> Pooled:
    """Compute `block_reference.max_pool`, with a gradient that is fast on CPUs."""
    return block_operations.choose(images, jnp.ones(()))[0]


def _pool_forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return pool(images), images


def _pool_backward(images: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    _, chosen = block_operations.choose(images, jnp.ones(()))
    return (block_operations.spread(gradient, chosen, images.shape),)


pool.defvjp(_pool_forward, _pool_backward)
