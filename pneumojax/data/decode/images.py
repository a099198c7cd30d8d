"""From an image file to a grey square, in the same way for training and for prediction."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pneumojax.data.decode.unreadable import MAX_PIXELS, MAX_SCANS, SCAN, UnreadableImage, reason_of, refuse_special

Opener = Callable[[BinaryIO], Image.Image]
Box = tuple[float, float, float, float]

SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")
HEAD = 132  # bytes at the start of a file that show its format
BAND = 1 << 20  # pixels that are converted to grey at a time
_OPENERS: dict[bytes, tuple[str, Opener]] = {
    b"\xff\xd8\xff": ("JPEG", JpegImageFile),
    b"\x89PNG\r\n\x1a\n": ("PNG", PngImageFile),
}
_MAX_FILE_BYTES = 8 * MAX_PIXELS  # as much as the widest pixels take without compression
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I")  # the modes in which Pillow opens 16-bit grey PNG
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


def read(path: Path, size: int) -> np.ndarray:
    """Decode an image file and resize it to a grey square, (size, size) uint8.

    It is JPEG, PNG or DICOM, grey or colour, 8 to 16 bits, of any size up to `MAX_PIXELS`. A JPEG at least twice as
    large as the result, in both directions, is decoded at a half, a quarter or an eighth of its size. The format allows
    this by leaving out the fine part of each block's cosine transform. The result is less than one grey level away from
    that of a full decode (mean over an image).

    Raises:
      UnreadableImage: the file is missing, truncated, too large, or no such image.
    """
    image, box = _decode(path, size)
    return _upright(image, resize(grey(image), size, box))


def _decode(path: Path, size: int) -> tuple[Image.Image, Box | None]:
    """Return the image, scaled down by its decoder where that is exact enough, and the part of it that counts."""
    # Not `Image.open`, which has a limit of its own.
    try:
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(HEAD)
            name, opener = format_of(head)
            if name == "DICOM":
                from pneumojax.data.decode import dicom  # importing pydicom takes a second

                return dicom.decode(path), None
            if opener is None:
                raise UnreadableImage("neither JPEG, PNG nor DICOM" if head else "the file is empty")
            file.seek(0)
            image = opener(file)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            refuse_bomb(file, image)
            box = _scale_down(image, size)
            image.load()
            return image, box
    except UnreadableImage:
        raise
    except Exception as error:  # on broken data, decoders raise errors of many kinds
        raise UnreadableImage(reason_of(error)) from None


def format_of(head: bytes) -> tuple[str, Opener | None]:
    """Recognise a file's format by its first `HEAD` bytes.

    Returns:
      "JPEG", "PNG", "DICOM" or "", and the function that opens it with Pillow; None for DICOM and unknown formats.
    """
    if head[128:] == b"DICM":
        return "DICOM", None
    return next((known for magic, known in _OPENERS.items() if head.startswith(magic)), ("", None))


def refuse_bomb(file: BinaryIO, image: Image.Image) -> None:
    """Raise UnreadableImage if decoding would take far more memory or time than the image's pixels need."""
    place = file.tell()
    if file.seek(0, os.SEEK_END) > _MAX_FILE_BYTES:
        raise UnreadableImage(f"a file of more than {_MAX_FILE_BYTES:,} bytes")
    # One channel that is not progressive, as in most radiographs, is decoded in one scan, whatever follows.
    if isinstance(image, JpegImageFile) and (image.mode != "L" or "progressive" in image.info):
        file.seek(0)
        if file.read().count(SCAN) > MAX_SCANS:
            raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")
    file.seek(place)


def _scale_down(image: Image.Image, size: int) -> Box | None:
    """Ask a JPEG's decoder for the smallest scale that is not below (size, size).

    Scaled sizes are rounded up to whole pixels, so the last row and column may reach beyond the image. The box is the
    part that the image itself covers: without it, a shift by an eighth of a pixel costs more than the scale does.
    """
    width, height = image.size
    if image.draft("L", (size, size)) is None:
        return None
    scale = next(scale for scale in (1, 2, 4, 8) if -(-width // scale) == image.width)
    return (0, 0, width / scale, height / scale)


def _upright(image: Image.Image, square: np.ndarray) -> np.ndarray:
    """Turn the square by the image's EXIF orientation."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 0))
    except Exception:  # corrupt EXIF says nothing about the pixels, nor about their orientation
        turn = None
    return square if turn is None else np.asarray(Image.fromarray(square).transpose(turn))


def grey(image: Image.Image, band: int = BAND) -> Image.Image:
    """Convert any mode of Pillow's to one 8-bit channel: colour to luma (ITU-R 601), 16 bits to 8, alpha over black.

    The result does not depend on `band`, the number of pixels that are converted at a time.
    """
    rows = max(band // max(image.width, 1), 1)
    if rows >= image.height:
        return _grey(image)
    result = Image.new("L", image.size)  # intermediate results take up to 16 bytes a pixel: too much for all at once
    for top in range(0, image.height, rows):
        result.paste(_grey(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return result


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray((np.minimum(wide, 65535) / 257 + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def resize(image: Image.Image, size: int, box: Box | None = None) -> np.ndarray:
    """Resize an 8-bit grey image, or a box (left, top, right, bottom) of it in pixels, to (size, size) uint8.

    The filter is antialiased and bilinear. The aspect ratio is not kept, as in Huynh et al.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
