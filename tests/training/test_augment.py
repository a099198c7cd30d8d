"""Augmentation is pure, keyed by an image's place, within the range, and no stronger than the config says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.ndimage import gaussian_filter

from pneumojax.runtime import config as configs
from pneumojax.training.augment import augment

ALL = {
    "rotation": 20.0, "zoom": 0.2, "stretch": 0.2, "shift": 0.1, "flip": 0.5,
    "contrast": 0.3, "brightness": 0.2, "gamma": 0.5, "shading": 0.5, "sharpness": 0.8, "noise": 0.03,
}  # fmt: skip
EXTREME = {
    "rotation": 180.0, "zoom": 0.9, "stretch": 0.9, "shift": 1.0, "flip": 0.9,
    "contrast": 5.0, "brightness": 1.0, "gamma": 9.0, "shading": 9.0, "sharpness": 9.0, "noise": 1.0,
}  # fmt: skip
KINDS = tuple(ALL)
MANY = 64


def strength(**strengths) -> ConfigDict:
    """Make the config's `augment`, zero by default."""
    return ConfigDict({name: strengths.get(name, 0.0) for name in KINDS})


def noise(batch: int = 6, height: int = 60, width: int = 46, seed: int = 0) -> jax.Array:
    """Draw images, (batch, height, width, 1) float32 in [0, 1), high enough that 1 % of the height blurs."""
    return jax.random.uniform(jax.random.key(seed), (batch, height, width, 1))


def changed(images, seed=1, **strengths) -> np.ndarray:
    """Augment images; return (batch, height, width)."""
    return np.asarray(augment(jax.random.key(seed), jnp.asarray(images), strength(**strengths)))[..., 0]


def spot(row: float, column: float, height: int = 61, width: int = 61, radius: float = 2.0) -> np.ndarray:
    """Draw `MANY` equal images of one bright spot on black, (MANY, height, width, 1) float32."""
    rows, columns = np.mgrid[:height, :width]
    image = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
    return np.repeat(image[None, ..., None], MANY, axis=0).astype(np.float32)


