"""TIFF, BMP and WebP, 16 bits of which not all are used, and where each format says how an image is turned."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import encoded

from pneumojax.data.decode import images

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
GREY = Image.fromarray(RAMP)
COLOUR = GREY.convert("RGB")
EVEN = np.linspace(0, 255, 64).reshape(8, 8)


def of_bits(bits):
    """Draw an even ramp, in 16 bits of which some are used."""
    return np.rint(EVEN / 255 * ((1 << bits) - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_may_be_used_in_part(read, bits, kind):
    """Programs store the 12 bits of DICOM pixels so, without scaling them."""
    assert np.abs(read(encoded(Image.fromarray(of_bits(bits)), kind)) - EVEN).max() <= 1


def test_arrays_of_sixteen_bits_may_be_used_in_part():
    """Datasets of TFDS give arrays."""
    assert np.abs(np.asarray(images.grey(Image.fromarray(of_bits(12)))) - EVEN).max() <= 1


def with_significant_bits(wide, bits):
    content, chunk = encoded(Image.fromarray(wide)), b"sBIT" + bytes([bits])
    return content[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def test_significant_bits_of_a_png_are_followed(read):
    """Without them this image would be twice as bright."""
    wide = of_bits(11)
    assert np.abs(read(with_significant_bits(wide, 12)) - EVEN / 2).max() <= 1
    assert np.abs(read(with_significant_bits(wide, 11)) - EVEN).max() <= 1
    scaled = wide << 4 | wide >> 8  # as the PNG specification asks
    assert np.abs(read(with_significant_bits(scaled, 12)) - EVEN / 2).max() <= 1


def test_significant_bits_that_are_far_from_true_are_ignored(read):
    assert np.abs(read(with_significant_bits(of_bits(9), 12)) - EVEN).max() <= 1


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 15, 16])
@pytest.mark.parametrize("encode", [imagecodecs.png_encode, imagecodecs.tiff_encode], ids=["PNG", "TIFF"])
def test_sixteen_bits_in_colour_are_read(read, channels, bits, encode):
    wide = of_bits(bits)[..., None].repeat(channels, 2)
    wide[..., 3:] = 65535
    assert np.abs(read(encode(wide)) - EVEN).max() <= 1.01


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("kind", ["TIFF", "BMP", "WEBP"])
def test_other_formats_are_read(read, mode, kind):
    if (kind, mode) == ("BMP", "LA"):
        pytest.skip("BMP has no such mode")
    drawn = GREY.convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read(encoded(drawn, kind, **options)), read(encoded(drawn)))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("options", [{}, {"strip_size": 16}, {"tiffinfo": {317: 2}}], ids=["", "strips", "predictor"])
def test_compressed_tiff_is_read(read, compression, options):
    for drawn in (RAMP, RAMP.astype(np.uint16) * 257):
        if "tiffinfo" not in options or compression not in (None, "packbits"):
            content = encoded(Image.fromarray(drawn), "TIFF", compression=compression, **options)
            np.testing.assert_array_equal(read(content), RAMP)


def test_a_tiff_of_a_jpeg_is_read(read):
    drawn = GREY.resize((64, 64), Image.Resampling.BICUBIC)
    result = read(encoded(drawn.convert("RGB"), "TIFF", compression="jpeg"), 64)
    assert np.abs(result.astype(int) - np.asarray(drawn)).mean() < 4


@pytest.mark.parametrize("wide", [False, True])
def test_a_tiff_whose_zero_is_white_is_inverted(read, wide):
    """Pillow does that for 8 bits alone."""
    stored = (255 - RAMP).astype(np.uint16) * 257 if wide else 255 - RAMP
    entry = struct.pack("<HHI", 262, 3, 1)
    content = encoded(Image.fromarray(stored), "TIFF")
    assert entry + b"\1\0" in content
    np.testing.assert_array_equal(read(content.replace(entry + b"\1\0", entry + b"\0\0")), RAMP)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_orientation_is_followed(read, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = read(encoded(COLOUR, exif=exif))
    assert not np.array_equal(expected, RAMP)
    np.testing.assert_array_equal(read(encoded(COLOUR, kind, exif=exif, **options)), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientation_in_xmp_is_followed(read, kind):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    options = {"WEBP": {"lossless": True, "xmp": xmp}, "JPEG": {"quality": 100, "xmp": xmp}, "PNG": {}}[kind]
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    result = read(encoded(COLOUR, kind, **options))
    assert np.abs(result.astype(int) - RAMP[::-1, ::-1]).mean() < 3


def test_orientation_as_imagemagick_stores_it_is_followed(read):
    exif = Image.Exif()
    exif[0x0112] = 3
    texts = PngInfo()
    raw = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    texts.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    np.testing.assert_array_equal(read(encoded(GREY, pnginfo=texts)), RAMP[::-1, ::-1])


TWO = {"save_all": True, "append_images": [COLOUR.rotate(90)]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encoded(COLOUR, "TIFF", **TWO), "more than one frame"),
        (encoded(COLOUR, "WEBP", **TWO), "more than one frame"),
        (encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "samples are not supported"),
        (encoded(Image.fromarray(RAMP > 9), "TIFF", compression="group4"), "compression is not supported"),
        (encoded(GREY, "TIFF")[:100], "truncated"),
        (encoded(GREY, "BMP")[:-20], "truncated"),
        (encoded(COLOUR, "WEBP")[:-20], None),
    ],
    ids=["frames", "animation", "floats", "fax", "cut TIFF", "cut BMP", "cut WebP"],
)
def test_what_is_not_read_has_a_reason(read, content, says):
    with pytest.raises(images.UnreadableImage, match=says) as caught:
        read(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120
