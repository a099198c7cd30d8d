"""Files that would exhaust memory or time if a reader followed them: small ones, or ones just below 100 MB."""

import struct
import zlib
from pathlib import Path

import dicom_files
import imagecodecs
import numpy as np
from broken_files import CHEST, raw_png, sealed_png
from PIL import Image
from pydicom import uid
from support import encoded

SMALL = np.asarray(CHEST)
MB = 1_000_000
MANY = 3 * MB


def jpeg_with(segments):
    whole = encoded(CHEST, "JPEG")
    return whole[:2] + segments + whole[2:]


def exif_of_endless_tables(entries, length):
    """Make EXIF whose every entry refers to the same bytes."""
    table = b"".join(struct.pack("<HHII", 0x8000 + n, 7, length, 8) for n in range(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + table + bytes(4)


def segment(code, content):
    return b"\xff" + bytes([code]) + struct.pack(">H", len(content) + 2) + content


def progressive(width, height, scans, colour=False):
    image = Image.new("RGB" if colour else "L", (width, height), 90)
    whole = encoded(image, "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    return whole[:-2] + last * scans + whole[-2:]


def chunk(name, data):
    return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)


def png_with(chunks):
    whole = encoded(CHEST, "PNG")
    return whole[:33] + chunks + whole[33:]


def wide_png(width, height, depth, colour):
    """Make a PNG of zeros without holding its pixels."""
    row = 1 + width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(row)) for _ in range(height)) + packer.flush()
    whole = raw_png(width, height, depth, colour, 0, b"")
    start = whole.index(b"IDAT") - 4
    return sealed_png(whole[:start] + len(packed).to_bytes(4) + b"IDAT" + packed + bytes(4) + whole[-12:])


