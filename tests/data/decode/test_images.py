"""Image files: the right grey square, or UnreadableImage with a reason on one line."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from support import encoded

from pneumojax.data.decode import images
from pneumojax.data.sources import phantom

REAL = Path(__file__).parents[4] / "shared" / "data" / "kermany_fullsize"
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def png_header(width, height, rest=b""):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rest) + chunk(b"IEND", b"")


def triangle_resize(image, size):
    """Resize by the antialiased bilinear filter in float64: a triangle as wide as the reduction, of weight 1."""

    def weights(length):
        scale = length / size
        width = max(scale, 1.0)
        centres = (np.arange(size) + 0.5) * scale
        distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / width
        kernel = np.clip(1 - distance, 0, None)
        return kernel / kernel.sum(1, keepdims=True)

    return weights(image.shape[0]) @ image @ weights(image.shape[1]).T


def test_grey_of_the_right_size_is_unchanged(read):
    result = read(Image.fromarray(RAMP))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, RAMP)


@pytest.mark.parametrize("shape", [(301, 240), (40, 500), (17, 23)])
def test_resize_is_the_antialiased_triangle_filter(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = images.resize(Image.fromarray(image), 30)
    # Pillow rounds to whole numbers after either direction.
    assert np.abs(result - triangle_resize(image.astype(float), 30)).max() <= 1.0


def test_a_fine_checkerboard_becomes_mid_grey_without_moire(read):
    board = (np.indices((400, 300)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(read(Image.fromarray(board), 32).astype(int) - 127).max() <= 4


def test_an_image_is_squashed_not_cropped(read):
    wide = np.zeros((10, 100), np.uint8)
    wide[:, 50:] = 200
    result = read(Image.fromarray(wide), 10)
    assert (result[:, :4] == 0).all()
    assert (result[:, 6:] == 200).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_any_opaque_mode_is_the_same_grey(read, mode):
    image = Image.fromarray(RAMP).convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(read(image), RAMP)


def test_colour_becomes_luma(read):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]] * 4, np.uint8)
    np.testing.assert_allclose(read(Image.fromarray(colours), 4)[0], [76.2, 149.7, 29.1, 255], atol=0.6)


def test_palette_indices_are_looked_up(read):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 10, 10, 200, 200, 200])
    np.testing.assert_array_equal(read(image, 2), [[10, 200], [200, 10]])


def test_transparency_is_shown_over_black(read):
    half = Image.merge("LA", [Image.new("L", (4, 4), 200), Image.new("L", (4, 4), 128)])
    np.testing.assert_allclose(read(half, 4), 100, atol=1)
    through = Image.new("P", (4, 4), 1)
    through.putpalette([0, 0, 0, 250, 250, 250])
    assert (read(encoded(through, transparency=1), 4) == 0).all()
    assert (read(encoded(through, transparency=b"\xff\x80"), 4) == 125).all()


def test_one_bit_is_black_and_white(read):
    np.testing.assert_array_equal(read(Image.fromarray(RAMP > 100)), np.where(RAMP > 100, 255, 0))


def test_sixteen_bits_are_scaled_not_cut(read):
    wide = np.array([[0, 386], [128 * 257 + 100, 65535]], np.uint16)
    image = Image.fromarray(wide)
    assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(read(image, 2), [[0, 2], [128, 255]])


def test_cmyk_jpeg_is_read(read):
    black_share = Image.merge("CMYK", [Image.new("L", (8, 8), v) for v in (0, 0, 0, 155)])
    np.testing.assert_allclose(read(encoded(black_share, "JPEG", quality=95)), 100, atol=3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_read(read, mode, options):
    image = Image.fromarray(RAMP).resize((64, 64), Image.Resampling.BICUBIC)
    result = read(encoded(image.convert(mode), "JPEG", quality=95, **options), 64, "x.JPG")
    assert np.abs(result.astype(int) - np.asarray(image)).max() < 12


@pytest.mark.parametrize(("orientation", "turned"), [(1, RAMP), (3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1))])
@pytest.mark.parametrize("wide", [False, True])
def test_exif_orientation_is_followed(read, orientation, turned, wide):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = RAMP.astype(np.uint16) * 257 if wide else RAMP
    np.testing.assert_array_equal(read(encoded(Image.fromarray(stored), exif=exif)), turned)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow may say so
def test_corrupt_exif_does_not_cost_the_image(read):
    corrupt = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
    result = read(encoded(Image.fromarray(RAMP), "JPEG", quality=95, exif=corrupt), name="x.jpeg")
    assert np.abs(result.astype(int) - RAMP).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_tiny_images_are_read(read, shape):
    assert (read(Image.fromarray(np.full(shape, 77, np.uint8)), 150) == 77).all()


def test_the_suffix_does_not_matter(read):
    np.testing.assert_array_equal(read(Image.fromarray(RAMP), name="x.jpg"), RAMP)


def half(data):
    return data[: len(data) // 2]


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
BROKEN = {
    "a bomb that only declares its size": (png_header(60_000, 60_000), "60000x60000 pixels"),
    "just too large, where Pillow only warns": (png_header(10_001, 10_000), "10001x10000 pixels"),
    "PNG without pixels": (png_header(8, 8), None),
    "PNG of no width": (png_header(0, 8), None),
    "truncated JPEG": (half(encoded(PHOTO, "JPEG")), "truncated"),
    "truncated PNG": (half(encoded(PHOTO)), "truncated"),
    "JPEG cut in its header": (encoded(PHOTO, "JPEG")[:30], None),
    "PNG cut in its header": (encoded(PHOTO)[:20], None),
    "only a magic number": (b"\xff\xd8\xff", None),
    "empty": (b"", "empty"),
    "text": (b"this is\nno image\n", "neither JPEG, PNG, TIFF, BMP, WebP nor DICOM"),
    "another format": (encoded(PHOTO, "GIF"), "neither JPEG, PNG, TIFF, BMP, WebP nor DICOM"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_give_a_reason(read, case):
    content, says = BROKEN[case]
    with pytest.raises(images.UnreadableImage, match=says) as caught:
        read(content, name="secret name.jpg")
    reason = str(caught.value)
    assert reason.strip()
    assert "\n" not in reason
    assert "secret" not in reason
    assert len(reason) < 120


@pytest.mark.parametrize("name", ["missing.png", "folder.png"])
def test_a_path_that_is_no_file_gives_a_reason(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(images.UnreadableImage, match="^(No such file or directory|Is a directory)$"):
        images.read(tmp_path / name, 8)


def test_no_warning_where_python_shows_them(read):
    """A user's terminal shows warnings that these tests raise as errors."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(images.UnreadableImage):
            read(png_header(10_001, 10_000))
        with pytest.raises(images.UnreadableImage, match="truncated|broken|image"):
            read(png_header(9_999, 9_999))  # below the limit, above the size at which Pillow warns
    assert not shown


