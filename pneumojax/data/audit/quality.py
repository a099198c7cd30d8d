"""The checks behind quality flags: is one image a whole radiograph, shown as usual?"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import MAX_PIXELS, open_file

MIN_SIDE = 32  # px
MAX_ASPECT = 4

# Measured on 5,232 radiographs of children (Kermany et al.), 48 of them at full size too, and on 800 phantoms.
MIN_COLOUR = 8.0  # grey levels between channels, mean over the image: grey as RGB has 0, a scan with a tint 13
MIN_RANGE = 20.0  # grey levels from the 1st to the 99th percentile: radiographs have 84 at least
MIN_BRIGHT = 130.0  # grey levels of the 99th percentile, where the range was guessed: radiographs have 131 at least
MIN_GUESSED_RANGE = 60.0  # as MIN_RANGE, where the range was chosen by the brightest pixel
MAX_INVERTED = -1.0  # uprightness: radiographs have 0.4 at least, and 95 of 100 have 2.7 or more

# Places of a thumbnail: midline, both lungs, both margins; and their weights in the uprightness.
_PLACES = (np.s_[8:24, 14:18], np.s_[8:20, 6:12], np.s_[8:20, 20:26], np.s_[:, :2], np.s_[:, -2:])
_WEIGHTS = (2, -0.5, -0.5, -0.5, -0.5)

_SIDE = 50  # px; colour is judged on a square this small, so that a JPEG is decoded at a part of its size
_GREY = ("1", "L", "LA", *images.WIDE_MODES)
_MANY = 10_000_000  # pixels; of more, only some are converted to RGB


class Declared(NamedTuple):
    """What a file declares about its picture, found without a full decode.

    Attributes:
      format: such as "JPEG" or "DICOM", by content; empty for others.
      width, height: in pixels; None for DICOM, whose reader judges them, and where the file does not say.
      colour: whether its channels differ.
      lateral: whether a DICOM header says that it is a lateral film.
    """

    format: str = ""
    width: int | None = None
    height: int | None = None
    colour: bool = False
    lateral: bool = False


def declared(path: Path) -> Declared:
    """Return as much as can be read from the file."""
    result = Declared()
    with suppress(Exception):  # decoders raise errors of many kinds on broken data; reading the image reports them
        with open_file(path) as file:
            name, known = images.format_of(file.read(images.HEAD))
            result = result._replace(format=name)
            if known:
                found = images.stripped_of(file, known)
                result = result._replace(width=found.width, height=found.height)
                image = images.opened(found, known)
                result = result._replace(colour=is_colour(image))
        if name == "DICOM":
            from pneumojax.data.decode import dicom  # importing pydicom takes a second

            result = result._replace(lateral=dicom.is_lateral(path))
    return result


def is_absurd(declared: Declared) -> bool:
    """Return whether an image of the declared size, if any, can hardly be a whole radiograph."""
    if declared.width is None or declared.height is None:
        return False
    short, long = sorted((declared.width, declared.height))
    return short < MIN_SIDE or long > MAX_ASPECT * short or short * long > MAX_PIXELS


def is_constant(image: np.ndarray) -> bool:
    """Return whether an image, (s, s) uint8, is uniform except for a few pixels."""
    low, high = _extent(image)
    return high - low < MIN_RANGE


def is_dark(image: np.ndarray) -> bool:
    """Return whether few pixels of an image, (s, s) uint8, use its range, as if one of them had set it too wide."""
    low, high = _extent(image)
    return high < MIN_BRIGHT or high - low < MIN_GUESSED_RANGE


def _extent(image: np.ndarray) -> tuple[int, int]:
    """Return the 1st and the 99th percentile."""
    below = np.bincount(image.ravel(), minlength=256).cumsum()
    low, high = np.searchsorted(below, (0.01 * image.size, 0.99 * image.size))
    return int(low), int(high)


def is_inverted(thumbnail: np.ndarray) -> bool:
    """Return whether a chest radiograph, (32, 32) uint8 and not constant, shows bone dark and air bright."""
    means = [thumbnail[rows, columns].mean() for rows, columns in _PLACES]
    # How much brighter the midline is than lungs and margins, in standard deviations of the image.
    uprightness = np.dot(means, _WEIGHTS) / max(thumbnail.std(), 1.0)
    return bool(uprightness < MAX_INVERTED)


def is_colour(image: Image.Image) -> bool:
    """Return whether the channels of an image differ by more than noise, or a letter in colour, explains."""
    if image.mode in _GREY or image.width * image.height > MAX_PIXELS:
        return False
    image.draft("RGB", (_SIDE, _SIDE))
    image.info.pop("transparency", None)  # Pillow warns about a palette's
    if image.width * image.height > _MANY and image.mode != "RGB":
        image = image.resize((_SIDE * 8, _SIDE * 8), Image.Resampling.NEAREST)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if max(image.size) > 2 * _SIDE:
        image = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
    most, least = (pick(pick(red, green), blue) for pick in (np.maximum, np.minimum))
    return bool((most - least).mean() > MIN_COLOUR)
