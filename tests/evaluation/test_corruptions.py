"""Corruptions of small synthetic images, measured by hand, by NumPy and by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.source import Split
from pneumojax.evaluation import corruptions

SHAPES = [(40, 40), (36, 64), (70, 33)]
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey level once


def picture(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    """Return a grainy slope with a bright square off the centre, which every corruption changes."""
    rng = np.random.default_rng(seed)
    image = np.linspace(20, 160, height)[:, None] + np.linspace(0, 30, width) + rng.normal(0, 12, (height, width))
    image[height // 5 : height // 2, width // 4 : width // 2] += 40
    return np.clip(image, 0, 255).astype(np.uint8)


def corrupt(name: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return corruptions.CORRUPTIONS[name](image, np.random.default_rng(seed))


def split(images: np.ndarray) -> Split:
    ids = np.array([f"{i}.png" for i in range(len(images))])
    return Split("test", ids, np.zeros(len(images), np.uint8), lambda indices: images[indices][..., None])


def rectangle(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Return a centred bright rectangle on a dark background; its sides and the image's are both even or both odd."""
    image = np.full((height, width), 30, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    image[top : top + rows, left : left + columns] = 230
    return image


def extent(image: np.ndarray) -> tuple[float, float]:
    """Measure the height and width of the bright rectangle, in fractions of pixels, on its middle column and row."""
    share = (image.astype(float) - 30) / 200
    return share[:, image.shape[1] // 2].sum(), share[image.shape[0] // 2].sum()


def centre(image: np.ndarray) -> np.ndarray:
    """Return the (row, column) of the centre of what is brighter than the background."""
    share = image.astype(float) - 30
    return np.array([(share * axis).sum() for axis in np.indices(image.shape)]) / share.sum()


def roughness(image: np.ndarray) -> float:
    """Return the mean squared difference of neighbours, summed over both axes."""
    return sum(np.mean(np.diff(image.astype(float), axis=axis) ** 2) for axis in (0, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_corruption_changes_pixels_but_not_shape_or_type(name, shape):
    """It must not change the image it was given either, which belongs to the split."""
    image = picture(*shape)
    before = image.copy()
    out = corrupt(name, image)
    assert out.shape == shape
    assert out.dtype == np.uint8
    assert np.mean(out != image) > 0.3
    np.testing.assert_array_equal(image, before)


def test_every_corruption_is_different():
    outs = {name: corrupt(name, picture()).tobytes() for name in corruptions.CORRUPTIONS}
    assert len(set(outs.values())) == len(corruptions.CORRUPTIONS)
    assert corruptions.CLEAN not in corruptions.CORRUPTIONS, "both are keys of one file"


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_a_plain_image_does_not_wrap_around(name, level):
    """Values beyond the range must be clipped."""
    out = corrupt(name, np.full((24, 24), level, np.uint8)).astype(int)
    # JPEG at quality 20 stores the mean of a block in steps of 40 / 8 levels; noise reaches five standard deviations.
    limit = {"dark": 40, "bright": 40, "noise": 51, "jpeg": 3}.get(name, 0)
    assert np.abs(out - level).max() <= limit


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_an_image_depends_only_on_its_index(name):
    """Batches divide a split differently on other numbers of processes, and are padded with repeated images."""
    changed = corruptions.corrupted(split(np.stack([picture(seed=i) for i in range(6)])), name)
    together = changed.read(np.arange(6))
    assert together.shape == (6, 40, 40, 1)
    assert together.dtype == np.uint8
    np.testing.assert_array_equal(changed.read(np.array([3])), together[3:4])
    np.testing.assert_array_equal(changed.read(np.array([5, 3, 3, 0])), together[[5, 3, 3, 0]])
    for i in range(6):
        np.testing.assert_array_equal(together[i, ..., 0], corrupt(name, picture(seed=i), seed=i))


def test_a_corrupted_split_has_the_same_ids_and_labels():
    clean = split(np.stack([picture(seed=i) for i in range(3)]))
    changed = corruptions.corrupted(clean, "dark")
    assert changed.name == clean.name
    assert changed.ids is clean.ids
    assert changed.labels is clean.labels
    np.testing.assert_array_equal(clean.read(np.arange(3))[1, ..., 0], picture(seed=1))


def test_noise_differs_between_images():
    """One pattern over a whole split would not be noise."""
    image = np.full((100, 100), 128, np.uint8)
    read = corruptions.corrupted(split(np.stack([image] * 3)), "noise").read(np.arange(3))[..., 0].astype(float) - 128
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(read[i].ravel(), read[j].ravel())[0, 1]) < 0.05, "5 standard errors of 10,000 pixels"


def test_noise_has_its_stated_deviation():
    noise = corrupt("noise", np.full((200, 200), 128, np.uint8)).astype(float) - 128
    assert abs(noise.mean()) < 0.3
    # 0.04 of 255, and rounding with a variance of 1 / 12.
    assert noise.std() == pytest.approx(np.sqrt(10.2**2 + 1 / 12), rel=0.02)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.03, "pixels are independent"


def test_dark_and_bright_by_hand():
    """(64 / 255) ^ 1.5 is 0.1257, which is level 32; (128 / 255) ^ (2 / 3) is 0.6317, which is level 161."""
    dark, bright = corrupt("dark", RAMP).ravel(), corrupt("bright", RAMP).ravel()
    assert dark[64] == 32
    assert bright[128] == 161
    for out in (dark, bright):
        assert (out[0], out[255]) == (0, 255)
        assert (np.diff(out.astype(int)) >= 0).all(), "the order of grey levels is kept"
    assert (dark <= RAMP.ravel()).all() and dark.mean() < RAMP.mean() - 20
    assert (bright >= RAMP.ravel()).all() and bright.mean() > RAMP.mean() + 20


def test_bright_inverts_dark():
    """Except where rounding merges levels: dark has three levels for the lowest ten."""
    there_and_back = corrupt("dark", corrupt("bright", RAMP)).astype(int)
    np.testing.assert_allclose(there_and_back, RAMP, atol=1)
    other_way = corrupt("bright", corrupt("dark", RAMP)).astype(int)
    np.testing.assert_allclose(other_way.ravel()[16:], RAMP.ravel()[16:], atol=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_flat_has_its_stated_contrast(shape):
    image = picture(*shape)
    out = corrupt("flat", image)
    assert out.mean() == pytest.approx(image.mean(), abs=0.1)
    assert out.std() == pytest.approx(0.6 * image.std(), rel=0.01)
    np.testing.assert_allclose(out, 0.6 * image + 0.4 * image.mean(), atol=0.51)


def test_equalized_has_a_uniform_histogram():
    """The image is dark, with levels around 40; afterwards a share v of the pixels must be below v of the range."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(40, 12, (200, 200)), 0, 255).astype(np.uint8)
    levels = np.arange(256)

    def distance_from_uniform(pixels):
        return np.abs((pixels.ravel() <= levels[:, None]).mean(axis=1) - levels / 255).max()

    # The most frequent level has 3.3 % of the pixels, and cannot be divided.
    assert distance_from_uniform(corrupt("equalized", image)) < 0.04 < 0.5 < distance_from_uniform(image)


def test_equalized_keeps_the_order_of_grey_levels():
    image = picture()
    out = corrupt("equalized", image)
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("shape", [(100, 100), (120, 80)])
def test_blur_smooths_and_keeps_the_mean(shape):
    image = np.full(shape, 60, np.uint8)
    image[30:60, 20:50] = picture(30, 30)
    out = corrupt("blur", image)
    assert out.mean() == pytest.approx(image.mean(), abs=0.1)
    assert roughness(out) < 0.6 * roughness(image)
    np.testing.assert_array_equal(out[70:], 60, "uniform areas stay uniform")


@pytest.mark.parametrize("side", [100, 200, 300])
def test_blur_is_a_gaussian_of_a_hundredth_of_the_side(side):
    """It turns a step into the normal distribution function; rounding changes the variance little."""
    image = np.zeros((side, side), np.uint8)
    image[:, side // 2 :] = 250
    slope = np.diff(corrupt("blur", image)[side // 2].astype(float)) / 250
    at = np.arange(side - 1) - (side / 2 - 1)
    assert slope.sum() == pytest.approx(1)
    assert (slope * at).sum() == pytest.approx(0, abs=0.01)
    assert np.sqrt((slope * at**2).sum()) == pytest.approx(side / 100, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_jpeg_equals_pillow(shape):
    image = picture(*shape)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=20)
    np.testing.assert_array_equal(corrupt("jpeg", image), np.asarray(Image.open(io.BytesIO(file.getvalue()))))


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("crop", 1.2, 1.2), ("distant", 1 / 1.2, 1 / 1.2), ("wide", 1.0, 1.2), ("tall", 1.2, 1.0)],
)
@pytest.mark.parametrize(
    ("height", "width", "box"), [(100, 100, (40, 60)), (81, 81, (41, 31)), (60, 120, (24, 70)), (121, 70, (71, 20))]
)
def test_a_centred_rectangle_scales_by_the_stated_factors(name, rows, columns, height, width, box):
    """It stays in the centre; if axes or factors were swapped, a side would be wrong by at least a sixth."""
    image = rectangle(height, width, *box)
    assert extent(image) == box
    out = corrupt(name, image)
    assert out.shape == image.shape
    assert extent(out) == pytest.approx((rows * box[0], columns * box[1]), abs=1)
    np.testing.assert_allclose(centre(out), [(height - 1) / 2, (width - 1) / 2], atol=0.05)
    assert (out.min(), out.max()) == (30, 230)


def test_pixels_from_outside_repeat_the_nearest_edge():
    """A black frame would reveal the corruption. At 1 / 1.2, a twelfth of each side comes from outside."""
    image = np.tile(np.linspace(50, 200, 60).astype(np.uint8), (60, 1))
    out = corrupt("distant", image)
    np.testing.assert_array_equal(out[:, :5], 50)
    np.testing.assert_array_equal(out[:, -5:], 200)
    np.testing.assert_array_equal(out[0], out[30])