def test_any_byte_may_be_broken(read):
    """Decoders raise errors of many kinds on broken data; only UnreadableImage may reach the user."""
    rng = np.random.default_rng(0)
    whole = [encoded(PHOTO), encoded(PHOTO, "JPEG"), encoded(PHOTO.convert("P"), transparency=3)]
    refused = 0
    for round in range(150):
        data = bytearray(whole[round % 3])
        for place in rng.integers(0, min(len(data), 300), 3):
            data[place] = rng.integers(256)
        try:
            assert read(bytes(data)).shape == (8, 8)
        except images.UnreadableImage as reason:
            refused += 1
            assert "\n" not in str(reason)
    assert refused > 20


@pytest.mark.parametrize("shape", [(1203, 1607), (311, 303), (2400, 320), (299, 601)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_scaled_decode_is_less_than_a_grey_level_from_a_full_one(read, shape, mode):
    """The same holds for odd sizes: their last blocks reach beyond the image and must not shift it."""
    chest = Image.fromarray(phantom.render(0, 3, 1, 640)[0]).resize(shape[::-1])
    grain = np.random.default_rng(0).normal(0, 4, shape)  # a detector of that size would have it
    drawn = Image.fromarray((chest + grain).clip(0, 255).astype(np.uint8))
    content = encoded(drawn.convert(mode), "JPEG", quality=92)
    full = images.resize(images.grey(Image.open(io.BytesIO(content))), 150)
    assert np.abs(read(content, 150, "x.jpeg").astype(int) - full).mean() < 1.0


def test_a_large_jpeg_is_really_decoded_at_a_scale(read, monkeypatch):
    """Otherwise the test above would hold without any scaling."""
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, *args, **kw: sizes.append(image.size) or resize(image, *args, **kw)
    )
    read(encoded(Image.new("L", (1207, 805)), "JPEG"), 100, "x.jpeg")
    assert sizes == [(151, 101)]


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_orientation_is_followed_in_a_scaled_decode(read, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn = Image.fromarray(phantom.render(0, 3, 1, 640)[0])
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(drawn, "JPEG", quality=95, exif=exif))))
    result = read(encoded(drawn, "JPEG", quality=95, exif=exif), 100, "x.jpeg")
    assert np.abs(result.astype(int) - images.resize(turned, 100)).mean() < 1.0


def test_real_radiographs_are_less_than_a_grey_level_away():
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    for path in sorted(REAL.glob("*/*"))[::4]:
        full = images.resize(images.grey(Image.open(path)), 150)
        assert np.abs(images.read(path, 150).astype(int) - full).mean() < 1.0, path.name


@pytest.mark.parametrize("kind", ["grey", "wide", "colour", "turned", "inverted", "dicom"])
def test_a_whole_image_has_all_pixels_and_is_upright(tmp_path, kind):
    """Resized, it is what is read at a size, but for rounding where a turned image is resized before it is turned."""
    pixels = phantom.render(2, 1, 1, 120)[0][:, :90]
    expected, path = pixels, tmp_path / "film"
    image, options = Image.fromarray(pixels), {}
    if kind == "wide":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif kind == "colour":
        image = image.convert("RGB")
    elif kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        expected = np.rot90(pixels, -1)
    elif kind == "inverted":  # Pillow then writes it with 0 as white
        tags = ImageFileDirectory_v2()
        tags[262] = 0
        options = {"format": "TIFF", "tiffinfo": tags}
    if kind == "dicom":
        dicom_files.write(path, pixels, 8)
    else:
        image.save(path, **{"format": "PNG"} | options)
    found = images.whole(path)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1
    resized = images.resize(Image.fromarray(found), 40)
    assert np.abs(resized.astype(int) - images.read(path, 40)).max() <= 1
