"""What an image tells on its own that makes it doubtful: is it a whole radiograph, and shown as is usual?"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pneumojax.data import images
from pneumojax.data.unreadable import MAX_PIXELS, refuse_special

MIN_SIDE = 32  # px
MAX_ASPECT = 4

# Measured on 5,232 radiographs of children (Kermany et al.), 48 of them at full size too, and on 800 phantoms.
MIN_COLOUR = 8.0  # grey levels between channels, mean over the image: grey as RGB has 0, a scan with a tint 13
MIN_RANGE = 20.0  # grey levels from the 1st to the 99th percentile: radiographs have 84 at least
MAX_INVERTED = -1.0  # of `_uprightness`: radiographs have 0.4 at least, 2.7 and more in 95 of 100

# Of a thumbnail: midline, both lungs, both margins; and what each counts for in `_uprightness`.
_PLACES = (np.s_[8:24, 14:18], np.s_[8:20, 6:12], np.s_[8:20, 20:26], np.s_[:, :2], np.s_[:, -2:])
_WEIGHTS = (2, -0.5, -0.5, -0.5, -0.5)

_SIDE = 50  # px; of the square by which colour is judged, so that a JPEG is decoded at a part of its size
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class Declared(NamedTuple):
    """What a file says of its picture, of which as little is decoded as that takes.

    Attributes:
      format: "JPEG", "PNG" or "DICOM" by content; empty where it is none of them.
      width, height: in pixels; None for DICOM, whose reader judges them, and where the file does not say.
      mode: Pillow's, of JPEG and PNG.
      colour: whether its channels differ.
    """

    format: str = ""
    width: int | None = None
    height: int | None = None
    mode: str = ""
    colour: bool = False


def declared(path: Path) -> Declared:
    """As much as the file is fit to tell."""
    told = Declared()
    try:
        refuse_special(path)
        with path.open("rb") as file:
            name, opener = images.format_of(file.read(images.HEAD))
            told = told._replace(format=name)
            if opener:
                file.seek(0)
                image = opener(file)
                told = told._replace(width=image.width, height=image.height, mode=image.mode)
                images.refuse_bomb(file, image)
                told = told._replace(colour=is_colour(image))
    except Exception:  # whatever broken data make the decoders raise: what is wrong, reading the image tells
        pass
    return told


def is_absurd(width: int, height: int) -> bool:
    """Whether an image of so many pixels is hardly a whole radiograph."""
    short, long = sorted((width, height))
    return short < MIN_SIDE or long > MAX_ASPECT * short or width * height > MAX_PIXELS


def is_constant(image: np.ndarray) -> bool:
    """Whether an image, (s, s) uint8, is one even grey but for a few pixels."""
    below = np.bincount(image.ravel(), minlength=256).cumsum()
    low, high = np.searchsorted(below, (0.01 * image.size, 0.99 * image.size))
    return bool(high - low < MIN_RANGE)


def is_inverted(thumbnail: np.ndarray) -> bool:
    """Whether a chest radiograph, (32, 32) uint8 and not constant, shows bone dark and air bright."""
    return bool(_uprightness(thumbnail) < MAX_INVERTED)


def is_colour(image: Image.Image) -> bool:
    """Whether the channels of an image differ by more than noise, or a letter in colour, explains."""
    if image.mode in _GREY or image.width * image.height > MAX_PIXELS:
        return False
    image.draft("RGB", (_SIDE, _SIDE))
    image.info.pop("transparency", None)  # Pillow warns of that of a palette
    image = image if image.mode == "RGB" else image.convert("RGB")
    if max(image.size) > 2 * _SIDE:
        image = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
    most, least = (pick(pick(red, green), blue) for pick in (np.maximum, np.minimum))
    return bool((most - least).mean() > MIN_COLOUR)


def _uprightness(thumbnail) -> float:
    """How much brighter the midline is than lungs and margins, in standard deviations of the image."""
    means = [thumbnail[rows, columns].mean() for rows, columns in _PLACES]
    return np.dot(means, _WEIGHTS) / max(thumbnail.std(), 1.0)
