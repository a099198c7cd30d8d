"""Augmentation: pure, keyed by an image's place, within the range, and no stronger than asked."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from pneumojax.augment import augment

KINDS = ("rotation", "zoom", "shift", "contrast", "brightness")
ALL = {"rotation": 20.0, "zoom": 0.2, "shift": 0.1, "contrast": 0.3, "brightness": 0.2}
EXTREME = {"rotation": 180.0, "zoom": 0.9, "shift": 1.0, "contrast": 5.0, "brightness": 1.0}
MANY = 64


def strength(**given) -> ConfigDict:
    """The config's `augment`, zero where not given."""
    return ConfigDict({name: given.get(name, 0.0) for name in KINDS})


def noise(batch: int = 6, height: int = 20, width: int = 26, seed: int = 0) -> jax.Array:
    """(batch, height, width, 1) float32 in [0, 1)."""
    return jax.random.uniform(jax.random.key(seed), (batch, height, width, 1))


@cache
def compiled(given: tuple[tuple[str, float], ...]):
    """`augment` of one strength as one program."""
    return jax.jit(partial(augment, strength=strength(**dict(given))))


def changed(images, seed=1, **given) -> np.ndarray:
    """Augmented with what is given, (batch, height, width)."""
    return np.asarray(compiled(tuple(given.items()))(jax.random.key(seed), jnp.asarray(images)))[..., 0]


def spot(row: float, column: float, height: int = 61, width: int = 61, radius: float = 2.0) -> np.ndarray:
    """`MANY` equal images of one bright spot on black, (MANY, height, width, 1) float32."""
    rows, columns = np.mgrid[:height, :width]
    image = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
    return np.repeat(image[None, ..., None], MANY, axis=0).astype(np.float32)


def centres(images: np.ndarray) -> np.ndarray:
    """Centre of mass of each image, (batch, 2) as (row, column)."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = images.sum((1, 2))
    return np.stack([(images * rows).sum((1, 2)) / mass, (images * columns).sum((1, 2)) / mass], axis=1)


def test_zero_strength_is_the_identity():
    """Bit for bit: the literal recipe trains on the images as they are."""
    images = noise()
    np.testing.assert_array_equal(augment(jax.random.key(0), images, strength()), images)


@pytest.mark.parametrize("kind", KINDS)
def test_key_decides(kind):
    """The same key gives the same images; another key gives others."""
    images, given = noise(), {kind: ALL[kind]}
    once = changed(images, seed=1, **given)
    np.testing.assert_array_equal(changed(images, seed=1, **given), once)
    assert np.abs(changed(images, seed=2, **given) - once).max() > 1e-3


def test_jit_changes_nothing():
    """To the rounding of coordinates."""
    images = noise()
    plain = augment(jax.random.key(1), images, strength(**ALL))
    np.testing.assert_allclose(plain[..., 0], changed(images, seed=1, **ALL), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_of_a_batch_is_changed_differently(kind):
    """Equal images come out different from the original and, two by two, from each other."""
    one = noise(1)
    out = changed(jnp.repeat(one, len(noise()), axis=0), **{kind: ALL[kind]})
    all_of_them = np.concatenate([np.asarray(one)[..., 0], out])
    distance = np.abs(all_of_them[:, None] - all_of_them[None]).max((2, 3))
    assert (distance[~np.eye(len(all_of_them), dtype=bool)] > 1e-3).all()


def test_a_change_hangs_on_the_place_in_the_batch_alone():
    """Neither the rest of the batch nor its size matters, so that dividing the batch over devices does not."""
    images = noise()
    whole = changed(images, **ALL)
    # To the rounding of coordinates, which each batch size compiles for itself.
    np.testing.assert_allclose(changed(images[:3], **ALL), whole[:3], rtol=0, atol=1e-4)
    others = jnp.concatenate([images[:3], noise(3, seed=9)])
    np.testing.assert_allclose(changed(others, **ALL)[:3], whole[:3], rtol=0, atol=1e-6)
    # And on nothing of the image: the same image in another place is changed otherwise.
    assert np.abs(changed(images[::-1], **ALL)[::-1] - whole).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("given", [ALL, EXTREME], ids=["usual", "extreme"])
def test_shape_dtype_and_range_are_kept(given):
    """However strong, an augmented image is an image: oblong, float32, finite and in [0, 1]."""
    images = jnp.round(noise())  # black and white, where any overshoot leaves the range
    out = augment(jax.random.key(3), images, strength(**given))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_affine_maps_bring_in_no_border():
    """What comes from outside takes the nearest edge: an even image stays even, without black corners."""
    out = changed(np.full((MANY, 20, 26, 1), 0.7, np.float32), rotation=180.0, zoom=0.5, shift=0.5)
    np.testing.assert_allclose(out, 0.7, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [40, 41])
def test_rotation_leaves_a_centred_disc(side):
    """The image turns about its centre, on even and odd sides: what is round about it stays, to interpolation."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    disc = 1 / (1 + np.exp(np.hypot(rows, columns) - 10))
    images = np.repeat(disc[None, ..., None], MANY, axis=0).astype(np.float32)
    out = changed(images, rotation=180.0)
    # The bound is for the middle, which no corner outside the image reaches.
    middle = np.hypot(rows, columns) < side / 2
    np.testing.assert_allclose(out[:, middle], images[..., 0][:, middle], rtol=0, atol=0.03)


