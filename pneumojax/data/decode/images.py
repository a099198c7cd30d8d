"""From an image file to a grey square, in the same way for training and for prediction."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from pneumojax.data.decode import stripped
from pneumojax.data.decode.dicom_start import HEAD, is_dicom
from pneumojax.data.decode.stripped import Stripped
from pneumojax.data.decode.unreadable import (
    MAX_FILE_BYTES,
    Metered,
    UnreadableImage,
    open_file,
    reason_of,
    refuse_large,
)

Box = tuple[float, float, float, float]


class Format(NamedTuple):
    """How to read a format.

    Attributes:
      name: such as "JPEG".
      strip: file -> the file without metadata.
      open: the same -> an image, decoded or not.
    """

    name: str
    strip: Callable[[Metered], Stripped]
    open: Callable[[Stripped], Image.Image]


class Picture(NamedTuple):
    """An image as a model sees it, and what was uncertain in decoding it.

    Attributes:
      square: (size, size) uint8.
      guessed: whether it has 16 bits, and only its brightest pixel says how many of them are used.
      clipped: whether some pixels are far brighter or darker than all others, in DICOM without a window.
    """

    square: np.ndarray
    guessed: bool = False
    clipped: bool = False


SUFFIXES = (".jpeg", ".jpg", ".jfif", ".png", ".tiff", ".tif", ".bmp", ".webp", ".dcm", ".dicom")
KNOWN = "JPEG, PNG, TIFF, BMP, WebP"
CLIPPED, _GUESSED = "clipped", "guessed range"  # keys of Pillow's `info`
BAND = 1 << 20  # pixels that are converted to grey at a time
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I")  # the modes in which Pillow opens 16-bit grey
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", *WIDE_MODES[:3])
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

    It is JPEG, PNG, TIFF, BMP, WebP or DICOM, grey or colour, 8 to 16 bits, and decoding it takes at most `MAX_MEMORY`.
    A JPEG at least twice as large as the result, in both directions, is decoded at a half, a quarter or an eighth of
    its size. The format allows this by leaving out the fine part of each block's cosine transform. The result is less
    than one grey level away from that of a full decode (mean over an image).

    Raises:
      UnreadableImage: the file is missing, truncated, too large, or no such image.
    """
    return look(path, size).square


def look(path: Path, size: int) -> Picture:
    """Read an image file as `read` does, and say what was uncertain."""
    return _decoded(path, size)


def look_whole(path: Path, size: int) -> tuple[Picture, np.ndarray]:
    """Read a DICOM file as `look` does, and return too what `whole` returns; it is decoded once."""
    found = _decoded(path, None)
    return found._replace(square=resize(Image.fromarray(found.square), size)), found.square


def whole(path: Path) -> np.ndarray:
    """Decode an image file at its full size, (height, width) uint8, grey and upright. Errors are those of `read`."""
    return _decoded(path, None).square


def _decoded(path: Path, size: int | None) -> Picture:
    """Return what `look` returns; without a size, all pixels, which are no square."""
    # Not `Image.open`, which has a limit of its own.
    try:
        with open_file(path) as file:
            head = file.read(HEAD)
            name, known = format_of(head)
            if name == "DICOM":
                from pneumojax.data.decode import dicom  # importing pydicom takes a second

                image = dicom.decode(path)
                return Picture(_resized(grey(image, bits=16), size), clipped=image.info.get(CLIPPED, False))
            if known is None:
                raise UnreadableImage(f"neither {KNOWN} nor DICOM" if head else "the file is empty")
            found = stripped_of(file, known)
            image = opened(found, known)
            box = None if size is None else _scale_down(image, size)
            image.load()
            square = _resized(grey(image, bits=found.bits), size, box)
            guessed = is_guessed(image, found.bits)
    except UnreadableImage:
        raise
    except Exception as error:  # on broken data, decoders raise errors of many kinds
        raise UnreadableImage(reason_of(error)) from None
    turn = _TURNS.get(found.orientation)
    square = 255 - square if found.inverted else square
    square = square if turn is None else np.asarray(Image.fromarray(square).transpose(turn))
    return Picture(square, guessed)


