"""The pixels that a DICOM file stores: pydicom decodes them, with a plug-in here that passes streams to imagecodecs."""

import re
import struct
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.pixels.utils import get_expected_length

from pneumojax.data.decode import jpeg2000
from pneumojax.data.decode.dicom_file import DicomFile
from pneumojax.data.decode.unreadable import MAX_SCANNED, MAX_SCANS, SCAN, UnreadableImage, refuse_large

_LOSSY_JPEG = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
_JPEG = {*_LOSSY_JPEG, uid.JPEGLossless, uid.JPEGLosslessSV1}
_JPEG_LS = set(uid.JPEGLSTransferSyntaxes)
_JPEG_2000 = {uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_COMPRESSED = {*_JPEG, *_JPEG_LS, *_JPEG_2000, uid.RLELossless}
SYNTAXES = (*uid.UncompressedTransferSyntaxes, *sorted(_COMPRESSED))  # transfer syntaxes that can be decoded
_PLUGIN = "pneumojax"
_MARKER = re.compile(rb"\xff+([^\xff\0])")
_MAX_SEGMENTS = 1000
_MAX_OVERHEAD = 1 << 16  # bytes of tables and comments in a stream


def stored_values(file: DicomFile) -> tuple[np.ndarray, str]:
    """Decompress the stored pixels, and shift them to the lowest bits; the header has all that pydicom needs for it.

    Returns:
      (rows, columns) or (rows, columns, 3) of 8 or 16 bits, and their photometric interpretation, which differs from
      the header's for streams that are decoded to RGB.

    Raises:
      UnreadableImage: the data is missing, cut short, broken, or does not fit the header.
    """
    header = file.header
    syntax, size = header.file_meta.TransferSyntaxUID, get_expected_length(header)
    compressed = syntax in _COMPRESSED
    if not compressed and syntax not in uid.UncompressedTransferSyntaxes:
        raise UnreadableImage("its transfer syntax is not supported")
    # openjpeg takes up to 400 ns and 12 bytes for each sample; the others little more than the result and a copy of it.
    per_sample = 20 if syntax in _JPEG_2000 else 3 * header.BitsAllocated // 8
    refuse_large(header.Columns, header.Rows, per_sample * header.SamplesPerPixel)
    data = file.pixel_data(compressed, 2 * size + _MAX_OVERHEAD if compressed else size + size % 2)
    if compressed:
        data = encapsulate([_checked(data, syntax, header)])
    elif len(data) < size:
        raise UnreadableImage("its pixel data is cut short")
    header.add_new("PixelData", "OB" if compressed or header.BitsAllocated == 8 else "OW", data)
    header["PixelData"].is_undefined_length = compressed
    del data
    shift = _unused_bits(header) if not compressed or syntax == uid.RLELossless else 0
    header.BitsStored += shift
    # About signed values, and bits above those stored, the header is more reliable than the stream.
    trust: Any = {"apply_j2k_sign_correction": False, "apply_jls_sign_correction": False, "correct_unused_bits": True}
    plugin = _PLUGIN if compressed else ""
    try:
        values, properties = _decoder(syntax).as_array(header, index=0, raw=True, decoding_plugin=plugin, **trust)
    except RuntimeError:
        raise UnreadableImage("the compressed image is broken, or its form differs from the header's") from None
    del header.PixelData
    header.BitsStored -= shift
    values >>= shift
    return values, str(properties["photometric_interpretation"])


def _unused_bits(header: Dataset) -> int:
    """Return how many bits below the sample are unused: `HighBit` says where it ends, usually at the lowest bits."""
    return header.HighBit + 1 - header.BitsStored if header.BitsStored <= header.HighBit < header.BitsAllocated else 0


@cache
def _decoder(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder, or for compressed pixels a new one: pydicom's own are shared by all its users."""
    if syntax not in DECODER_DEPENDENCIES:
        return get_decoder(syntax)
    decoder = Decoder(syntax)
    decoder.add_plugin(_PLUGIN, (__name__, decode_frame.__name__))
    return decoder


def _checked(stream: bytes, syntax: uid.UID, header: Dataset) -> bytes:
    """Return the stream if it is safe to decode: decoders reserve memory for any size that it declares."""
    if not stream:
        raise UnreadableImage("its pixel data is cut short")
    if syntax == uid.RLELossless:
        return stream
    if syntax in _JPEG_2000:  # some writers add a JP2 container, whose boxes may send pydicom into an endless loop
        stream = stream[max(stream.find(_JPEG_2000_START), 0) :]
        jpeg2000.refuse_bomb(stream)
    else:
        stream = _ended(stream)
        scans = stream.count(SCAN)
        if scans > MAX_SCANS or (scans > 1 and scans * header.Rows * header.Columns > MAX_SCANNED):
            raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans, or that take too long")
    if _declared_shape(stream) != (header.Rows, header.Columns, header.SamplesPerPixel):
        raise UnreadableImage("the compressed image is broken, or its size differs from the header's")
    return stream


def _ended(stream: bytes) -> bytes:
    """Return a JPEG up to its end, without padding.

    Without an end marker libjpeg paints grey, and CharLS, which decodes JPEG-LS, may search for it for minutes.
    """
    end = stream.rfind(b"\xff\xd9")
    padding = stream[end + 2 :].rstrip(b"\0")
    if end < 0 or (len(padding) > 14 and padding.count(padding[0]) < len(padding)):
        raise UnreadableImage("its pixel data is cut short")
    return stream[: end + 2]


def _declared_shape(stream: bytes) -> tuple[int, int, int]:
    """Return the (rows, columns, samples) that a JPEG, JPEG-LS or JPEG 2000 stream declares."""
    if stream.startswith(_JPEG_2000_START):
        right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
        return bottom - top, right - left, int.from_bytes(stream[40:42])
    place = 2
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.match(stream, place)
        if match is None or len(stream) < match.end() + 8:
            break
        marker, place = match[1][0], match.end()
        if 0xC9 <= marker <= 0xCF:
            raise UnreadableImage("its arithmetic coding is not supported")
        if marker == 0xF7 or (0xC0 <= marker <= 0xC7 and marker != 0xC4):
            rows, columns, samples = struct.unpack_from(">HHB", stream, place + 3)
            return rows, columns, samples
        place += int.from_bytes(stream[place : place + 2])
    raise UnreadableImage("the compressed image is broken")


# The interface of a plug-in: https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html

DECODER_DEPENDENCIES = dict.fromkeys(_COMPRESSED, ("imagecodecs",))


def is_available(syntax: str) -> bool:
    """Return whether `decode_frame` decodes this transfer syntax."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(stream: bytes, runner: DecodeRunner) -> memoryview:
    """Decode a stream to pixels, in the order of rows, columns and samples."""
    syntax, samples = runner.transfer_syntax, runner.samples_per_pixel
    if syntax == uid.RLELossless:
        pixels = _run_lengths(stream, runner)
    elif syntax in _JPEG_2000:
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


def _run_lengths(stream: bytes, runner: DecodeRunner) -> np.ndarray:
    """Decode RLE into as many bytes as the pixels need: runs swell to up to 64 times their length."""
    size = int(runner.frame_length(unit="bytes"))
    kind = f"<u{runner.bits_allocated // 8}"
    decoded = imagecodecs.dicomrle_decode(stream, kind, out=bytearray(size))
    if len(decoded) != size:
        raise ValueError("the decoded image does not fit the header")
    planes = np.frombuffer(decoded, kind).reshape(runner.samples_per_pixel, runner.rows, runner.columns)
    return planes[0] if runner.samples_per_pixel == 1 else np.moveaxis(planes, 0, -1)
