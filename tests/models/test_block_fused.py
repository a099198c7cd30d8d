"""The fused block, with its gradient by hand, equals its definition: with XLA alone, and with the CPU kernels."""

from collections.abc import Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pneumojax.models import block_fused, block_operations, block_reference, kernels
from pneumojax.models.kernels.build import build
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError

# (n, height, width, input channels, output channels): even sides, odd sides, one of each, sides within one padded
# window, more images than the kernels have groups, several tiles of channels, rows longer than a tile, and many
# channels: of several images, and of one, where threads divide the channels.
SHAPES = [
    (3, 6, 8, 1, 32),
    (2, 9, 7, 32, 64),
    (2, 5, 4, 64, 32),
    (1, 1, 2, 32, 32),
    (40, 1, 1, 1, 64),
    (18, 3, 3, 32, 96),
    (1, 7, 41, 1, 64),
    (2, 8, 5, 32, 256),
    (1, 8, 5, 32, 256),
]
CASES = [*((shape, 0.3) for shape in SHAPES), *((shape, 0.0) for shape in SHAPES[:2])]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(params=["xla", "kernels"], scope="module")
def way(request) -> Iterator[str]:
    """Choose a way of computing the block, and clear what was traced for the other."""
    jax.clear_caches()
    if request.param == "xla":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "load", lambda: False)
            yield request.param
        return
    try:
        build()
    except UserError as error:
        pytest.skip(str(error))
    kernels.load.cache_clear()
    assert kernels.load()
    yield request.param


def whole(rng, shape, lowest, highest):
    """Draw small whole numbers. Sums of their products are exact in float32, and there are many ties."""
    return jnp.asarray(rng.integers(lowest, highest + 1, shape), jnp.float32)


