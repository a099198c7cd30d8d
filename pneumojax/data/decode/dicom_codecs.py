"""The pixels that a DICOM file stores: pydicom decodes them, with a plug-in here that passes streams to imagecodecs."""

import struct
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.pixels.utils import get_expected_length

from pneumojax.data.decode.unreadable import MAX_SCANS, SCAN, UnreadableImage

_LOSSY_JPEG = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
_JPEG = {*_LOSSY_JPEG, uid.JPEGLossless, uid.JPEGLosslessSV1}
_JPEG_LS = set(uid.JPEGLSTransferSyntaxes)
_JPEG_2000 = {uid.JPEG2000Lossless, uid.JPEG2000}
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_PLUGINS = dict.fromkeys((*_JPEG, *_JPEG_LS, *_JPEG_2000), "pneumojax") | {uid.RLELossless: "pydicom"}


def stored_values(header: Dataset) -> tuple[np.ndarray, str]:
    """Decompress the stored pixels and change nothing else about them; the header has all that pydicom needs for it.

    Returns:
      (rows, columns) or (rows, columns, 3) of 8 or 16 bits, and their photometric interpretation, which differs from
      the header's for streams that are decoded to RGB.

    Raises:
      UnreadableImage: the data is missing, cut short, broken, or does not fit the header.
    """
    syntax = header.file_meta.get("TransferSyntaxUID") or uid.ImplicitVRLittleEndian
    if not header.get("PixelData"):
        raise UnreadableImage("no pixel data, or it is cut short")
    if syntax in _PLUGINS:
        # The first fragment is the offset table, which may be wrong; with one frame it is not needed.
        stream = b"".join(list(generate_fragments(header.PixelData))[1:])
        header.PixelData = encapsulate([_checked(stream, syntax, header)])
    elif syntax not in uid.UncompressedTransferSyntaxes:
        raise UnreadableImage("its transfer syntax is not supported")
    elif len(header.PixelData) < get_expected_length(header):
        raise UnreadableImage("its pixel data is cut short")
    # About signed values, and bits above those stored, the header is more reliable than the stream.
    trust: Any = {"apply_j2k_sign_correction": False, "apply_jls_sign_correction": False, "correct_unused_bits": True}
    plugin = _PLUGINS.get(syntax, "")
    try:
        values, properties = _decoder(syntax).as_array(header, index=0, raw=True, decoding_plugin=plugin, **trust)
    except RuntimeError:
        raise UnreadableImage("the compressed image is broken, or its form differs from the header's") from None
    return values, str(properties["photometric_interpretation"])


@cache
def _decoder(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder, or for this module's syntaxes a new one: pydicom's own are shared by all its users."""
    if syntax not in DECODER_DEPENDENCIES:
        return get_decoder(syntax)
    decoder = Decoder(syntax)
    decoder.add_plugin(_PLUGINS[syntax], (__name__, decode_frame.__name__))
    return decoder


def _checked(stream: bytes, syntax: uid.UID, header: Dataset) -> bytes:
    """Return the stream if it is safe to decode: decoders reserve memory for any size that it declares."""
    if syntax == uid.RLELossless:
        if len(stream) > 2 * get_expected_length(header) + 1024:  # runs swell to up to 64 times their length
            raise UnreadableImage("the compressed image is broken, or its size differs from the header's")
        return stream
    if syntax in _JPEG_2000:  # some writers add a JP2 container, whose boxes may send pydicom into an endless loop
        stream = stream[max(stream.find(_JPEG_2000_START), 0) :]
    # Without an end marker libjpeg paints grey, and CharLS, which decodes JPEG-LS, may search for it for minutes.
    elif b"\xff\xd9" not in stream[-16:]:
        raise UnreadableImage("its pixel data is cut short")
    elif stream.count(SCAN) > MAX_SCANS:
        raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")
    if _declared_shape(stream) != (header.Rows, header.Columns, header.SamplesPerPixel):
        raise UnreadableImage("the compressed image is broken, or its size differs from the header's")
    return stream


def _declared_shape(stream: bytes) -> tuple[int, int, int]:
    """Return the (rows, columns, samples) that a JPEG, JPEG-LS or JPEG 2000 stream declares."""
    if stream.startswith(_JPEG_2000_START):
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return bottom - top, right - left, int.from_bytes(stream[40:42])
    place = 2
    while stream[place] == 0xFF:
        marker, length = struct.unpack(">BH", stream[place + 1 : place + 4])
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, samples = struct.unpack(">HHB", stream[place + 5 : place + 10])
            return rows, columns, samples
        place += 2 + length
    raise UnreadableImage("the compressed image is broken")


# The interface of a plug-in: https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html

DECODER_DEPENDENCIES = {syntax: ("imagecodecs",) for syntax in _PLUGINS if syntax != uid.RLELossless}


def is_available(syntax: str) -> bool:
    """Return whether `decode_frame` decodes this transfer syntax."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(stream: bytes, runner: DecodeRunner) -> memoryview:
    """Decode a stream to pixels, in the order of rows, columns and samples."""
    syntax, samples = runner.transfer_syntax, runner.samples_per_pixel
    if syntax in _JPEG_2000:
        pixels = imagecodecs.jpeg2k_decode(stream, planar=False)
    elif syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(stream)
    elif samples == 1:
        pixels = imagecodecs.jpeg8_decode(stream)
    elif syntax not in _LOSSY_JPEG:  # lossless samples are kept as they are
        pixels = imagecodecs.jpeg8_decode(stream, colorspace="RGB", outcolorspace="RGB")
    else:
        # Where the stream does not declare its colour space, libjpeg guesses; the header knows.
        declared = b"JFIF" in stream[:64] or b"Adobe" in stream[:1024]
        stored = None if declared else "RGB" if runner.photometric_interpretation == "RGB" else "YCBCR"
        pixels = imagecodecs.jpeg8_decode(stream, colorspace=stored, outcolorspace="RGB")
    size = runner.bits_allocated // 8
    if pixels.shape != (runner.rows, runner.columns) + (samples,) * (samples > 1) or pixels.itemsize > size:
        raise ValueError("the decoded image does not fit the header")
    if syntax in _LOSSY_JPEG or runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(pixels, f"<u{size}").data.cast("B")
