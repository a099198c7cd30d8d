"""Image files without their metadata: what a decoder needs, and nothing that could keep it busy.

Metadata is where files grow without pixels: a million comments, tables of Exif that refer to the same bytes over and
over, profiles that inflate. Only the orientation and the number of significant bits are read from it, here.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from pneumojax.data.decode.unreadable import MAX_PARTS, MAX_SCANNED, MAX_SCANS, SCAN, Metered, UnreadableImage

MAX_METADATA = 1 << 20  # bytes of one piece of Exif or XMP that is looked at
MAX_SEGMENTS = 1000  # of a JPEG before its pixels; a colour profile has 255 at most
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TRUNCATED = "the file is truncated"


class Stripped(NamedTuple):
    """An image file without metadata.

    Attributes:
      file: what is left.
      width, height: in pixels, as stored.
      bytes_per_pixel: memory that decoding and converting to grey takes.
      orientation: how to turn the image, 1 to 8 as in EXIF.
      bits: significant bits of a 16-bit sample, where the file says.
      wide_colour: whether it is in colour of 16 bits.
      inverted: whether 0 is white and the decoder does not take care of it.
      indirect: whether the decoder must convert it to RGB, such as by a palette.
    """

    file: io.BytesIO
    width: int
    height: int
    bytes_per_pixel: float
    orientation: int = 1
    bits: int | None = None
    wide_colour: bool = False
    inverted: bool = False
    indirect: bool = False

    def size(self) -> int:
        """Return the number of bytes that are left."""
        return self.file.getbuffer().nbytes


def orientation_of(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Return the orientation in EXIF, 1 to 8, or else in XMP; 1 if neither says, or is corrupt."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order:
        try:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for place in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
                if tag == _ORIENTATION and kind == 3:
                    return value
        except struct.error:  # it ends too early
            pass
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


_JPEG_MARKER = re.compile(rb"\xff+([^\xff\0])")
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_KEPT = _JPEG_FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}
_JPEG_BARE = {0x01, *range(0xD0, 0xDA)}  # markers without a length


def jpeg(file: Metered) -> Stripped:
    """Strip a JPEG of comments and application segments, except those that tell its colour space."""
    data = file.read()
    kept, frame, exif, xmp = [data[:2]], b"", b"", b""
    place = 2
    for _ in range(MAX_SEGMENTS):
        match = _JPEG_MARKER.search(data, place)
        if match is None or len(data) < match.end() + 2:
            raise UnreadableImage(_TRUNCATED)
        code, place = match[1][0], match.end()
        if code in _JPEG_BARE:
            kept.append(b"\xff" + match[1])
            continue
        if code == 0xDA:
            break
        end = place + int.from_bytes(data[place : place + 2])
        segment = data[place + 2 : end]
        if end > len(data):
            raise UnreadableImage(_TRUNCATED)
        if code in _JPEG_FRAMES:
            frame = frame or bytes([code]) + segment
        if code == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment
        if code == 0xE1 and segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = segment
        if code in _JPEG_KEPT or segment.startswith({0xE0: b"JFIF", 0xEE: b"Adobe"}.get(code, b"none")):
            kept.append(b"\xff" + match[1] + data[place:end])
        place = end
    else:
        raise UnreadableImage(f"a JPEG of more than {MAX_SEGMENTS:,} segments before its pixels")
    height, width, bytes_per_pixel = _jpeg_frame(frame, data, place)
    pixels = memoryview(data)[place:]
    stripped = io.BytesIO(b"".join([*kept, SCAN, pixels]))
    return Stripped(stripped, width, height, bytes_per_pixel, orientation_of(exif, xmp))


def _jpeg_frame(frame: bytes, data: bytes, scan: int) -> tuple[int, int, float]:
    """Return (height, width, bytes per pixel) of a frame: its marker, and its segment."""
    if len(frame) < 7:
        raise UnreadableImage("a JPEG without a size")
    if frame[0] > 0xC8:
        raise UnreadableImage("a JPEG whose arithmetic coding is not supported")
    height, width, components = struct.unpack_from(">HHB", frame, 2)
    bytes_per_pixel = {1: 2, 3: 2}.get(components, 5)  # three become grey in the decoder
    in_scan = data[scan + 2] if scan + 2 < len(data) else 0
    if frame[0] in (0xC2, 0xC6) or in_scan < components:  # libjpeg keeps all coefficients until the end
        factors = [divmod(byte, 16) for byte in frame[8::3][:components]]
        most = max((across * down for across, down in factors), default=1) or 1
        bytes_per_pixel += 2 * sum(across * down for across, down in factors) / most
        scans = data.count(SCAN, scan)
        if scans > MAX_SCANS:
            raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")
        if scans * width * height > MAX_SCANNED:
            raise UnreadableImage(f"a JPEG of {width}x{height} pixels in {scans} scans, which take too long")
    return height, width, bytes_per_pixel


_PNG_KEPT = (b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def png(file: Metered) -> Stripped:
    """Strip a PNG of all chunks that its pixels do not need."""
    kept = io.BytesIO()
    kept.write(file.read(8))
    header, exif, xmp, significant = b"", b"", b"", b""
    for _ in range(MAX_PARTS):
        start = file.read(8)
        length, name = int.from_bytes(start[:4]), start[4:]
        if len(start) < 8 or not name.isalpha():
            break
        if name in _PNG_KEPT or (name == b"IHDR" and not header):
            content = file.read(length + 4)
            header = header or content[:13]
            kept.write(start + content)
        elif name in (b"eXIf", b"sBIT", b"iTXt", b"zTXt") and length <= MAX_METADATA:
            content = file.read(length + 4)[:length]
            exif = content if name == b"eXIf" else exif or _raw_exif(name, content)
            xmp = content if content.startswith(b"XML:com.adobe.xmp\0") else xmp
            significant = content if name == b"sBIT" else significant
        else:
            file.seek(length + 4, io.SEEK_CUR)
        if name == b"IEND":
            break
    else:
        raise UnreadableImage(f"a PNG of more than {MAX_PARTS:,} chunks")
    if len(header) < 13:
        raise UnreadableImage(_TRUNCATED)
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    channels = _PNG_CHANNELS.get(colour, 4)
    wide_colour = depth == 16 and channels > 2
    grey = 1 + (2 if depth == 16 else 1)
    bytes_per_pixel = grey if channels == 1 else 18 if wide_colour else 5
    bits = max(significant, default=0) if depth == 16 else 0
    turn = orientation_of(exif, xmp)
    return Stripped(kept, width, height, bytes_per_pixel, turn, bits if 0 < bits <= 16 else None, wide_colour)


def _raw_exif(name: bytes, content: bytes) -> bytes:
    """Return the Exif in a text chunk by which ImageMagick stores it."""
    key, _, text = content.partition(b"\0\0")
    if name != b"zTXt" or key != b"Raw profile type exif":
        return b""
    try:
        return bytes.fromhex(zlib.decompressobj().decompress(text, MAX_METADATA).decode("ascii").split("\n", 3)[3])
    except (zlib.error, ValueError, IndexError):
        return b""


_TIFF_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}  # bytes of a value, by its type
_TIFF_LETTERS = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_COUNTS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 279, 284, 322, 323, 324, 325, 339
_TIFF_KEPT = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _OFFSETS, _SAMPLES, 278, _COUNTS, _PLANES, 317}
_TIFF_KEPT |= {320, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, 338, _FORMAT, 347, 530, 532}
_TIFF_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946}  # none, LZW, JPEG, deflate, PackBits
_MAX_TILES = 50_000
_SAVE_TIFF = "a TIFF whose samples are not supported: save it as 8 or 16 bits gray, or 8 bits color"


class _Directory:
    """The first directory of a TIFF file."""

    def __init__(self, data: bytes):
        self._data, self.order = data, "<" if data[:2] == b"II" else ">"
        (start,) = struct.unpack_from(f"{self.order}I", data, 4)
        (count,) = struct.unpack_from(f"{self.order}H", data, start)
        end = start + 2 + 12 * count
        (self.following,) = struct.unpack_from(f"{self.order}I", data, end)
        entries = (data[place : place + 12] for place in range(start + 2, end, 12))
        self._entries = {struct.unpack_from(f"{self.order}H", entry)[0]: entry for entry in entries}

    def values(self, tag: int, default: int = 0) -> Sequence[int]:
        """Return the values of a tag."""
        if tag not in self._entries:
            return [default]
        kind, count = struct.unpack_from(f"{self.order}HI", self._entries[tag], 2)
        if kind not in _TIFF_LETTERS or count > 3 * _MAX_TILES:
            raise UnreadableImage("a TIFF with a broken directory")
        start = 8 if count * _TIFF_WIDTHS[kind] <= 4 else struct.unpack_from(f"{self.order}I", self._entries[tag], 8)[0]
        data = self._entries[tag] if count * _TIFF_WIDTHS[kind] <= 4 else self._data
        return struct.unpack_from(f"{self.order}{count}{_TIFF_LETTERS[kind]}", data, start)

    def value(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        return next(iter(self.values(tag, default)), default)

    def kept(self) -> bytes:
        """Return a directory of what the pixels need."""
        kept = [entry for tag, entry in sorted(self._entries.items()) if tag in _TIFF_KEPT]
        for entry in kept:
            kind, count = struct.unpack_from(f"{self.order}HI", entry, 2)
            if _TIFF_WIDTHS.get(kind, 1 << 20) * count > 4 * 3 * _MAX_TILES:
                raise UnreadableImage("a TIFF with a broken directory")
        return struct.pack(f"{self.order}H", len(kept)) + b"".join(kept) + bytes(4)


def tiff(file: Metered) -> Stripped:
    """Strip a TIFF of all but its first directory, and that of what its pixels do not need."""
    data = file.read()
    try:
        directory = _Directory(data)
        if directory.following:
            raise UnreadableImage("more than one frame")
        _check_tiff(directory, data)
        end = len(data) + len(data) % 2
        parts = data[:4], struct.pack(f"{directory.order}I", end), memoryview(data)[8:], bytes(len(data) % 2)
        stripped = io.BytesIO(b"".join([*parts, directory.kept()]))
        samples, bits, colours = (directory.value(tag, 1) for tag in (_SAMPLES, _BITS, _PHOTOMETRIC))
        indirect = colours > 2 or (samples > 1 and directory.value(_PLANES, 1) == 2)
        if indirect and bits > 8:
            raise UnreadableImage(_SAVE_TIFF)
        width, height, turn = (directory.value(tag) for tag in (_WIDTH, _HEIGHT, _ORIENTATION))
        # The decoder's array, Pillow's image, and grey.
        bytes_per_pixel = (
            15 if indirect or (samples > 1 and bits > 8) else 9 if samples > 1 else 2 * (bits // 8 or 1) + 1
        )
        wide_colour = samples > 1 and bits > 8
        return Stripped(stripped, width, height, bytes_per_pixel, turn, None, wide_colour, colours == 0, indirect)
    except struct.error:
        raise UnreadableImage(_TRUNCATED) from None


def _check_tiff(directory: _Directory, data: bytes) -> None:
    """Raise UnreadableImage for what is not decoded."""
    samples, bits = directory.value(_SAMPLES, 1), set(directory.values(_BITS, 1))
    if directory.value(_COMPRESSION, 1) not in _TIFF_COMPRESSIONS:
        raise UnreadableImage("a TIFF whose compression is not supported: save it without, or as PNG")
    if not 0 < samples <= 4 or not bits <= {1, 8, 16} or len(bits) != 1 or max(directory.values(_FORMAT, 1)) > 1:
        raise UnreadableImage(_SAVE_TIFF)
    offsets = [*directory.values(_OFFSETS), *directory.values(_TILE_OFFSETS)]
    counts = [*directory.values(_COUNTS), *directory.values(_TILE_COUNTS)]
    if len(counts) > _MAX_TILES or len(offsets) != len(counts):
        raise UnreadableImage("a TIFF of too many strips or tiles")
    if sum(counts) > len(data) or max(map(sum, zip(offsets, counts, strict=True))) > len(data):
        raise UnreadableImage(_TRUNCATED)
    pixels = directory.value(_WIDTH) * directory.value(_HEIGHT)
    if directory.value(_TILE_WIDTH) * directory.value(_TILE_HEIGHT) > 2 * pixels + (1 << 20):
        raise UnreadableImage("a TIFF with a tile larger than the image")
    if directory.value(_COMPRESSION, 1) == 7 and data.count(SCAN) > len(counts) + MAX_SCANS:
        raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")


def bmp(file: Metered) -> Stripped:
    """Return a BMP as it is, if its pixels are not compressed."""
    data = file.read()
    head = data[:34].ljust(34, b"\0")
    if int.from_bytes(head[14:18], "little") == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", head, 18)
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", head, 18)
    if compression not in (0, 3):
        raise UnreadableImage("a BMP whose compression is not supported: save it without, or as PNG")
    return Stripped(io.BytesIO(data), abs(width), abs(height), 2 if depth <= 8 else 5)


def webp(file: Metered) -> Stripped:
    """Strip a WebP of all that its pixels do not need."""
    file.seek(12)
    kept, extended = b"", b""
    width = height = 0
    for _ in range(MAX_SEGMENTS):
        name, length = (start := file.read(8))[:4], int.from_bytes(start[4:], "little")
        padded = length + length % 2
        if name == b"VP8X":
            extended = start + file.read(padded)
            if any(flags & 2 for flags in extended[8:9]):
                raise UnreadableImage("more than one frame")
        elif name in (b"VP8 ", b"VP8L", b"ALPH"):
            content = file.read(padded)
            kept += start + content
            if name != b"ALPH":
                width, height = _webp_size(name, content)
                break
        else:
            file.seek(padded, io.SEEK_CUR)
        if len(start) < 8:
            raise UnreadableImage(_TRUNCATED)
    exif, xmp = _webp_metadata(file)
    if len(extended) >= 18:
        extended = extended[:8] + bytes([extended[8] & 0x10]) + extended[9:]
    content = b"WEBP" + extended + kept
    whole = io.BytesIO(b"RIFF" + len(content).to_bytes(4, "little") + content)
    return Stripped(whole, width, height, 13, orientation_of(exif, xmp))


def _webp_size(name: bytes, content: bytes) -> tuple[int, int]:
    if len(content) < 10:
        raise UnreadableImage(_TRUNCATED)
    if name == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 6)
    return width & 0x3FFF, height & 0x3FFF


def _webp_metadata(file: Metered) -> tuple[bytes, bytes]:
    """Return the EXIF and XMP after a WebP's pixels."""
    found = {b"EXIF": b"", b"XMP ": b""}
    for _ in range(MAX_SEGMENTS):
        name, length = (start := file.read(8))[:4], int.from_bytes(start[4:], "little")
        if len(start) < 8:
            break
        if name in found and length <= MAX_METADATA:
            found[name] = file.read(length + length % 2)
        else:
            file.seek(length + length % 2, io.SEEK_CUR)
    return found[b"EXIF"], found[b"XMP "]