def sample(shape, seed=0):
    """Draw x, parameters, cotangent and statistics of whole numbers. Some scales are negative, and one is zero."""
    n, height, width, ci, co = shape
    rng = np.random.default_rng(seed)
    kernel, scale = whole(rng, (3, 3, ci, co), -2, 2), whole(rng, co, -2, 2).at[0].set(0)
    parameters = block_reference.Parameters(kernel, whole(rng, co, -3, 3), scale, whole(rng, co, -3, 3))
    cotangent = whole(rng, (n, -(-height // 2), -(-width // 2), co), -4, 4)
    statistics = block_reference.Statistics(whole(rng, co, -3, 3), whole(rng, co, 1, 9))
    return whole(rng, (n, height, width, ci), -2, 2), parameters, cotangent, statistics


def pulled(block, x, parameters, cotangent):
    """Compute output, statistics, gradient of x and gradient of the parameters, compiled."""

    @jax.jit
    def compute(x, parameters):
        (output, statistics), pull = jax.vjp(block, x, parameters)
        return output, statistics, *pull((cotangent, jax.tree.map(jnp.zeros_like, statistics)))

    return compute(x, parameters)


def by_definition(dropped, statistics):
    """Return the definition as a function that JAX can differentiate."""

    def block(x, parameters):
        outputs, used = block_reference.block_reference(x, parameters, dropped, statistics)
        return outputs["max_pool"], used

    return block


def in_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def assert_close(result, expected, tolerance):
    """Compare each array to within `tolerance` of its largest magnitude."""
    for fused, defined in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(fused, defined, rtol=0, atol=tolerance * np.abs(defined).max(initial=1))


@cache
def trained_by_definition(shape, rate):
    """Compute `pulled` of `sample` in float64: in float32, a gain that is no power of two makes ties unequal."""
    x, parameters, cotangent, _ = sample(shape)
    dropped = block_reference.dropout(jax.random.key(3), rate, (*shape[:3], shape[4]))
    with jax.enable_x64(True):
        return pulled(by_definition(dropped, None), *in_float64((x, parameters, cotangent)))


@cache
def inferred_by_definition(shape):
    """Compute the output on `sample`, and the gradients of images, parameters and statistics, in float64."""
    x, parameters, cotangent, statistics = sample(shape)
    with jax.enable_x64(True):
        wide = in_float64((x, parameters, statistics))
        output, pull = jax.vjp(lambda x, p, s: by_definition(block_reference.NOTHING_DROPPED, s)(x, p)[0], *wide)
        return output, pull(cotangent.astype(jnp.float64))


@pytest.mark.parametrize(("shape", "rate"), CASES, ids=str)
def test_training_equals_autodiff_of_the_definition(way, shape, rate):
    """Output, statistics and every gradient agree to the rounding of float64, or of float32."""
    x, parameters, cotangent, _ = sample(shape)
    dropped = block_reference.dropout(jax.random.key(3), rate, (*shape[:3], shape[4]))
    with jax.enable_x64(True):
        if way == "xla":
            x, parameters, cotangent = in_float64((x, parameters, cotangent))
        fused = pulled(lambda x, p: block_fused.block_train(x, p, dropped.seeds, rate), x, parameters, cotangent)
        # In float32, the variance of values that are nearly all zero is a small difference of large numbers.
        tolerance = 1e-6 if way == "xla" else 3e-4 if shape[1] * shape[2] == 1 else 3e-5
        assert_close(fused, trained_by_definition(shape, rate), tolerance)


@shapes
def test_inference_equals_autodiff_of_the_definition(way, shape):
    """The output and every gradient agree, those of the statistics too."""
    x, parameters, cotangent, statistics = sample(shape)
    expected, gradients = inferred_by_definition(shape)
    with jax.enable_x64(True):
        arguments = (x, parameters, statistics)
        arguments = in_float64(arguments) if way == "xla" else arguments
        cotangent = cotangent.astype(arguments[0].dtype)
        fused, pull = jax.vjp(jax.jit(block_fused.block_infer), *arguments)
        tolerance = 1e-6 if way == "xla" else 1e-5
        assert_close(jax.jit(block_fused.block_infer)(*arguments), expected, tolerance)
        assert_close((fused, pull(cotangent)), (expected, gradients), tolerance)
        # The gradient of the images alone is computed in another way.
        fused, pull = jax.vjp(jax.jit(lambda x: block_fused.block_infer(x, *arguments[1:])), arguments[0])
        assert_close((fused, *pull(cotangent)), (expected, gradients[0]), tolerance)


@pytest.mark.parametrize("sign, receives", [(1, [[0, 1], [0, 0]]), (-1, [[0, 0], [1, 0]]), (0, [[1, 0], [0, 0]])])
def test_the_first_of_equals_in_row_order_receives_the_gradient(way, sign, receives):
    """As in XLA and Keras. A negative scale makes the smallest the largest; a scale of zero makes all equal."""
    x = jnp.asarray([[2.0, 3], [1, 3]]).at[1, 0].set(1).reshape(1, 2, 2, 1)
    kernel = jnp.zeros((3, 3, 1, 32)).at[1, 1].set(1)
    ones = jnp.ones(32)
    parameters = block_reference.Parameters(kernel, ones, sign * ones, 0 * ones)
    statistics = block_reference.Statistics(0 * ones, ones)

    if sign:
        gradient = jax.grad(lambda x: block_fused.block_infer(x, parameters, statistics).sum())(x)[0, :, :, 0]
        np.testing.assert_allclose(gradient / gradient.sum(), receives, atol=1e-6)
    # The gradient of the scale is the activation of the corner that was chosen.
    of_scale = jax.grad(lambda p: block_fused.block_infer(x, p, statistics).sum())(parameters).scale
    chosen = float((x[0, :, :, 0] * jnp.asarray(receives)).sum())
    np.testing.assert_allclose(of_scale, (chosen + 1) / np.sqrt(1 + block_reference.EPSILON), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 2), (1, 1, 1, 1)], ids=str)
def test_pooling_alone_equals_its_definition(shape):
    """Values and gradient agree on whole numbers with many ties."""
    images = whole(np.random.default_rng(0), shape, -2, 2)
    expected, pull = jax.vjp(block_reference.max_pool, images)
    values, fused_pull = jax.vjp(block_fused.pool, images)
    cotangent = whole(np.random.default_rng(1), values.shape, -3, 3)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(fused_pull(cotangent)[0], pull(cotangent)[0])


@shapes
def test_activations_alone_equal_their_definition(way, shape):
    x, parameters, _, _ = sample(shape)
    expected = block_reference.rectify(x, parameters.kernel, parameters.bias)
    assert_close(jax.jit(block_operations.activations)(x, parameters), expected, 1e-6)


def test_equal_neighbourhoods_have_equal_activations(way):
    """Otherwise rounding would choose among them, on the uniform borders that radiographs have."""
    rng = np.random.default_rng(0)
    x = jnp.broadcast_to(rng.random(32, np.float32), (1, 7, 9, 32))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 32, 64)), jnp.float32)
    a = jax.jit(block_operations.activations)(
        x, block_reference.Parameters(kernel, jnp.zeros(64), jnp.ones(64), jnp.zeros(64))
    )
    interior = a[0, 1:-1, 1:-1]
    np.testing.assert_array_equal(interior, jnp.broadcast_to(interior[0, 0], interior.shape))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("place", [(0, 0), (2, 4), (1, 1)])