def centres(images: np.ndarray) -> np.ndarray:
    """Return the centre of mass of each image, (batch, 2) as (row, column)."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = images.sum((1, 2))
    return np.stack([(images * rows).sum((1, 2)) / mass, (images * columns).sum((1, 2)) / mass], axis=1)


def test_every_kind_of_the_config_is_tested_here():
    assert set(configs.load("m1").augment) == set(KINDS)


def test_zero_strength_is_the_identity():
    """Bit for bit: the paper's recipe trains on the images as they are."""
    images = noise()
    np.testing.assert_array_equal(augment(jax.random.key(0), images, strength()), images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_decides(kind):
    """The same key gives the same images; another key gives others."""
    images, strengths = noise(), {kind: ALL[kind]}
    once = changed(images, seed=1, **strengths)
    np.testing.assert_array_equal(changed(images, seed=1, **strengths), once)
    assert np.abs(changed(images, seed=2, **strengths) - once).max() > 1e-3


def test_jit_changes_nothing():
    """Except for the rounding of coordinates."""
    images = noise()
    plain = augment(jax.random.key(1), images, strength(**ALL))
    np.testing.assert_allclose(plain[..., 0], changed(images, seed=1, **ALL), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flip"])  # which has only two outcomes
def test_every_image_of_a_batch_is_changed_differently(kind):
    """Equal images become different from the original and from each other."""
    image = noise(1)
    out = changed(jnp.repeat(image, len(noise()), axis=0), seed=2, **{kind: ALL[kind]})
    versions = np.concatenate([np.asarray(image)[..., 0], out])
    distance = np.abs(versions[:, None] - versions[None]).max((2, 3))
    assert (distance[~np.eye(len(versions), dtype=bool)] > 1e-3).all()


def test_a_change_depends_only_on_the_place_in_the_batch():
    """Neither the rest of the batch nor its size matters, so neither does dividing the batch over devices."""
    images = noise()
    whole = changed(images, **ALL)
    # Except for the rounding of coordinates, since each batch size is compiled separately.
    np.testing.assert_allclose(changed(images[:3], **ALL), whole[:3], rtol=0, atol=1e-4)
    others = jnp.concatenate([images[:3], noise(3, seed=9)])
    np.testing.assert_allclose(changed(others, **ALL)[:3], whole[:3], rtol=0, atol=1e-6)
    # The image itself does not matter: in another place, it is changed differently.
    assert np.abs(changed(images[::-1], **ALL)[::-1] - whole).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("strengths", [ALL, EXTREME], ids=["usual", "extreme"])
def test_shape_dtype_and_range_are_kept(strengths):
    """At any strength, an augmented image is of the same shape, float32, finite and in [0, 1]."""
    images = jnp.round(noise())  # black and white, where any overshoot leaves the range
    out = augment(jax.random.key(3), images, strength(**strengths))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_affine_maps_add_no_border():
    """Places from outside take the nearest edge: a uniform image stays uniform, without black corners."""
    uniform = np.full((MANY, 20, 26, 1), 0.7, np.float32)
    out = changed(uniform, rotation=180.0, zoom=0.5, stretch=0.5, shift=0.5, flip=0.5)
    np.testing.assert_allclose(out, 0.7, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [40, 41])
def test_rotation_leaves_a_centred_disc(side):
    """The image turns about its centre, for even and odd sides: a disc there stays, except for interpolation."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    disc = 1 / (1 + np.exp(np.hypot(rows, columns) - 10))
    images = np.repeat(disc[None, ..., None], MANY, axis=0).astype(np.float32)
    out = changed(images, rotation=180.0)
    # Only the middle is compared, which no corner from outside the image reaches.
    middle = np.hypot(rows, columns) < side / 2
    np.testing.assert_allclose(out[:, middle], images[..., 0][:, middle], rtol=0, atol=0.03)


def test_rotation_is_at_most_its_degrees():
    """A spot keeps its distance from the centre and turns both ways, by up to 30 degrees and by nearly as many."""
    row, column = np.moveaxis(centres(changed(spot(30, 50), rotation=30.0)), 1, 0) - 30
    np.testing.assert_allclose(np.hypot(row, column), 20, rtol=0, atol=0.1)
    angles = np.degrees(np.arctan2(row, column))
    assert np.abs(angles).max() < 30.5
    assert angles.min() < -20
    assert angles.max() > 20


def test_zoom_scales_about_the_centre():
    """A spot off the centre moves along its ray, to between 0.8 and 1.2 of its distance."""
    row, column = np.moveaxis(centres(changed(spot(30, 45), zoom=0.2)), 1, 0) - 30
    np.testing.assert_allclose(row, 0, rtol=0, atol=0.02)
    assert 0.79 * 15 < column.min() < 0.9 * 15
    assert 1.1 * 15 < column.max() < 1.21 * 15


def test_stretch_scales_each_axis_independently_about_the_centre():
    """A spot off the centre moves to between 0.8 and 1.2 of its distance from each axis."""
    height, width = 61, 81
    row, column = np.moveaxis(centres(changed(spot(30 + 16, 40 - 20, height, width), stretch=0.2)), 1, 0)
    shares = np.stack([(row - 30) / 16, (40 - column) / 20])
    for share in shares:
        assert 0.799 < share.min() < 0.85
        assert 1.15 < share.max() < 1.201
    assert abs(np.corrcoef(shares)[0, 1]) < 0.4
    still = centres(changed(spot(30, 40, height, width), stretch=0.2))
    np.testing.assert_allclose(still, np.broadcast_to([30, 40], still.shape), rtol=0, atol=1e-3)


def test_stretch_is_along_the_axes_of_the_original_picture():
    """The picture was squashed along its own sides. A spot turns as by rotation alone, and its distance from the centre
    changes as by stretch alone."""

    def polar(**strengths):
        row, column = np.moveaxis(centres(changed(spot(30, 50), **strengths)) - 30, 1, 0)
        return np.hypot(row, column), np.degrees(np.arctan2(row, column))

    distance, angle = polar(rotation=40.0, stretch=0.2)
    np.testing.assert_allclose(distance, polar(stretch=0.2)[0], rtol=0, atol=0.1)
    np.testing.assert_allclose(angle, polar(rotation=40.0)[1], rtol=0, atol=0.3)
    assert np.ptp(distance) > 6 and np.ptp(angle) > 60


@pytest.mark.parametrize("width", [26, 27])
@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.02, 1, 22), (0.25, 89, 167), (0.5, 211, 301), (0.98, 490, 511)]
)
def test_flip_mirrors_its_share_of_the_images(width, share, least, most):
    """Left and right change places exactly, at even and odd widths. The counts are within four standard deviations."""
    images = np.asarray(noise(512, 8, width))[..., 0]
    out = changed(images[..., None], flip=share)
    mirrored, same = (np.abs(out - expected).max((1, 2)) < 1e-6 for expected in (images[:, :, ::-1], images))
    assert (mirrored ^ same).all()
    assert least <= mirrored.sum() <= most


def test_without_flip_nothing_is_mirrored():
    """With every other affine map on, a spot on the right stays there."""
    out = changed(spot(30, 50), rotation=30.0, zoom=0.1, stretch=0.2, shift=0.06)
    assert (centres(out)[:, 1] > 36).all()
    columns = centres(changed(spot(30, 50), rotation=30.0, zoom=0.1, stretch=0.2, shift=0.06, flip=0.5))[:, 1]
    assert 0.2 < np.mean(columns > 36) < 0.8
    assert ((columns > 36) | (columns < 24)).all()


def test_shift_is_at_most_its_share_of_the_side():
    """A spot moves by up to a tenth of the height and of the width, independently, in all four directions."""
    height, width = 60, 80
    moved = centres(changed(spot(30, 40, height, width), shift=0.1)) - [30, 40]
    limit = np.array([0.1 * height, 0.1 * width])
    assert (np.abs(moved) < limit + 0.05).all()
    assert (moved.min(0) < -0.8 * limit).all()
    assert (moved.max(0) > 0.8 * limit).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.4


def test_a_single_bright_pixel_shifts_with_its_mass():
    """Bilinear interpolation of a pure shift keeps a pixel's mass."""
    images = np.zeros((MANY, 41, 41, 1), np.float32)
    images[:, 20, 20] = 1
    out = changed(images, shift=0.2)
    np.testing.assert_allclose(out.sum((1, 2)), 1, rtol=0, atol=1e-4)
    assert (np.abs(centres(out) - 20) <= 0.2 * 41 + 1e-3).all()


def test_contrast_is_affine_and_keeps_the_mean():
    """Each image's grey values are scaled about their mean by one factor within 1 +- 0.3."""
    images = 0.45 + 0.1 * np.asarray(noise(MANY))
    before, out = images[..., 0], changed(images, contrast=0.3)
    mean = before.mean((1, 2), keepdims=True)
    factor = out.std((1, 2), keepdims=True) / before.std((1, 2), keepdims=True)
    np.testing.assert_allclose(out, (before - mean) * factor + mean, rtol=0, atol=1e-5)
    assert 0.7 - 1e-4 < factor.min() < 0.8
    assert 1.2 < factor.max() < 1.3 + 1e-4


def test_brightness_adds_one_value():
    """Each image's grey values move together, by at most 0.2 of the range, up or down."""
    images = 0.45 + 0.1 * np.asarray(noise(MANY))
    moved = changed(images, brightness=0.2) - images[..., 0]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1], moved.shape), rtol=0, atol=1e-6)
    assert -0.2 - 1e-5 < moved.min() < -0.15
    assert 0.15 < moved.max() < 0.2 + 1e-5


