"""A decoding plug-in of pydicom's that hands compressed pixels to imagecodecs, and what is refused before that."""

import struct

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner

from pneumojax.data.unreadable import UnreadableImage

_LOSSY_JPEG = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
_JPEG = {*_LOSSY_JPEG, uid.JPEGLossless, uid.JPEGLosslessSV1}
_JPEG_LS = set(uid.JPEGLSTransferSyntaxes)
_JPEG_2000 = {uid.JPEG2000Lossless, uid.JPEG2000}
_JPEG_2000_START = b"\xff\x4f\xff\x51"

DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS, *_JPEG_2000), ("imagecodecs",))


def is_available(syntax: str) -> bool:
    return syntax in DECODER_DEPENDENCIES


def checked(stream: bytes, syntax: str, shape: tuple[int, int, int]) -> bytes:
    """The code stream, which it is safe to decode.

    Args:
      stream: one compressed frame.
      syntax: one of `DECODER_DEPENDENCIES`.
      shape: the rows, columns and samples a pixel that the header tells.

    Raises:
      UnreadableImage: the stream ends too early, is broken or claims another shape: decoders reserve memory for it.
    """
    if syntax in _JPEG_2000:  # some writers put a JP2 container around it, whose boxes pydicom may follow without end
        stream = stream[max(stream.find(_JPEG_2000_START), 0) :]
    # Where the end is missing libjpeg paints grey, and CharLS, which decodes JPEG-LS, may search for it for minutes.
    elif b"\xff\xd9" not in stream[-16:]:
        raise UnreadableImage("its pixel data is cut short")
    if _declared(stream) != shape:
        raise UnreadableImage("the compressed image is of another size than the header tells, or broken")
    return stream


def decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """The pixels of a `checked` stream, in the order of rows, columns and samples."""
    syntax, samples = runner.transfer_syntax, runner.samples_per_pixel
    if syntax in _JPEG_2000:
        pixels = imagecodecs.jpeg2k_decode(stream, planar=False)
    elif syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(stream)
    elif samples == 1:
        pixels = imagecodecs.jpeg8_decode(stream)
    elif syntax not in _LOSSY_JPEG:  # the samples are what they are
        pixels = imagecodecs.jpeg8_decode(stream, colorspace="RGB", outcolorspace="RGB")
    else:
        # Where the stream does not say how it keeps colour, libjpeg guesses; the header knows.
        says = b"JFIF" in stream[:64] or b"Adobe" in stream[:1024]
        stored = None if says else "RGB" if runner.photometric_interpretation == "RGB" else "YCBCR"
        pixels = imagecodecs.jpeg8_decode(stream, colorspace=stored, outcolorspace="RGB")
    size = runner.bits_allocated // 8
    if pixels.shape != (runner.rows, runner.columns) + (samples,) * (samples > 1) or pixels.dtype.itemsize > size:
        raise ValueError("of another form than the header tells")
    if syntax in _LOSSY_JPEG or runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(pixels, f"<u{size}").data.cast("B")


def _declared(stream: bytes) -> tuple[int, int, int]:
    """(rows, columns, samples) that the stream claims."""
    if stream.startswith(_JPEG_2000_START):
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return bottom - top, right - left, int.from_bytes(stream[40:42])
    place = 2
    while stream[place] == 0xFF:
        marker, length = struct.unpack(">BH", stream[place + 1 : place + 4])
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack(">HHB", stream[place + 5 : place + 10])
        place += 2 + length
    raise UnreadableImage("the compressed image is broken")
