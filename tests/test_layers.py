"""Max-pooling: the hand-written gradient against the plain operation's, ties, padding, dtypes, transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pneumojax.layers import max_pool, max_pool_reference

# Even, odd, one of each, and sides that lie wholly in one padded window.
SHAPES = [(2, 6, 8, 3), (2, 7, 5, 3), (1, 5, 4, 2), (3, 4, 9, 1), (1, 2, 1, 2), (2, 1, 1, 1)]
# Values as they come out of a convolution, with ties everywhere, with ties at zero alone, below any padding of zero.
KINDS = {
    "distinct": lambda rng, shape: rng.normal(size=shape),
    "tied": lambda rng, shape: rng.integers(-1, 2, size=shape),
    "rectified": lambda rng, shape: np.maximum(rng.normal(size=shape), 0),
    "negative": lambda rng, shape: -1 - rng.uniform(size=shape),
    "constant": lambda rng, shape: np.full(shape, -3.0),
}


def sample(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Input of one kind, float64."""
    return np.asarray(KINDS[kind](np.random.default_rng(seed), shape), np.float64)


def pull_back(pool, images, cotangent):
    """(output, gradient of its inner product with `cotangent`) of a pooling function."""
    output, pull = jax.vjp(pool, images)
    return output, pull(cotangent)[0]


def pooled_shape(shape):
    """(n, ceil(h/2), ceil(w/2), c)."""
    return shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_reference_bit_for_bit(shape, kind, dtype):
    """With and without differentiation, which take different paths: a maximum needs no rounding."""
    with jax.enable_x64(True):
        images = jnp.asarray(sample(kind, shape), dtype)
        expected = max_pool_reference(images)
        assert expected.shape == pooled_shape(shape)
        for output in (max_pool(images), jax.vjp(max_pool, images)[0]):
            assert output.dtype == images.dtype
            np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_references(shape, kind):
    """In float64, ties included, so that a network trains as with the plain operation."""
    with jax.enable_x64(True):
        images = jnp.asarray(sample(kind, shape))
        cotangent = jnp.asarray(sample("distinct", pooled_shape(shape), seed=1))
        _, gradient = pull_back(max_pool, images, cotangent)
        _, expected = pull_back(max_pool_reference, images, cotangent)
        assert gradient.dtype == jnp.float64
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6)


def test_gradient_is_the_slope():
    """Held against finite differences too, which know nothing of either implementation."""
    with jax.enable_x64(True):
        images = jnp.asarray(sample("distinct", (2, 5, 7, 2)))
        cotangent = jnp.asarray(sample("distinct", (2, 3, 4, 2), seed=1))
        direction = jnp.asarray(sample("distinct", images.shape, seed=2))
        _, gradient = pull_back(max_pool, images, cotangent)
        difference = max_pool(images + 1e-6 * direction) - max_pool(images - 1e-6 * direction)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), jnp.vdot(difference, cotangent) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "window, receives",
    [
        ([[0, 0], [0, 0]], [[1, 0], [0, 0]]),
        ([[0, 5], [5, 5]], [[0, 1], [0, 0]]),
        ([[1, 2], [2, 0]], [[0, 1], [0, 0]]),
        ([[-2, -3], [-1, -1]], [[0, 0], [1, 0]]),
        ([[7, 1], [1, 7]], [[1, 0], [0, 0]]),
        ([[1, 2], [3, 4]], [[0, 0], [0, 1]]),
    ],
)
def test_the_first_of_equals_in_row_order_receives_the_gradient(window, receives):
    """Zeros after a ReLU tie in most windows: who receives the gradient is part of the network's definition."""
    images = jnp.asarray(window, jnp.float32).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], receives)


@pytest.mark.parametrize("lowest", [-5.0, -np.inf])
@pytest.mark.parametrize("shape", [(1, 5, 5, 2), (2, 3, 4, 1), (1, 4, 3, 1), (1, 1, 1, 1)])
def test_no_gradient_is_lost_in_the_padding(shape, lowest):
    """However low the input, the sum of the gradient is the sum of what came in: padding never wins."""
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.full(shape, lowest))
    assert gradient.shape == shape
    assert float(gradient.sum()) == np.prod(pooled_shape(shape))


def test_nan_is_passed_on():
    """A diverged network must not look healthy: a window with a NaN is NaN, differentiated or not."""
    images = jnp.zeros((1, 3, 5, 1)).at[0, 1, 1, 0].set(jnp.nan)
    expected = np.zeros((2, 3), bool)
    expected[0, 0] = True
    for output in (max_pool(images), jax.vjp(max_pool, images)[0]):
        np.testing.assert_array_equal(np.isnan(output[0, :, :, 0]), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_kept_through_two_pools(dtype):
    """Nothing is promoted on the way forth or back, also where one pool's gradient meets another's."""
    images = jnp.asarray(sample("distinct", (2, 9, 6, 3)), dtype)

    def loss(x):
        return jnp.square(max_pool(jnp.tanh(max_pool(x)))).sum()

    value, gradient = jax.value_and_grad(loss)(images)
    assert value.dtype == gradient.dtype == images.dtype
    assert gradient.shape == images.shape
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@pytest.mark.parametrize("shape", [(4, 6, 8, 3), (4, 7, 5, 3)])
def test_jit_and_vmap_change_nothing(shape):
    """The gradient keeps the input's odd side under transformations, where shapes are all it can know."""
    images = jnp.asarray(sample("tied", shape), jnp.float32)
    cotangent = jnp.asarray(sample("distinct", pooled_shape(shape), seed=1), jnp.float32)
    output, gradient = pull_back(max_pool, images, cotangent)

    def one(image, tangent):
        output, gradient = pull_back(max_pool, image[None], tangent[None])
        return output[0], gradient[0]

    for result in (
        jax.jit(lambda x, t: pull_back(max_pool, x, t))(images, cotangent),
        jax.vmap(one)(images, cotangent),
        jax.jit(jax.vmap(one))(images, cotangent),
    ):
        np.testing.assert_array_equal(result[0], output)
        np.testing.assert_array_equal(result[1], gradient)
