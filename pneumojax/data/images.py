"""One image file becomes one grey square: the same way for training and for prediction."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pneumojax.data.unreadable import MAX_PIXELS, MAX_SCANS, SCAN, UnreadableImage, refuse_special

# Pillow warns of corrupt EXIF and the like. Once and for all, as to silence it for a while is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")

HEAD = 132  # bytes at a file's beginning that tell its format
_OPENERS = {b"\xff\xd8\xff": ("JPEG", JpegImageFile), b"\x89PNG\r\n\x1a\n": ("PNG", PngImageFile)}
_MAX_BYTES = 8 * MAX_PIXELS  # of a file: as much as pixels of the most bytes take without any compression
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I")  # how Pillow opens 16-bit grey PNG
_BAND = 1 << 20  # pixels that become grey at a time
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
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(HEAD)
            name, opener = format_of(head)
            if not name:
                raise UnreadableImage("neither JPEG, PNG nor DICOM" if head else "the file is empty")
            if name == "DICOM":
                from pneumojax.data import dicom  # a second's import, for those who have such files

                return dicom.decode(path), None
            file.seek(0)
            image = opener(file)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            refuse_bomb(file, image)
            box = _shrink(image, size)
            image.load()
            return image, box
    except UnreadableImage:
        raise
    except Exception as error:  # on broken data the decoders raise whatever they stumble over
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(" ".join(told.split())) from None


def format_of(head: bytes) -> tuple[str, type[Image.Image] | None]:
    """The name of a format by a file's first `HEAD` bytes, and what opens it; of DICOM the name alone.

    The name is empty where it is none of "JPEG", "PNG" and "DICOM".
    """
    if head[128:] == b"DICM":
        return "DICOM", None
    return next((found for magic, found in _OPENERS.items() if head.startswith(magic)), ("", None))


def refuse_bomb(file: BinaryIO, image: Image.Image) -> None:
    """Raises UnreadableImage where a decoder would take much memory, or very long, for what pixels there are."""
    place = file.tell()
    if file.seek(0, os.SEEK_END) > _MAX_BYTES:
        raise UnreadableImage(f"a file of more than {_MAX_BYTES:,} bytes")
    # One channel that is not progressive is decoded in one scan, whatever follows; most radiographs are so.
    if isinstance(image, JpegImageFile) and (image.mode != "L" or "progressive" in image.info):
        file.seek(0)
        if file.read().count(SCAN) > MAX_SCANS:
            raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")
    file.seek(place)


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
    rows = max(_BAND // max(image.width, 1), 1)
    if rows >= image.height:
        return _grey(image)
    result = Image.new("L", image.size)  # what lies between takes up to 16 bytes a pixel, too many for all at once
    for top in range(0, image.height, rows):
        result.paste(_grey(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return result


def _grey(image):
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
