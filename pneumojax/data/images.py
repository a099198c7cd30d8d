"""One image file becomes one grey square: the same way for training and for prediction."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_PIXELS = 100_000_000  # a radiograph has up to about 20 million; more than this is a decompression bomb

_OPENERS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I")  # how Pillow opens 16-bit grey PNG


class UnreadableImage(Exception):
    """The file holds no image that can be decoded; the message is the reason."""


def read(path: Path, size: int) -> np.ndarray:
    """Decodes an image file and prepares it.

    Args:
      path: a JPEG or PNG file, grey or colour, 8 or 16 bits, of any size up to `MAX_PIXELS`.
      size: the side of the result in pixels.

    Returns:
      (size, size) uint8 grey.

    Raises:
      UnreadableImage: the file is missing, truncated, too large, or no such image.
    """
    return resize(grey(_upright(_decode(path))), size)


def _decode(path: Path) -> Image.Image:
    # Not `Image.open`: it warns of large images, and to silence a warning is not safe in threads.
    try:
        with path.open("rb") as file:
            start = file.read(8)
            opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
            if opener is None:
                raise UnreadableImage("neither JPEG nor PNG" if start else "the file is empty")
            file.seek(0)
            image = opener(file)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            image.load()
            return image
    except UnreadableImage:
        raise
    except Exception as error:  # on broken data the decoders raise whatever they stumble over
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(" ".join(told.split())) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # corrupt EXIF says nothing about the pixels, nor about how they lie
        return image


def grey(image: Image.Image) -> Image.Image:
    """One 8-bit channel: colour becomes luma (ITU-R 601), 16 bits become 8, transparency lies on black."""
    if image.mode in _WIDE_MODES:
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray((np.minimum(wide, 65535) / 257 + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Squashes a grey image to (size, size) uint8 by an antialiased bilinear filter.

    Aspect ratio is not kept, as in the paper.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