def test_nan_is_passed_on(way, train, place):
    """A diverged network must not look healthy: neither ReLU nor max-pool drops a NaN."""
    x, parameters, _, statistics = sample((1, 3, 5, 1, 32))
    x = x.at[0, *place, 0].set(jnp.nan)
    if train:
        y, _ = jax.jit(block_fused.block_train, static_argnums=3)(
            x, parameters, block_reference.NOTHING_DROPPED.seeds, 0.0
        )
        assert np.isnan(y).all()  # through the statistics
    else:
        y = jax.jit(block_fused.block_infer)(x, parameters, statistics)
        touched = np.zeros((2, 3), bool)
        row, column = place
        touched[max(0, row - 1) // 2 : (row + 1) // 2 + 1, max(0, column - 1) // 2 : (column + 1) // 2 + 1] = True
        np.testing.assert_array_equal(np.isnan(y[0]), np.broadcast_to(touched[..., None], (2, 3, 32)))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_eight_devices_compute_what_one_does(way, rate):
    """Each computes its part of the batch, with the statistics and dropout of the whole batch."""
    x, parameters, cotangent, _ = sample((16, 5, 6, 32, 64))

    def compute(count):
        layout = sharding.layout(jax.devices()[:count])
        with jax.set_mesh(layout.mesh):
            placed = (sharding.place(layout, np.asarray(array)) for array in (x, cotangent))

            @jax.jit
            def step(x, cotangent, parameters):
                dropped = block_reference.dropout(jax.random.key(3), rate, (16, 5, 6, 64))
                run = lambda x, p: block_fused.block_train(x, p, dropped.seeds, rate)  # noqa: E731
                return pulled(run, x, parameters, cotangent)

            return jax.device_get(step(*placed, jax.device_put(parameters, layout.replicated)))

    assert_close(compute(8), compute(1), 1e-5)


def test_a_batch_that_the_caller_divides_is_not_divided_again(way):
    """Inside `shard_map`, each device already has its own part."""
    x, parameters, _, statistics = sample((16, 5, 6, 32, 64))
    mesh = sharding.layout(jax.devices()[:2]).mesh
    spec = jax.sharding.PartitionSpec
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(
            lambda x: block_fused.block_infer(x, parameters, statistics), in_specs=spec("data"), out_specs=spec("data")
        )
        divided = jax.jit(mapped)(x)
    assert_close(divided, block_fused.block_infer(x, parameters, statistics), 1e-5)


def test_vmap_and_lone_images_change_nothing(way):
    """Explanations map over single images."""
    x, parameters, _, statistics = sample((3, 5, 6, 32, 32))
    together = jax.jit(block_fused.block_infer)(x, parameters, statistics)
    mapped = jax.vmap(lambda image: block_fused.block_infer(image[None], parameters, statistics)[0])(x)
    assert_close(mapped, together, 1e-5)
    gradients = jax.vmap(jax.grad(lambda image: block_fused.block_infer(image[None], parameters, statistics).sum()))(x)
    assert_close(gradients, jax.grad(lambda x: block_fused.block_infer(x, parameters, statistics).sum())(x), 1e-5)


def test_equal_runs_are_equal_bit_for_bit(way):
    """Also on two threads, whichever is faster: a resumed run depends on it."""
    x, parameters, cotangent, _ = sample((17, 12, 20, 32, 64))
    x, cotangent = x + 0.1, cotangent / 3
    seeds = block_reference.dropout(jax.random.key(0), 0.3, (17, 12, 20, 64)).seeds
    run = lambda: pulled(lambda x, p: block_fused.block_train(x, p, seeds, 0.3), x, parameters, cotangent)  # noqa: E731
    first = run()
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, run(), first)