def test_gamma_is_one_power_for_each_image():
    """The exponent is between 1 / 1.5 and 1.5. Black stays black, white stays white, and the order of greys stays. It
    darkens as often as it brightens, by the same factors of the exponent."""
    ramp = np.linspace(0, 1, 40, dtype=np.float32).reshape(5, 8)
    out = changed(np.repeat(ramp[None, ..., None], 512, axis=0), gamma=0.5).reshape(512, -1)
    np.testing.assert_allclose(out[:, [0, -1]], np.broadcast_to([0, 1], (512, 2)), rtol=0, atol=1e-6)
    assert (np.diff(out, axis=1) > 0).all()
    exponents = np.log(out[:, 20]) / np.log(ramp.ravel()[20])
    np.testing.assert_allclose(out, ramp.ravel() ** exponents[:, None], rtol=0, atol=1e-5)
    assert 1 / 1.5 - 1e-4 < exponents.min() < 0.68
    assert 1.47 < exponents.max() < 1.5 + 1e-4
    # Four standard deviations of a share of 512, and of the mean of 512 uniform draws.
    assert abs(np.mean(exponents > 1) - 0.5) < 4 * 0.5 / np.sqrt(512)
    assert abs(np.log(exponents).mean()) < 4 * np.log(1.5) / np.sqrt(3 * 512)


