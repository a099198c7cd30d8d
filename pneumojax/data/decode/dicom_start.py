"""How a DICOM file starts: with a preamble of 128 bytes and "DICM", or, in old files, with its first element."""

import struct

HEAD = 512  # bytes at the start of a file that show its format

# fmt: off
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # 4 bytes of length
_SHORT = {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
}
# fmt: on
_GROUPS = (0x0002, 0x0008)  # of the first element
_MOST = 1024  # bytes of one of the first elements


def is_dicom(head: bytes) -> bool:
    """Return whether a file's first `HEAD` bytes are those of DICOM, with or without a preamble."""
    return head[128:132] == b"DICM" or any(_starts(head, order, explicit) for order, explicit in _ENCODINGS)


_ENCODINGS = (("<", True), ("<", False), (">", True))  # byte order, and whether value representations are explicit


def encoding_of(head: bytes) -> tuple[bool, bool]:
    """Return (implicit, little-endian) of elements that start here; implicit little-endian if they are not sound."""
    order, explicit = next((known for known in _ENCODINGS if _starts(head, *known)), ("<", False))
    return not explicit, order == "<"


def _starts(head: bytes, order: str, explicit: bool) -> bool:
    """Return whether two sound elements come first, in order of their tags."""
    first = _element(head, 0, order, explicit)
    if first is None or first[0] >> 16 not in _GROUPS:
        return False
    second = _element(head, first[1], order, explicit)
    return second is not None and first[0] < second[0] < 0x7FE00011


def _element(head: bytes, place: int, order: str, explicit: bool) -> tuple[int, int] | None:
    """Return the tag of an element, and where the next one starts."""
    try:
        group, number, representation, length = struct.unpack_from(f"{order}HH2sH", head, place)
        start = place + 8
        if not explicit:
            (length,) = struct.unpack_from(f"{order}I", head, place + 4)
        elif representation in LONG:
            (length,) = struct.unpack_from(f"{order}I", head, start)
            start += 4
        elif representation not in _SHORT:
            return None
    except struct.error:
        return None
    return (group << 16 | number, start + length) if length <= _MOST and not length % 2 else None