def test_seeds_of_other_images_are_refused():
    x, parameters, _, _ = sample((3, 6, 8, 32, 32))
    with pytest.raises(ValueError, match=r"seeds of shape \(1, 6, 2\) do not fit images of shape"):
        block_fused.block_train(
            x, parameters, block_reference.dropout(jax.random.key(0), 0.3, (1, 6, 8, 32)).seeds, 0.3
        )


def test_both_ways_drop_the_same():
    """A run may be resumed where no kernels are built."""
    seeds = block_reference.dropout(jax.random.key(1), 0.4, (2, 5, 7, 64)).seeds
    bits = block_reference.random_bits(seeds, 7, 64)
    try:
        build()
    except UserError as error:
        pytest.skip(str(error))
    kernels.load.cache_clear()
    x, parameters, _, _ = sample((2, 5, 7, 32, 64))
    x, parameters = jnp.zeros_like(x), parameters._replace(bias=jnp.ones(64))
    a, _, _ = block_operations.forward(x, parameters, block_reference.Dropout(seeds, 0.4))
    np.testing.assert_array_equal(a > 0, bits >= np.uint32(round(0.4 * 2**32)))
    np.testing.assert_allclose(a[a > 0], 1 / 0.6, rtol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_goes_in_and_comes_out(way, train):
    """Gradients of parameters and statistics stay float32, and values are close to those of float32."""
    x, parameters, cotangent, statistics = sample((4, 8, 8, 32, 32))
    seeds = block_reference.NOTHING_DROPPED.seeds

    def block(x, parameters):
        if train:
            return block_fused.block_train(x, parameters, seeds, 0.0)
        return block_fused.block_infer(x, parameters, statistics), statistics

    narrow = pulled(block, x.astype(jnp.bfloat16), parameters, cotangent.astype(jnp.bfloat16))
    wide = pulled(block, x, parameters, cotangent)
    assert narrow[0].dtype == narrow[2].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((narrow[1], narrow[3]))} == {jnp.dtype("float32")}
    assert_close(narrow[:2], wide[:2], 2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_kernels_are_chosen_for_cpus_only(way, platform, dtype):
    """The platform that the computation is lowered for decides, not the one where it is traced."""
    x, parameters, _, statistics = sample((2, 4, 4, 32, 32))
    x = x.astype(dtype)
    text = (
        jax.jit(block_fused.block_infer)
        .trace(x, parameters, statistics)
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    assert ("pneumojax_infer" in text) == (platform == "cpu" and way == "kernels")


@pytest.mark.parametrize("shape", [(2, 4, 4, 3, 32), (2, 4, 4, 32, 20), (0, 4, 4, 32, 32), (2, 4, 0, 1, 32)])
def test_other_shapes_are_left_to_xla(way, shape):
    """Models of other widths train too, and an empty batch or image gives an empty result."""
    x, parameters, cotangent, _ = sample(shape)
    fused = pulled(
        lambda x, p: block_fused.block_train(x, p, block_reference.NOTHING_DROPPED.seeds, 0.0), x, parameters, cotangent
    )
    assert_close(fused, pulled(by_definition(block_reference.NOTHING_DROPPED, None), x, parameters, cotangent), 1e-5)