def test_sharpness_removes_or_adds_what_a_blur_removes():
    """Each image moves towards its blur by SciPy, or away from it, by at most the share in the config."""
    images = 0.4 + 0.2 * np.asarray(noise(MANY, 100, 70))[..., 0]
    out = changed(images[..., None], sharpness=0.8)
    # A hundredth of the height is one pixel; weights end at 2.5 deviations or the next pixel.
    fine = images - np.stack([gaussian_filter(image.astype(float), 1.0, mode="nearest", radius=3) for image in images])
    removed = ((images - out) * fine).sum((1, 2)) / (fine**2).sum((1, 2))
    np.testing.assert_allclose(out, images - removed[:, None, None] * fine, rtol=0, atol=1e-5)
    assert -0.8 - 1e-3 < removed.min() < -0.7
    assert 0.7 < removed.max() < 0.8 + 1e-3


def test_sharpness_changes_edges_and_not_the_mean():
    """The mean intensity stays. Towards the blur, gradients become smaller; away from it, larger."""
    images = np.full((MANY, 100, 100, 1), 0.5, np.float32)
    images[:, 20:80, 20:80] = 0.4 + 0.2 * np.asarray(noise(1, 60, 60))
    out = changed(images, sharpness=0.8)
    np.testing.assert_allclose(out.mean((1, 2)), images.mean((1, 2, 3)), rtol=0, atol=1e-6)

    def energy(image):
        return sum((np.diff(image, axis=axis) ** 2).sum((1, 2)) for axis in (1, 2))

    ratio = energy(out) / energy(images[..., 0])
    # The correlation with the fine detail shows which way an image moved.
    fine = images[0, ..., 0] - gaussian_filter(images[0, ..., 0], 1.0)
    blurred = ((images[..., 0] - out) * fine).sum((1, 2)) > 0
    assert (ratio[blurred] < 1).all() and (ratio[~blurred] > 1).all()
    assert 20 < blurred.sum() < 44
    assert ratio.min() < 0.3 and ratio.max() > 2


def test_a_flat_image_has_no_detail_to_sharpen():
    """That holds at its border too: edges are repeated, not black."""
    flat = np.full((4, 60, 40, 1), 0.6, np.float32)
    np.testing.assert_allclose(changed(flat, sharpness=0.8), 0.6, rtol=0, atol=1e-6)