def test_rotation_is_by_at_most_its_degrees():
    """A spot stays as far from the centre as it was and turns both ways, by up to 30 degrees and by most of them."""
    row, column = np.moveaxis(centres(changed(spot(30, 50), rotation=30.0)), 1, 0) - 30
    np.testing.assert_allclose(np.hypot(row, column), 20, rtol=0, atol=0.1)
    angles = np.degrees(np.arctan2(row, column))
    assert np.abs(angles).max() < 30.5
    assert angles.min() < -20
    assert angles.max() > 20


def test_zoom_scales_about_the_centre():
    """A spot off the centre moves along its ray to between 0.8 and 1.2 of its distance, both ways."""
    row, column = np.moveaxis(centres(changed(spot(30, 45), zoom=0.2)), 1, 0) - 30
    np.testing.assert_allclose(row, 0, rtol=0, atol=0.02)
    assert 0.79 * 15 < column.min() < 0.9 * 15
    assert 1.1 * 15 < column.max() < 1.21 * 15


def test_shift_is_by_at_most_its_share_of_the_side():
    """A spot moves up to a tenth of the height and of the width, each its own, in all four directions."""
    height, width = 60, 80
    moved = centres(changed(spot(30, 40, height, width), shift=0.1)) - [30, 40]
    limit = np.array([0.1 * height, 0.1 * width])
    assert (np.abs(moved) < limit + 0.05).all()
    assert (moved.min(0) < -0.8 * limit).all()
    assert (moved.max(0) > 0.8 * limit).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.4


def test_a_single_bright_pixel_shifts_with_its_mass():
    """Bilinear reading of a pure shift keeps a pixel's mass: nothing is sharpened, blurred away or doubled."""
    images = np.zeros((MANY, 41, 41, 1), np.float32)
    images[:, 20, 20] = 1
    out = changed(images, shift=0.2)
    np.testing.assert_allclose(out.sum((1, 2)), 1, rtol=0, atol=1e-4)
    assert (np.abs(centres(out) - 20) <= 0.2 * 41 + 1e-3).all()


def test_contrast_is_affine_and_keeps_the_mean():
    """Each image's grey values spread about their mean by a factor within 1 +- 0.3, the same at every pixel."""
    images = 0.45 + 0.1 * np.asarray(noise(MANY))
    before, out = images[..., 0], changed(images, contrast=0.3)
    mean = before.mean((1, 2), keepdims=True)
    factor = out.std((1, 2), keepdims=True) / before.std((1, 2), keepdims=True)
    np.testing.assert_allclose(out, (before - mean) * factor + mean, rtol=0, atol=1e-5)
    assert 0.7 - 1e-4 < factor.min() < 0.8
    assert 1.2 < factor.max() < 1.3 + 1e-4


def test_brightness_adds_one_value():
    """Each image's grey values move together, by at most 0.2 of the range, up and down."""
    images = 0.45 + 0.1 * np.asarray(noise(MANY))
    moved = changed(images, brightness=0.2) - images[..., 0]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1], moved.shape), rtol=0, atol=1e-6)
    assert -0.2 - 1e-5 < moved.min() < -0.15
    assert 0.15 < moved.max() < 0.2 + 1e-5


def test_exposure_hangs_on_no_place_in_the_image():
    """Contrast and brightness together move a grey value the same wherever it lies: never a pixel's place."""
    images = np.asarray(noise())
    flipped = changed(images[:, ::-1, ::-1], contrast=0.3, brightness=0.2)
    out = changed(images, contrast=0.3, brightness=0.2)
    np.testing.assert_allclose(flipped[:, ::-1, ::-1], out, rtol=0, atol=1e-5)


def test_kinds_are_drawn_independently():
    """Turning one kind on does not draw another's numbers anew: recipes differ in what they name alone."""
    images = 0.45 + 0.1 * np.asarray(noise())
    together = changed(changed(images, rotation=20.0)[..., None], brightness=0.2)
    np.testing.assert_allclose(changed(images, rotation=20.0, brightness=0.2), together, rtol=0, atol=1e-4)