def tiff_of(entries, data=b""):
    """Make a TIFF of (tag, type, count, value), and bytes after its directory."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + data


def tiff_header(width, height, compression=1, bits=8):
    pairs = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1, 278: height}
    return [(tag, 4, 1, value) for tag, value in pairs.items()]


def dicom(folder, pixels=SMALL, bits=8, syntax=uid.ExplicitVRLittleEndian, stream=None, **elements):
    return dicom_files.write(folder / "made.dcm", pixels, bits, syntax, stream, **elements).read_bytes()


def before_pixels(content, added):
    place = content.index(b"\xe0\x7f\x10\0")
    return content[:place] + added + content[place:]


def empty_items(count):
    return b"\x10\x00\x02\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0\0\0\0\0" * count + b"\xfe\xff\xdd\xe0\0\0\0\0"


def deflated(content, lie):
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    zeros = b"\x09\x00\x10\x10OB\0\0" + (700 * MB).to_bytes(4, "little")
    packed = packer.compress(zeros) + b"".join(packer.compress(bytes(MB)) for _ in range(700)) + packer.flush()
    head = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    head = head[:140] + (lie if lie is not None else len(head) - 144).to_bytes(4, "little") + head[144:]
    syntax = head.index(b"\x02\0\x10\0UI")
    return head[: syntax + 6] + (22).to_bytes(2, "little") + head[syntax + 8 :] + packed


def with_stream(folder, side, syntax, stream, bits=16):
    """Make a DICOM of this stream, whose header declares (side, side) pixels."""
    return dicom(folder, SMALL, bits, syntax, stream, Rows=side, Columns=side)


def run_lengths(segments, length):
    """Make RLE segments of runs of 128 equal bytes, `length` bytes each."""
    starts = [64 + number * length for number in range(segments)]
    return struct.pack("<16I", segments, *starts, *[0] * (15 - segments)) + b"\x81\x00" * (segments * length // 2)


def jpeg_2000(side, block=64, precincts=None, tile=None, layers=1):
    """Make the headers of a JPEG 2000 image, with these sides, and packets that say that there is nothing."""
    tile = tile or side
    size = struct.pack(">HIIIIIIIIHBBB", 0, side, side, 0, 0, tile, tile, 0, 0, 1, 15, 1, 1)
    exponent = block.bit_length() - 3
    style = b"\x01" if precincts else b"\0"
    coding = style + struct.pack(">BHB", 0, layers, 0) + bytes([0, exponent, exponent, 0, 1]) + (precincts or b"")
    steps = b"\x40\x80"
    main = b"\xff\x4f" + segment(0x51, size) + segment(0x52, coding) + segment(0x5C, steps)
    body = b"\xff\x93" + bytes(500)
    return main + segment(0x90, struct.pack(">HIBB", 0, 12 + len(body), 0, 1)) + body + b"\xff\xd9"


def webp(side):
    """Make a WebP that declares (side, side) pixels."""
    whole = encoded(CHEST.convert("RGB"), "WEBP", lossless=True)
    place = whole.index(b"VP8L") + 9
    sides = side - 1 | side - 1 << 14 | int.from_bytes(whole[place : place + 4], "little") & 0xF << 28
    return whole[:place] + sides.to_bytes(4, "little") + whole[place + 4 :]


def pngs():
    yield "1 x 100,000,000.png", raw_png(1, 100 * MB, 8, 0, 0, bytes(1000))
    yield "chunks.png", png_with(chunk(b"teXt", b"") * MANY)
    empty = chunk(b"IDAT", b"") * MANY
    yield "pixel chunks.png", encoded(CHEST, "PNG").replace(b"\0\0\0\0IEND", empty + b"\0\0\0\0IEND")
    yield "profiles.png", png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(MB), 9)) * 20_000)
    yield "tables.png", png_with(chunk(b"eXIf", exif_of_endless_tables(5_000, 60_000)[6:] + bytes(60_000)))
    yield "large RGBA.png", wide_png(9_100, 9_100, 8, 6)
    yield "large RGB of 16 bits.png", wide_png(4_600, 4_600, 16, 2)


def jpegs():
    yield "exif.jpg", jpeg_with(segment(0xE1, b"Exif\0\0" + b"x" * 14) * 270_000)
    tables = segment(0xE1, exif_of_endless_tables(5_000, 60_000))
    yield "tables.jpg", jpeg_with(tables + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 50)
    yield "comments.jpg", jpeg_with(segment(0xFE, b"") * MANY)
    yield "padding.jpg", jpeg_with(b"\xff" * 20 * MB)
    yield "junk.jpg", jpeg_with(b"\xff\0" * 10 * MB)
    yield "scans.jpg", progressive(9_000, 9_000, 60)
    yield "coefficients.jpg", progressive(6_000, 6_000, 10, colour=True)


def dicoms(folder):
    yield "items.dcm", before_pixels(dicom(folder), empty_items(2 * MB))
    yield "elements.dcm", before_pixels(dicom(folder), b"\x11\x00\x01\x10UN\0\0\0\0\0\0" * MANY)
    item = b"\x11\x00\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    yield "nested.dcm", before_pixels(dicom(folder), item * MB)
    window = b"\x28\x00\x50\x10DS" + (60_000).to_bytes(2, "little") + b"1\\" * 30_000
    yield "windows.dcm", before_pixels(dicom(folder), window)
    charsets = b"\x08\x00\x05\0UN\0\0" + (20 * MB).to_bytes(4, "little") + b"a\\" * 10 * MB
    yield "charsets.dcm", before_pixels(dicom(folder), charsets)
    tables = b"\x28\x00\x10\x30SQ\0\0" + (20 * MB).to_bytes(4, "little")
    yield "tables.dcm", before_pixels(dicom(folder), tables + b"\xfe\xff\x00\xe0\0\0\0\0" * (20 * MB // 8))
    yield "deflated.dcm", deflated(dicom(folder), None)
    yield "deflated with a lie.dcm", deflated(dicom(folder), 100 * MB)
    yield "runs.dcm", with_stream(folder, 10_000, uid.RLELossless, run_lengths(2, 1_600_000))
    yield "too many runs.dcm", with_stream(folder, 1_000, uid.RLELossless, run_lengths(2, 2_000_000))
    whole = dicom(folder, syntax=uid.JPEG2000, stream=b"\xff\x4f\xff\x51" + bytes(100))
    yield "fragments.dcm", whole[:-8] + b"\xfe\xff\x00\xe0\0\0\0\0" * MANY + whole[-8:]
    variants = {"blocks": {"block": 4}, "precincts": {"precincts": b"\x11"}, "tiles": {"tile": 20}, "largest": {}}
    variants |= {"layers": {"layers": 65_535, "precincts": b"\x66"}, "small blocks": {"block": 16}}
    for name, variant in variants.items():
        yield f"{name}.dcm", with_stream(folder, 4_500, uid.JPEG2000, jpeg_2000(4_500, **variant))
    stream = imagecodecs.jpegls_encode(SMALL)
    for name, added in (("comments", segment(0xFE, b"") * MANY), ("padding", b"\xff" * 20 * MB)):
        yield f"{name}.dcm", dicom(folder, syntax=uid.JPEGLSLossless, stream=stream[:2] + added + stream[2:])


def others():
    same = [(0x8000 + number, 7, 40 * MB, 100) for number in range(3000)]
    yield "tables.tif", tiff_of([*tiff_header(64, 64), (273, 4, 1, 40_000), (279, 4, 1, 4096), *same], bytes(41 * MB))
    strips = [*tiff_header(1, 20_000, 5)[:-1], (278, 4, 1, 1), (273, 4, 20_000, 200), (279, 4, 20_000, 200)]
    yield "strips.tif", tiff_of(strips, struct.pack("<I", 10 * MB) * 20_000 + bytes(10 * MB))
    tile = [(322, 4, 1, 19_984), (323, 4, 1, 19_984), (324, 4, 1, 300), (325, 4, 1, 300)]
    yield "tile.tif", tiff_of([*tiff_header(64, 64, 8), *tile], bytes(1000))
    yield "directories.tif", tiff_of(tiff_header(64, 64))[:-4] + struct.pack("<I", 8)
    whole = encoded(CHEST, "BMP")
    head = whole[:18] + struct.pack("<ii", 10_000, 10_000) + whole[26:30] + b"\1\0\0\0" + whole[34:]
    yield "runs.bmp", head + b"\1\7" * 10 * MB
    yield "large.webp", webp(16_383)
    yield "chunks.webp", encoded(CHEST, "WEBP") + b"JUNK\0\0\0\0" * MANY


def bombs(folder: Path):
    """Yield (name, content)."""
    for kind in (pngs(), jpegs(), dicoms(folder), others()):
        yield from kind


def honest(folder: Path):
    """Yield the largest files that must be read."""
    yield "100 million pixels.png", wide_png(10_000, 10_000, 8, 0)
    yield "100 million pixels.jpg", encoded(Image.new("L", (10_000, 10_000), 90), "JPEG")
    yield "100 million pixels.dcm", dicom(folder, np.zeros((10_000, 10_000), np.uint8))
    film = np.kron(SMALL, np.ones((72, 68), np.uint16)) * 257  # 20 million pixels
    yield "16 bits.png", encoded(Image.fromarray(film), "PNG", compress_level=1)
    yield "16 bits.tif", encoded(Image.fromarray(film), "TIFF", compression="tiff_lzw")
    yield "16 bits.dcm", dicom(folder, film, 16)
    packed = imagecodecs.jpeg2k_encode(film, codecformat="j2k", reversible=True, level=0)
    yield "16 bits, JPEG 2000.dcm", dicom(folder, film, 16, uid.JPEG2000Lossless, packed)
    yield "16 bits, RLE.dcm", dicom(folder, film, 16, uid.RLELossless, run_lengths(2, film.size // 64))
