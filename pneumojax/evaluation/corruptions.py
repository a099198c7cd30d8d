"""Image corruptions of one strength each, to measure robustness: pure functions of images.

They are independent of `training/augment.py` and use other libraries, so that a model is not measured by exactly what
it was trained on.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64, Integer, UInt8
from PIL import Image, ImageOps

from pneumojax.data.source import Split

CLEAN = "clean"  # the name of no corruption, beside those of `CORRUPTIONS`

Pixels = UInt8[np.ndarray, "height width"]
Intensities = Float64[np.ndarray, "height width"]
Corruption = Callable[[Pixels, np.random.Generator], Pixels]


def _curve(change: Callable[[Intensities], Intensities]) -> Corruption:
    """Make a corruption that only maps intensities, which are in [0, 1]."""

    def corrupt(image: Pixels, rng: np.random.Generator) -> Pixels:
        return _pixels(change(image / 255.0))

    return corrupt


def _pixels(intensities: Intensities) -> Pixels:
    return np.clip(np.rint(intensities * 255), 0, 255).astype(np.uint8)


def _flatten(image: Intensities) -> Intensities:
    return 0.6 * (image - image.mean()) + image.mean()


def _equalize(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def _blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    from scipy import ndimage  # not at the top: it is slow to import

    return _pixels(ndimage.gaussian_filter(image / 255.0, image.shape[0] / 100, mode="nearest"))


def _noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    return _pixels(image / 255.0 + rng.normal(0, 0.04, image.shape))


def _jpeg(image: Pixels, rng: np.random.Generator) -> Pixels:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=20)
    return np.asarray(Image.open(out))


def _scaled(rows: float, columns: float) -> Corruption:
    """Make a corruption that scales about the centre; pixels from outside the image repeat its nearest edge."""

    def corrupt(image: Pixels, rng: np.random.Generator) -> Pixels:
        from scipy import ndimage  # not at the top: it is slow to import

        scales = np.array([rows, columns])
        offset: Any = (np.array(image.shape) - 1) / 2 * (1 - 1 / scales)  # SciPy's type forbids one for each axis
        return _pixels(ndimage.affine_transform(image / 255.0, 1 / scales, offset, order=1, mode="nearest"))

    return corrupt


CORRUPTIONS: dict[str, Corruption] = {
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
"""By name, functions that take a grey image and a random generator and return an image of the same shape.

dark, bright: intensities to the power of 1.5 and of 1 / 1.5. flat: contrast about the mean times 0.6. equalized:
histogram equalisation. blur: Gaussian with a standard deviation of 1 % of the height. noise: Gaussian with a standard
deviation of 4 % of the range. jpeg: compression at quality 20. crop, distant: scaled up and down by 1.2. wide, tall:
one axis scaled up by 1.2, as when images of other proportions are squashed to a square.
"""


def corrupted(split: Split, name: str) -> Split:
    """Return the split with corrupted images. An image's noise depends only on its index in the split."""

    def read(indices: Integer[np.ndarray, " k"]) -> UInt8[np.ndarray, "k height width 1"]:
        pairs = zip(split.read(indices)[..., 0], map(np.random.default_rng, indices), strict=True)
        return np.stack([CORRUPTIONS[name](image, rng) for image, rng in pairs])[..., None]

    return split._replace(read=read)
