"""One image file becomes one grey square: the same way for training and for prediction."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pneumojax.data.unreadable import MAX_PIXELS, UnreadableImage

# Pillow warns of corrupt EXIF and the like. Once and for all, as to silence it for a while is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")

_OPENERS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
_DICOM_MAGIC = (128, b"DICM")  # where it lies, and what it is
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I")  # how Pillow opens 16-bit grey PNG
_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]


def read(path: Path, size: int) -> np.ndarray:
    """Decodes an image file and prepares it.

    A JPEG at least twice as large as the result, in both directions, is decoded at a half, a quarter or an eighth
    of its size, which the format allows for by leaving out the fine part of each block's cosine transform; the
    result is less than one grey level away from that of a full decode (mean over an image).

    Args:
      path: a JPEG, PNG or DICOM file, grey or colour, 8 to 16 bits, of any size up to `MAX_PIXELS`.
      size: the side of the result in pixels.

    Returns:
      (size, size) uint8 grey.

    Raises:
      UnreadableImage: the file is missing, truncated, too large, or no such image.
    """
    image, box = _decode(path, size)
    return _upright(image, resize(grey(image), size, box))


def _decode(path: Path, size: int) -> tuple[Image.Image, Box | None]:
    """The image, shrunk while it was decoded where that is exact enough, and which part of it counts."""
    # Not `Image.open`: it has a limit of its own.
    try:
        with path.open("rb") as file:
            opener = _opener(file.read(sum(map(len, _DICOM_MAGIC[1:])) + _DICOM_MAGIC[0]))
            if opener is None:
                from pneumojax.data import dicom  # a second's import, for those who have such files

                return dicom.decode(path), None
            file.seek(0)
            image = opener(file)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            box = _shrink(image, size)
            image.load()
            return image, box
    except UnreadableImage:
        raise
    except Exception as error:  # on broken data the decoders raise whatever they stumble over
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(" ".join(told.split())) from None


def _opener(start: bytes):
    """The class that reads a file which begins like this; None for DICOM."""
    place, magic = _DICOM_MAGIC
    if start[place:] == magic:
        return None
    if not start:
        raise UnreadableImage("the file is empty")
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        raise UnreadableImage("neither JPEG, PNG nor DICOM")
    return opener


def _shrink(image: Image.Image, size: int) -> Box | None:
    """Asks a JPEG's decoder for the smallest scale that is not below (size, size).

    Scaled sizes are rounded up to whole pixels, so the last row and column may reach beyond the image: the box is
    what the image itself covers. Without it, an eighth of a pixel's shift costs more than the scale does.
    """
    width, height = image.size
    if image.draft("L", (size, size)) is None:
        return None
    scale = next(scale for scale in (1, 2, 4, 8) if -(-width // scale) == image.width)
    return (0, 0, width / scale, height / scale)


def _upright(image: Image.Image, square: np.ndarray) -> np.ndarray:
    """Turns the square as EXIF says that the image lies."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # corrupt EXIF says nothing about the pixels, nor about how they lie
        turn = None
    return square if turn is None else np.asarray(Image.fromarray(square).transpose(turn))


def grey(image: Image.Image) -> Image.Image:
    """One 8-bit channel: colour becomes luma (ITU-R 601), 16 bits become 8, transparency lies on black."""
    if image.mode in _WIDE_MODES:
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray((np.minimum(wide, 65535) / 257 + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def resize(image: Image.Image, size: int, box: Box | None = None) -> np.ndarray:
    """Squashes a grey image, or the part of it in `box`, to (size, size) uint8 by an antialiased bilinear filter.

    Aspect ratio is not kept, as in the paper.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
