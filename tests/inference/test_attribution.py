"""Attribution methods: compared with Captum's maps and with their formulas in NumPy, and as functions of a batch."""

from functools import partial

import explained
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explained import assert_near, compute
from jaxtyping import TypeCheckError
from scipy import ndimage

from pneumojax.inference import attribution
from pneumojax.models import classifier, summary
from pneumojax.models.architectures import FAMILY

slow = pytest.mark.slow
family = pytest.mark.parametrize("name", FAMILY)
SMALL = classifier.Classifier(blocks=(classifier.Block(32, 0.1), classifier.Block(32, 0.0)))
OPTIONS = {
    "grad-cam": {"layer": "conv_2"},
    "grad-cam++": {"layer": "conv_2"},
    "integrated-gradients": {"steps": 8},
    "smooth-grad": {"key": jax.random.key(0), "samples": 4, "noise": 0.1},
    "occlusion": {"window": 9, "stride": 5},
}
each_method = pytest.mark.parametrize("method", OPTIONS)
HEIGHT, WIDTH = 40, 33  # not equal, and one odd


@pytest.fixture(scope="module")
def images():
    return explained.phantoms(2, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def variables():
    """Variables of `SMALL` for `images`."""
    return explained.variables(SMALL, HEIGHT, WIDTH)


def gradient(variables, images):
    """Compute the gradient of each logit with respect to its image, (batch, height, width)."""
    return np.asarray(jax.grad(lambda x: SMALL.apply(variables, x, train=False).sum())(images))[..., 0]


def of_layer(variables, images, layer):
    """Compute a layer's output and the gradient of the logits, both (batch, rows, columns, channels) float64."""
    first, second = classifier.halves(SMALL, variables, layer)
    outputs = first(jnp.asarray(images))
    logits, pull = jax.vjp(second, outputs)
    return np.float64(outputs), np.float64(pull(jnp.ones_like(logits))[0])


def enlarged(values):
    """Resize bilinearly to (HEIGHT, WIDTH)."""
    factors = HEIGHT / values.shape[0], WIDTH / values.shape[1]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


@family
def test_maps_are_captums(name):
    """Captum's are stored by references/make_explanations.py."""
    images, theirs = explained.phantoms(2, explained.SIDE), explained.read_captums(name)
    for method, values in explained.compute_shared(name, images, **explained.OPTIONS).items():
        assert_near(values, theirs[method])


@family
def test_integrated_gradients_in_float32_are_near_those_in_float64(name):
    """PyTorch's float32 maps are no nearer: see `explained.PRECISIONS`."""
    images, steps = explained.phantoms(2, explained.SIDE), explained.OPTIONS["steps"]
    maps = compute("integrated-gradients", classifier.create(name), images, steps=steps)
    assert_near(maps, explained.read_captums(name)["integrated-gradients"], 0.03)


@pytest.mark.parametrize("name", ["m1", pytest.param("m2", marks=slow), pytest.param("m3", marks=slow)])
@pytest.mark.parametrize("baseline", [0.0, pytest.param(0.3, marks=slow)])
def test_integrated_gradients_sum_to_the_difference_of_logits(name, baseline):
    """This takes many steps, since the gradient varies strongly along the path."""
    images, model = explained.phantoms(2, explained.SIDE), classifier.create(name)
    maps = compute("integrated-gradients", model, images, steps=400, baseline=baseline)
    variables = explained.variables(model, explained.SIDE, explained.SIDE)
    end, start = (model.apply(variables, x, train=False) for x in (images, np.full_like(images, baseline)))
    np.testing.assert_allclose(maps.sum((1, 2)), end - start, rtol=0.01)


def test_grad_cam_is_its_formula_at_every_layer(images, variables):
    """Every layer with height and width gives a sum of channels, each weighted by its mean gradient."""
    layers = [row.name for row in summary.layer_rows(SMALL, WIDTH) if len(row.shape) == 3]
    assert layers[0] == "conv_1"
    assert layers[-1] == "max_pool_2"
    for layer in layers:
        outputs, gradients = of_layer(variables, images, layer)
        maps = np.einsum("nijk,nk->nij", outputs, gradients.mean((1, 2)))
        assert_near(compute("grad-cam", SMALL, images, layer=layer), np.stack([enlarged(values) for values in maps]))


@pytest.mark.parametrize("layer", ["conv_1", "conv_2"])
def test_grad_cam_plus_plus_is_the_papers_formula(images, variables, layer):
    """It differentiates the exponential of the score, so derivatives are powers of the gradient (Eqs. 16 to 19)."""
    expected = []
    for outputs, gradients in zip(*of_layer(variables, images, layer), strict=True):
        total = np.zeros(outputs.shape[:2])
        for channel, slopes in zip(np.moveaxis(outputs, 2, 0), np.moveaxis(gradients, 2, 0), strict=True):
            weight = 0.0
            for slope in slopes[slopes > 0]:
                weight += slope**2 / (2 * slope**2 + channel.sum() * slope**3) * slope
            total += weight * channel
        expected.append(enlarged(total))
    assert_near(compute("grad-cam++", SMALL, images, layer=layer), np.stack(expected))


def test_smooth_grad_without_noise_is_the_gradient(images, variables):
    smooth = compute("smooth-grad", SMALL, images, key=jax.random.key(0), samples=3, noise=0.0)
    assert_near(smooth, gradient(variables, images))


def test_smooth_grad_is_the_mean_over_noisy_copies(images, variables):
    """The noise is normal, and the same for every image."""
    added = 0.2 * jax.random.normal(jax.random.key(3), (5, 1, HEIGHT, WIDTH, 1))
    expected = np.mean([gradient(variables, images + noise) for noise in added], 0)
    smooth = compute("smooth-grad", SMALL, images, key=jax.random.key(3), samples=5, noise=0.2)
    assert_near(smooth, expected)
    other = compute("smooth-grad", SMALL, images, key=jax.random.key(4), samples=5, noise=0.2)
    assert np.abs(other - smooth).max() > 0.1 * np.abs(smooth).max()


@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [
        (9, 5, 0.0),
        (7, 3, 0.5),  # 144 squares, more than in one chunk
        (8, 8, 0.0),
        (4, 6, 0.0),  # some pixels are under no square
        (36, 5, 0.2),  # wider than the image but not higher
        (50, 5, 0.2),
    ],
)
def test_occlusion_is_the_loop_over_squares(images, variables, window, stride, baseline):
    """If the stride does not divide a side, the last squares are cut at the border."""
    logits_of = jax.jit(lambda x: SMALL.apply(variables, x, train=False))
    total, count = np.zeros((2, HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
    plain = logits_of(images)
    top = 0
    while top == 0 or top - stride + window < HEIGHT:
        left = 0
        while left == 0 or left - stride + window < WIDTH:
            square = np.s_[top : top + window, left : left + window]
            covered = images.copy()
            covered[:, *square] = baseline
            total[:, *square] += np.asarray(plain - logits_of(covered))[:, None, None]
            count[square] += 1
            left += stride
        top += stride
    maps = compute("occlusion", SMALL, images, window=window, stride=stride, baseline=baseline)
    expected = total / np.maximum(count, 1)
    assert np.abs(maps - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (maps[:, count == 0] == 0).all()


@each_method
def test_a_batch_gives_each_images_map(images, method):
    """Computed in float64, so that rounding does not matter."""
    together = compute(method, SMALL, images, np.float64, **OPTIONS[method])
    alone = [compute(method, SMALL, images[i : i + 1], np.float64, **OPTIONS[method]) for i in range(2)]
    assert_near(together, np.concatenate(alone))
    assert np.abs(together[0] - together[1]).max() > 0.01 * np.abs(together).max()


@each_method
@pytest.mark.parametrize(
    ("dtype", "transform", "correlation"),
    [(None, lambda method: method, 0.9999), (jnp.bfloat16, jax.jit, 0.9)],
    ids=["uncompiled", "bfloat16"],
)
def test_maps_are_float32_of_the_images_size(images, variables, method, dtype, transform, correlation):
    """They are also nearly the same, compiled or not, and in bfloat16."""
    model = classifier.Classifier(blocks=SMALL.blocks, dtype=dtype)
    maps = transform(partial(attribution.METHODS[method], model, **OPTIONS[method]))(variables, jnp.asarray(images))
    assert maps.shape == images.shape[:3]
    assert maps.dtype == jnp.float32
    assert np.isfinite(maps).all()
    assert np.corrcoef(maps.ravel(), compute(method, SMALL, images, **OPTIONS[method]).ravel())[0, 1] > correlation


def test_every_method_is_tested():
    assert set(OPTIONS) == set(attribution.METHODS)


@family
def test_the_last_convolution_is_the_models(name):
    model = classifier.create(name)
    convolutions = [row.name for row in summary.layer_rows(model, 40) if row.kind == "Conv2D"]
    assert attribution.last_convolution(model) == convolutions[-1]


@pytest.mark.parametrize("method", [attribution.grad_cam, attribution.grad_cam_plus_plus])
def test_layers_without_height_and_width_are_refused(images, variables, method):
    for layer in ("flatten", "dense_1", "dropout_head", "dense_2"):
        with pytest.raises(ValueError, match=f"{layer} has no height and width"):
            method(SMALL, variables, jnp.asarray(images), layer=layer)
    for layer in ("conv_3", "dropout_2", "conv", ""):
        with pytest.raises(KeyError):
            method(SMALL, variables, jnp.asarray(images), layer=layer)


@each_method
def test_images_without_a_channel_are_refused(images, variables, method):
    """Shapes are part of the signatures; the tests check them at run time."""
    with pytest.raises(TypeCheckError, match="images"):
        attribution.METHODS[method](SMALL, variables, jnp.asarray(images[..., 0]), **OPTIONS[method])