def test_noise_has_at_most_its_deviation_and_is_independent():
    """Each image has its own strength up to 0.03. Pixels and images are uncorrelated."""
    out = changed(np.full((MANY, 40, 40, 1), 0.5, np.float32), noise=0.03) - 0.5
    deviation = out.std((1, 2))
    # 1,600 pixels give a standard deviation to 1.8 %, and a mean to 1/40 of it.
    assert deviation.max() < 0.03 * 1.07
    assert deviation.min() < 0.003 and deviation.max() > 0.026
    assert 0.3 < np.mean(deviation < 0.015) < 0.7
    scaled = out / deviation[:, None, None]
    assert np.abs(scaled.mean((1, 2))).max() < 5 / 40
    assert abs((scaled**4).mean() - 3) < 0.1, "the kurtosis of a normal distribution"
    for axis in (1, 2):
        pairs = np.moveaxis(scaled, axis, 0)
        assert abs((pairs[1:] * pairs[:-1]).mean()) < 5 / np.sqrt(out.size)
    between = np.corrcoef(scaled.reshape(MANY, -1)) - np.eye(MANY)
    assert np.abs(between).max() < 5 / 40


def test_exposure_does_not_depend_on_the_place_in_the_image():
    """Contrast, brightness and gamma change a grey value in the same way at every pixel."""
    images = 0.2 + 0.6 * np.asarray(noise())
    strengths = {"contrast": 0.3, "brightness": 0.2, "gamma": 0.5}
    flipped = changed(images[:, ::-1, ::-1], **strengths)
    out = changed(images, **strengths)
    np.testing.assert_allclose(flipped[:, ::-1, ::-1], out, rtol=0, atol=1e-5)


def test_shading_is_a_smooth_factor():
    """It is the same for dark and for bright pixels, changes little from pixel to pixel, and is of both signs."""
    uniform = np.full((MANY, 48, 48, 1), 0.1, np.float32)
    field = np.log(changed(uniform, shading=0.3) / 0.1)
    np.testing.assert_allclose(np.log(changed(2 * uniform, shading=0.3) / 0.2), field, rtol=0, atol=1e-4)
    assert np.abs(np.diff(field, axis=1)).max() < 0.1 < field.max()
    assert field.min() < -0.1
    assert field.std() < 0.3


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("rotation", "brightness"),
        ("shift", "flip"),
        ("flip", "rotation"),
        ("stretch", "contrast"),
        ("contrast", "gamma"),
        ("brightness", "gamma"),
        ("gamma", "shading"),
        ("shading", "sharpness"),
        ("sharpness", "noise"),
        ("flip", "noise"),
    ],
)
def test_turning_one_kind_on_leaves_the_draws_of_the_others(first, then):
    """So recipes differ only in the kinds that they change. Two kinds together equal one after the other."""
    images = 0.45 + 0.1 * np.asarray(noise())
    both = {kind: 0.1 * ALL[kind] if kind == "noise" else ALL[kind] for kind in (first, then)}
    together = changed(changed(images, **{first: both[first]})[..., None], **{then: both[then]})
    np.testing.assert_allclose(changed(images, **both), together, rtol=0, atol=1e-4)


def test_kinds_are_drawn_independently():
    """The draws of any two kinds for an image are uncorrelated, to within four standard deviations."""
    images = np.repeat(0.45 + 0.1 * np.asarray(noise(1)), 512, axis=0)
    flat = np.full((512, 12, 12, 1), 0.5, np.float32)
    row, column = np.moveaxis(centres(changed(np.repeat(spot(14, 26, 41, 41)[:1], 512, axis=0), stretch=0.2)), 1, 0)
    drawn = {
        "rows' stretch": row, "columns' stretch": column,
        "flip": changed(images, flip=0.5)[:, 0, 0],
        "contrast": changed(images, contrast=0.3).std((1, 2)),
        "brightness": changed(flat, brightness=0.2).mean((1, 2)),
        "gamma": changed(flat, gamma=0.5).mean((1, 2)),
        "shading": changed(flat, shading=0.5).std((1, 2)),
        "sharpness": changed(images, sharpness=0.8).std((1, 2)),
        "noise": changed(flat, noise=0.03).std((1, 2)),
    }  # fmt: skip
    assert min(value.std() for value in drawn.values()) > 1e-3
    correlation = np.corrcoef(list(drawn.values())) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 4 / np.sqrt(512), drawn.keys()
