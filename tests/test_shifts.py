"""Shifts: what each makes of small made images, measured by hand, NumPy and Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from pneumojax import shifts
from pneumojax.data.readers import Split

SHAPES = [(40, 40), (36, 64), (70, 33)]
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey level once


def picture(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    """A grainy slope with a bright square off the centre: no shift leaves it as it is."""
    rng = np.random.default_rng(seed)
    image = np.linspace(20, 160, height)[:, None] + np.linspace(0, 30, width) + rng.normal(0, 12, (height, width))
    image[height // 5 : height // 2, width // 4 : width // 2] += 40
    return np.clip(image, 0, 255).astype(np.uint8)


def shift(name: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return shifts.SHIFTS[name](image, np.random.default_rng(seed))


def split(images: np.ndarray) -> Split:
    ids = np.array([f"{i}.png" for i in range(len(images))])
    return Split("test", ids, np.zeros(len(images), np.uint8), lambda indices: images[indices][..., None])


def rectangle(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """A centred bright rectangle on a dark ground; its sides and the image's are both even or both odd."""
    image = np.full((height, width), 30, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    image[top : top + rows, left : left + columns] = 230
    return image


def extent(image: np.ndarray) -> tuple[float, float]:
    """Height and width of the bright rectangle, to a part of a pixel: what its middle column and row hold of it."""
    share = (image.astype(float) - 30) / 200
    return share[:, image.shape[1] // 2].sum(), share[image.shape[0] // 2].sum()


def centre(image: np.ndarray) -> np.ndarray:
    """(row, column) of the mean of what is brighter than the ground."""
    share = image.astype(float) - 30
    return np.array([(share * axis).sum() for axis in np.indices(image.shape)]) / share.sum()


def roughness(image: np.ndarray) -> float:
    """The mean squared difference of neighbours, of both axes."""
    return sum(np.mean(np.diff(image.astype(float), axis=axis) ** 2) for axis in (0, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", shifts.SHIFTS)
def test_a_shift_changes_the_picture_and_keeps_its_form(name, shape):
    """The model takes what comes out as it takes what went in; and what went in is the split's own."""
    image = picture(*shape)
    before = image.copy()
    out = shift(name, image)
    assert out.shape == shape
    assert out.dtype == np.uint8
    assert np.mean(out != image) > 0.3
    np.testing.assert_array_equal(image, before)


def test_every_shift_is_another():
    outs = {name: shift(name, picture()).tobytes() for name in shifts.SHIFTS}
    assert len(set(outs.values())) == len(shifts.SHIFTS)
    assert shifts.CLEAN not in shifts.SHIFTS, "the name of no shift stands beside them in one file"


@pytest.mark.parametrize("name", shifts.SHIFTS)
@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_a_plain_image_does_not_wrap_around(name, level):
    """A value that leaves the range must stop at its end: white that turns black is no acquisition."""
    out = shift(name, np.full((24, 24), level, np.uint8)).astype(int)
    # JPEG of quality 20 keeps the mean of a block in steps of 40 / 8 levels; the noise reaches five deviations.
    limit = {"dark": 40, "bright": 40, "noise": 51, "jpeg": 3}.get(name, 0)
    assert np.abs(out - level).max() <= limit


@pytest.mark.parametrize("name", shifts.SHIFTS)
def test_an_image_hangs_on_its_place_alone(name):
    """Batches cut a split differently on every number of processes, and pad it with images read before."""
    changed = shifts.shifted(split(np.stack([picture(seed=i) for i in range(6)])), name)
    together = changed.read(np.arange(6))
    assert together.shape == (6, 40, 40, 1)
    assert together.dtype == np.uint8
    np.testing.assert_array_equal(changed.read(np.array([3])), together[3:4])
    np.testing.assert_array_equal(changed.read(np.array([5, 3, 3, 0])), together[[5, 3, 3, 0]])
    for i in range(6):
        np.testing.assert_array_equal(together[i, ..., 0], shift(name, picture(seed=i), seed=i))


def test_a_shifted_split_is_the_same_otherwise():
    clean = split(np.stack([picture(seed=i) for i in range(3)]))
    changed = shifts.shifted(clean, "dark")
    assert changed.name == clean.name
    assert changed.ids is clean.ids
    assert changed.labels is clean.labels
    np.testing.assert_array_equal(clean.read(np.arange(3))[1, ..., 0], picture(seed=1))


def test_noise_differs_between_places():
    """One pattern over a whole split would be a mark on the films, which a model may learn to see past."""
    image = np.full((100, 100), 128, np.uint8)
    read = shifts.shifted(split(np.stack([image] * 3)), "noise").read(np.arange(3))[..., 0].astype(float) - 128
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(read[i].ravel(), read[j].ravel())[0, 1]) < 0.05, "5 standard errors of 10,000 pixels"


def test_noise_has_the_deviation_it_names():
    noise = shift("noise", np.full((200, 200), 128, np.uint8)).astype(float) - 128
    assert abs(noise.mean()) < 0.3
    # 0.04 of 255, and the variance 1 / 12 of rounding.
    assert noise.std() == pytest.approx(np.sqrt(10.2**2 + 1 / 12), rel=0.02)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.03, "pixels are apart"


def test_dark_and_bright_by_hand():
    """(64 / 255) ^ 1.5 is 0.1257, which is level 32; (128 / 255) ^ (2 / 3) is 0.6317, which is level 161."""
    dark, bright = shift("dark", RAMP).ravel(), shift("bright", RAMP).ravel()
    assert dark[64] == 32
    assert bright[128] == 161
    for out in (dark, bright):
        assert (out[0], out[255]) == (0, 255)
        assert (np.diff(out.astype(int)) >= 0).all(), "an order of greys is kept"
    assert (dark <= RAMP.ravel()).all() and dark.mean() < RAMP.mean() - 20
    assert (bright >= RAMP.ravel()).all() and bright.mean() > RAMP.mean() + 20


def test_bright_inverts_dark():
    """But for levels that rounding makes one: dark has three levels for the lowest ten."""
    there_and_back = shift("dark", shift("bright", RAMP)).astype(int)
    np.testing.assert_allclose(there_and_back, RAMP, atol=1)
    other_way = shift("bright", shift("dark", RAMP)).astype(int)
    np.testing.assert_allclose(other_way.ravel()[16:], RAMP.ravel()[16:], atol=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_flat_has_the_contrast_it_names(shape):
    image = picture(*shape)
    out = shift("flat", image)
    assert out.mean() == pytest.approx(image.mean(), abs=0.1)
    assert out.std() == pytest.approx(0.6 * image.std(), rel=0.01)
    np.testing.assert_allclose(out, 0.6 * image + 0.4 * image.mean(), atol=0.51)


def test_equalized_has_a_uniform_histogram():
    """A dark image whose levels crowd about 40: afterwards a share v of the pixels lies below v of the range."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(40, 12, (200, 200)), 0, 255).astype(np.uint8)
    levels = np.arange(256)

    def unevenness(given):
        return np.abs((given.ravel() <= levels[:, None]).mean(axis=1) - levels / 255).max()

    # A level of the crowd holds 3.3 % of the pixels, and no map of levels divides it.
    assert unevenness(shift("equalized", image)) < 0.04 < 0.5 < unevenness(image)


def test_equalized_keeps_the_order_of_greys():
    image = picture()
    out = shift("equalized", image)
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("shape", [(100, 100), (120, 80)])
def test_blur_smooths_and_keeps_the_mean(shape):
    image = np.full(shape, 60, np.uint8)
    image[30:60, 20:50] = picture(30, 30)
    out = shift("blur", image)
    assert out.mean() == pytest.approx(image.mean(), abs=0.1)
    assert roughness(out) < 0.6 * roughness(image)
    np.testing.assert_array_equal(out[70:], 60, "what is plain stays so")


@pytest.mark.parametrize("side", [100, 200, 300])
def test_blur_is_a_gaussian_of_a_hundredth_of_the_side(side):
    """A step becomes the normal distribution, whose variance is that of its differences; rounding adds little."""
    image = np.zeros((side, side), np.uint8)
    image[:, side // 2 :] = 250
    slope = np.diff(shift("blur", image)[side // 2].astype(float)) / 250
    at = np.arange(side - 1) - (side / 2 - 1)
    assert slope.sum() == pytest.approx(1)
    assert (slope * at).sum() == pytest.approx(0, abs=0.01)
    assert np.sqrt((slope * at**2).sum()) == pytest.approx(side / 100, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_jpeg_equals_pillow(shape):
    image = picture(*shape)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=20)
    np.testing.assert_array_equal(shift("jpeg", image), np.asarray(Image.open(io.BytesIO(file.getvalue()))))


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("crop", 1.2, 1.2), ("distant", 1 / 1.2, 1 / 1.2), ("wide", 1.0, 1.2), ("tall", 1.2, 1.0)],
)
@pytest.mark.parametrize(
    ("height", "width", "box"), [(100, 100, (40, 60)), (81, 81, (41, 31)), (60, 120, (24, 70)), (121, 70, (71, 20))]
)
def test_a_centred_rectangle_scales_by_the_named_factors(name, rows, columns, height, width, box):
    """It stays in the centre; where axes or factors were swapped, a side would be off by a sixth or more."""
    image = rectangle(height, width, *box)
    assert extent(image) == box
    out = shift(name, image)
    assert out.shape == image.shape
    assert extent(out) == pytest.approx((rows * box[0], columns * box[1]), abs=1)
    np.testing.assert_allclose(centre(out), [(height - 1) / 2, (width - 1) / 2], atol=0.05)
    assert (out.min(), out.max()) == (30, 230)


def test_what_lies_outside_takes_the_nearest_edge():
    """No black frame, which a model could tell the shift by: at 1 / 1.2 a twelfth of each side is edge."""
    image = np.tile(np.linspace(50, 200, 60).astype(np.uint8), (60, 1))
    out = shift("distant", image)
    np.testing.assert_array_equal(out[:, :5], 50)
    np.testing.assert_array_equal(out[:, -5:], 200)
    np.testing.assert_array_equal(out[0], out[30])
