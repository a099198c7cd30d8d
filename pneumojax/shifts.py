"""Other acquisitions, made on purpose: pure functions of images, of one strength each, to measure robustness by.

They are written apart from `augment.py`, by other libraries: what training has seen a like of is not thereby what it is
measured by.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from pneumojax.data.readers import Split

CLEAN = "clean"  # the name of no shift


def _curve(change: Callable[[np.ndarray], np.ndarray]):
    """A shift that maps intensities in [0, 1] alone."""
    return lambda image, rng: _bytes(change(image / 255.0))


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _flatten(image: np.ndarray) -> np.ndarray:
    return 0.6 * (image - image.mean()) + image.mean()


def _equalize(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _bytes(ndimage.gaussian_filter(image / 255.0, image.shape[0] / 100, mode="nearest"))


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _bytes(image / 255.0 + rng.normal(0, 0.04, image.shape))


def _jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=20)
    return np.asarray(Image.open(out))


def _scaled(rows: float, columns: float):
    """A shift that scales about the centre; what lies outside takes the nearest edge."""

    def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        scales = np.array([rows, columns])
        offset = (np.array(image.shape) - 1) / 2 * (1 - 1 / scales)
        return _bytes(ndimage.affine_transform(image / 255.0, 1 / scales, offset, order=1, mode="nearest"))

    return shift


SHIFTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "dark": _curve(lambda image: image**1.5),
    "bright": _curve(lambda image: image ** (1 / 1.5)),
    "flat": _curve(_flatten),
    "equalized": _equalize,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "crop": _scaled(1.2, 1.2),
    "distant": _scaled(1 / 1.2, 1 / 1.2),
    "wide": _scaled(1.0, 1.2),
    "tall": _scaled(1.2, 1.0),
}
"""Name -> (image (height, width) uint8, generator) -> image of the same shape and type.

dark, bright: intensities to the power of 1.5 and of 1 / 1.5. flat: 0.6 of the contrast about the mean. equalized:
histogram equalisation. blur: a Gaussian of a hundredth of the side. noise: Gaussian, standard deviation 0.04 of the
range. jpeg: written and read at quality 20. crop, distant: larger and smaller by 1.2, both axes; wide, tall: one axis,
as where films of other proportions are squashed to a square.
"""


def shifted(split: Split, name: str) -> Split:
    """The split as another acquisition would show it; an image's noise hangs on its place in the split alone."""

    def read(indices: np.ndarray) -> np.ndarray:
        pairs = zip(split.read(indices)[..., 0], map(np.random.default_rng, indices), strict=True)
        return np.stack([SHIFTS[name](image, rng) for image, rng in pairs])[..., None]

    return split._replace(read=read)