def _resized(image: Image.Image, size: int | None, box: Box | None = None) -> np.ndarray:
    return np.asarray(image) if size is None else resize(image, size, box)


def from_array(pixels: np.ndarray, size: int, bits: int | None = None, inverted: bool = False) -> Picture:
    """Make a picture of pixels as a file's would be made.

    Args:
      pixels: (height, width) uint8 or uint16, grey.
      size: pixels per side of the square.
      bits: how many bits of uint16 are used, from 8 to 16; if None, as many as the largest value has.
      inverted: whether 0 is white, as in DICOM's MONOCHROME1.

    Raises:
      UnreadableImage: the pixels have another shape or type, or are too many.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 2 or not pixels.size:
        shape = "x".join(map(str, pixels.shape)) or "no axis"
        raise UnreadableImage(f"an array of {pixels.dtype} of shape {shape}: give (height, width), uint8 or uint16")
    refuse_large(pixels.shape[1], pixels.shape[0], pixels.itemsize)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    square = resize(grey(image, bits=bits), size)
    return Picture(255 - square if inverted else square, is_guessed(image, bits))


def format_of(head: bytes) -> tuple[str, Format | None]:
    """Recognise a file's format by its first `HEAD` bytes.

    Returns:
      "JPEG", "PNG", "TIFF", "BMP", "WebP", "DICOM" or "", and how to read it; None for DICOM and unknown formats.
    """
    found = next((known for magic, known in _FORMATS.items() if head.startswith(magic)), None)
    if found and (found.name != "WebP" or head[8:12] == b"WEBP"):
        return found.name, found
    return ("DICOM" if is_dicom(head) else ""), None


def opened(found: Stripped, known: Format) -> Image.Image:
    """Return the image in a file; most decoders decode no pixel before it is loaded.

    Raises:
      UnreadableImage: decoding would take far more memory or time than a radiograph needs.
    """
    refuse_large(found.width, found.height, found.bytes_per_pixel, found.size())
    found.file.seek(0)
    image = known.open(found)
    if image.mode not in _MODES or image.size != (found.width, found.height):
        raise UnreadableImage("its pixels have a form that is not supported, or its header is broken")
    return image


def stripped_of(file: BinaryIO, known: Format) -> Stripped:
    """Return a file without its metadata.

    Raises:
      UnreadableImage: it is too large, or in too many parts.
    """
    if file.seek(0, io.SEEK_END) > MAX_FILE_BYTES:
        raise UnreadableImage(f"a file of more than {MAX_FILE_BYTES:,} bytes")
    file.seek(0)
    return known.strip(Metered(file, MAX_FILE_BYTES))


def _open_png(found: Stripped) -> Image.Image:
    """Open a PNG. Of 16 bits in colour Pillow keeps the upper 8, so the lower ones are read too where they matter."""
    image = PngImageFile(found.file)
    if not found.wide_colour:
        return image
    upper = np.array(image)
    colours, most = upper[..., :3], int(upper[..., :3].max())
    if most >= 128:
        return image
    other = PngImageFile(io.BytesIO(found.file.getvalue()))
    other.tile = [tile._replace(args=f"{other.mode};16L") for tile in other.tile]  # as if the lower byte came last
    lower = np.asarray(other)[..., :3]
    brightest = most << 8 | int(lower[colours == most].max())
    bits = _bits(brightest, found.bits)
    colours[:] = colours << (16 - bits) | lower >> (bits - 8)
    image = Image.fromarray(upper)
    image.info[_GUESSED] = bits not in (16, found.bits)
    return image


def _narrowed(wide: np.ndarray, bits: int | None) -> Image.Image:
    """Reduce colours or alpha channels of 16 bits, (height, width, channels) uint16, to 8; overwrite them."""
    colours = wide[..., : wide.shape[2] - (wide.shape[2] in (2, 4))]
    brightest = int(colours.max())
    colours <<= 16 - _bits(brightest, bits)
    wide >>= 8
    image = Image.fromarray(wide.astype(np.uint8))
    image.info[_GUESSED] = _bits(brightest, bits) not in (16, bits)
    return image


def _open_tiff(found: Stripped) -> Image.Image:
    import imagecodecs  # Pillow lets libtiff write to the terminal

    pixels = imagecodecs.tiff_decode(found.file.getvalue(), asrgb=found.indirect)
    return _narrowed(pixels, found.bits) if found.wide_colour else Image.fromarray(pixels)


def _open_webp(found: Stripped) -> Image.Image:
    import imagecodecs

    return Image.fromarray(imagecodecs.webp_decode(found.file.read()))


_TIFF = Format("TIFF", stripped.tiff, _open_tiff)
_FORMATS = {
    b"\xff\xd8\xff": Format("JPEG", stripped.jpeg, lambda found: JpegImageFile(found.file)),
    b"\x89PNG\r\n\x1a\n": Format("PNG", stripped.png, _open_png),
    b"II*\0": _TIFF,
    b"MM\0*": _TIFF,
    b"BM": Format("BMP", stripped.bmp, lambda found: BmpImageFile(found.file)),
    b"RIFF": Format("WebP", stripped.webp, _open_webp),
}


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


def grey(image: Image.Image, band: int = BAND, bits: int | None = None) -> Image.Image:
    """Convert any mode of Pillow's to one 8-bit channel: colour to luma (ITU-R 601), 16 bits to 8, alpha over black.

    The result does not depend on `band`, the number of pixels that are converted at a time. Of 16 bits, `bits` are
    significant; if None, as many as the largest value has, and at least 8.
    """
    most = 65535
    if image.mode in WIDE_MODES:
        most = (1 << _bits(_brightest(image), bits)) - 1
    rows = max(band // max(image.width, 1), 1)
    if rows >= image.height:
        return _grey(image, most)
    if image.mode == "L" and not image.has_transparency_data:
        return image
    result = Image.new("L", image.size)  # intermediate results take up to 16 bytes a pixel: too much for all at once
    for top in range(0, image.height, rows):
        result.paste(_grey(image.crop((0, top, image.width, min(top + rows, image.height))), most), (0, top))
    return result


def is_guessed(image: Image.Image, bits: int | None) -> bool:
    """Return whether an image has 16 bits, and only its brightest pixel says how many of them are used."""
    wide = image.mode in WIDE_MODES
    return image.info.get(_GUESSED, False) or (wide and _bits(_brightest(image), bits) not in (16, bits))


def _brightest(image: Image.Image) -> int:
    extrema = image.getextrema()
    return int(extrema[1])  # pyright: ignore[reportArgumentType]  # one channel has one pair


def _bits(most: int, stated: int | None) -> int:
    """Return how many bits of 16 are used: as stated, or else as many as the largest value has.

    A statement that does not fit the largest value is wrong: values above it were scaled to 16 bits, and where no
    value reaches a quarter of it, fewer bits were stored.
    """
    used = min(max(most.bit_length(), 8), 16)
    if stated is None or used < stated - 1:
        return used
    return 16 if used > stated else stated


def _grey(image: Image.Image, most: int) -> Image.Image:
    if image.mode in WIDE_MODES:
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray((np.minimum(wide, most) / (most / 255) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def resize(image: Image.Image, size: int, box: Box | None = None) -> np.ndarray:
    """Resize an 8-bit grey image, or a box (left, top, right, bottom) of it in pixels, to (size, size) uint8.

    The filter is antialiased and bilinear. The aspect ratio is not kept, as in Huynh et al.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
