"""Which JPEG 2000 streams are safe to decode: openjpeg keeps a table entry for each tile, precinct and code block."""

import struct

from pneumojax.data.decode.unreadable import UnreadableImage

_SOC, _SIZ, _COD, _COC, _POC, _PPM, _PPT = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF5F, 0xFF60, 0xFF61
_SOT, _SOD = 0xFF90, 0xFF93
_MAX_TILES = 4096  # 30 million pixels in tiles of 128 x 128 are 1,800
_MAX_TILE_PARTS = 50_000
_MAX_LAYERS = 256
_MIN_BLOCK = 8  # log2 of a code block's pixels; encoders use 10 or 12
_MIN_PRECINCT = 5  # log2 of a precinct's side; encoders use 7 or more


def refuse_bomb(stream: bytes) -> None:
    """Raise UnreadableImage if the stream's tables take far more memory than its pixels; it starts with SOC and SIZ."""
    place, inside = 2, 0  # the end of the current tile-part, 0 in the main header
    for _ in range(_MAX_TILE_PARTS):
        if len(stream) < place + 4:
            return
        marker, length = struct.unpack_from(">HH", stream, place)
        if marker == _SOD:
            place = inside
        elif not 0xFF4F < marker < 0xFFD9:
            return  # the end, or broken
        elif marker == _SOT:
            if len(stream) < place + 10:
                return
            (declared,) = struct.unpack_from(">I", stream, place + 6)
            inside = place + declared if declared >= 12 else len(stream)
            place += 2 + length
        else:
            _check(marker, stream[place + 4 : place + 2 + length])
            place += 2 + length
    raise UnreadableImage("a JPEG 2000 image of too many parts")


def _check(marker: int, segment: bytes) -> None:
    """Raise UnreadableImage for parameters that no encoder of radiographs uses."""
    unusual = marker in (_POC, _PPM, _PPT)
    if marker == _SIZ and len(segment) >= 34:
        right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", segment, 2)
        tiles = -(-(right - left) // (width or 1)) * -(-(bottom - top) // (height or 1))
        unusual = tiles > _MAX_TILES
    elif marker == _COD and len(segment) >= 10:
        style, _, layers, _ = struct.unpack_from(">BBHB", segment)
        unusual = layers > _MAX_LAYERS or _is_fine(style, segment[5:])
    elif marker == _COC and len(segment) >= 7:
        unusual = _is_fine(segment[1], segment[2:])
    if unusual:
        raise UnreadableImage("a JPEG 2000 image in far smaller pieces than radiographs have")


def _is_fine(style: int, parameters: bytes) -> bool:
    """Return whether code blocks or precincts are too small: levels, block width, block height, two more, precincts."""
    across, down = parameters[1] & 15, parameters[2] & 15
    precincts = parameters[5:] if style & 1 else b""
    return across + down + 4 < _MIN_BLOCK or any(min(divmod(size, 16)) < _MIN_PRECINCT for size in precincts)
