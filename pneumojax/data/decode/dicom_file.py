"""The elements of a DICOM file that decoding needs, read by bounded steps whatever the file declares.

pydicom's reader follows millions of empty items, inflates without a limit, and reads all text in every character set.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag

from pneumojax.data.decode.dicom_start import HEAD, LONG, encoding_of, is_dicom
from pneumojax.data.decode.unreadable import MAX_FILE_BYTES, Metered, UnreadableImage

MAX_INFLATED = 120_000_000  # bytes of a deflated file
_LONGEST = {"ModalityLUTSequence": 1 << 19, "VOILUTSequence": 1 << 19}  # bytes: a table of 65,536 entries has 1 << 17
_LONGEST_OTHER = 1 << 12
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_MAX_META = 100  # elements of group 2


class _Element(NamedTuple):
    tag: int
    representation: str | None
    length: int


class DicomFile:
    """A DICOM file, with or without a preamble.

    Attributes:
      header: the elements before the pixels that were asked for, and the transfer syntax.
    """

    def __init__(self, file: IO[bytes], keywords: list[str], max_inflated: int = MAX_INFLATED):
        """Read the header; `keywords` name its elements.

        Raises:
          UnreadableImage: it is no DICOM file, an element is far too long, or the file inflates to more than
            `max_inflated` bytes.
        """
        syntax = _transfer_syntax(file)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            file = io.BytesIO(_inflated(file, max_inflated))
        if syntax:
            self._implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
        else:
            start = file.tell()
            self._implicit, little = encoding_of(file.read(HEAD))
            file.seek(start)
            syntax = uid.ImplicitVRLittleEndian if self._implicit else uid.ExplicitVRLittleEndian
            syntax = syntax if little else uid.ExplicitVRBigEndian
        self._order = "<" if little else ">"
        self._file = Metered(file, MAX_FILE_BYTES)
        self._pixels: _Element | None = None
        self.header = Dataset()
        for element in self._wanted({int(Tag(keyword)): keyword for keyword in keywords}):
            self.header[element.tag] = element
        self.header.file_meta = FileMetaDataset()
        self.header.file_meta.TransferSyntaxUID = syntax
        self.header.set_original_encoding(self._implicit, little)

    def pixel_data(self, compressed: bool, longest: int) -> bytes:
        """Read the first `longest` bytes of pixel data; compressed data without its first fragment, a table of offsets.

        Raises:
          UnreadableImage: it is missing, or compressed and cut short or of more than `longest` bytes.
        """
        if self._pixels is None:
            raise UnreadableImage("it has no PixelData, or is cut short")
        return self._fragments(longest) if compressed else self._file.read(min(self._pixels.length, longest))

    def _fragments(self, longest: int) -> bytes:
        fragments: list[bytes] = []
        total = 0
        for element in self._elements():
            if element.tag == _SEQUENCE_END:
                break
            total += element.length
            if element.tag != _ITEM or element.length == _UNDEFINED:
                break
            if total > longest:
                raise UnreadableImage("the compressed image has far more bytes than its pixels need")
            fragments.append(self._file.read(element.length))
            if len(fragments[-1]) < element.length:
                raise UnreadableImage("its pixel data is cut short")
        return b"".join(fragments[1:])

    def _elements(self) -> Iterator[_Element]:
        """Yield elements, delimiters and items; the caller reads or skips their values."""
        while len(start := self._file.read(8)) == 8:
            group, number, representation, length = struct.unpack(f"{self._order}HH2sH", start)
            text = None
            if group == 0xFFFE or self._implicit or not b"AA" <= representation <= b"ZZ":
                (length,) = struct.unpack(f"{self._order}I", start[4:])
            else:
                text = representation.decode("latin-1")
                if representation in LONG:
                    (length,) = struct.unpack(f"{self._order}I", self._file.read(4).ljust(4, b"\0"))
            yield _Element(group << 16 | number, text, length)

    def _wanted(self, keywords: Mapping[int, str]) -> Iterator[RawDataElement]:
        """Read elements up to the pixels."""
        for element in self._elements():
            if element.tag == _PIXEL_DATA:
                self._pixels = element
                break
            start = self._file.tell()
            if element.length == _UNDEFINED:
                self._skip_sequence()
            else:
                self._file.seek(element.length, os.SEEK_CUR)
            keyword = keywords.get(element.tag)
            if keyword is None:
                continue
            end = self._file.tell() - (8 if element.length == _UNDEFINED else 0)
            if end - start > _LONGEST.get(keyword, _LONGEST_OTHER):
                raise UnreadableImage(f"its {keyword} is far too long")
            following = self._file.tell()
            self._file.seek(start)
            value = self._file.read(end - start)
            self._file.seek(following)
            tag, little = BaseTag(element.tag), self._order == "<"
            yield RawDataElement(tag, element.representation, len(value), value, start, self._implicit, little, True)

    def _skip_sequence(self) -> None:
        """Pass the items of an element without a length, and what is nested in them."""
        depth = 1
        for element in self._elements():
            if element.tag == _SEQUENCE_END:
                depth -= 1
            elif element.length != _UNDEFINED:
                self._file.seek(element.length, os.SEEK_CUR)
            elif element.tag not in (_ITEM, _ITEM_END):
                depth += 1
            if not depth:
                return


def _transfer_syntax(file: IO[bytes]) -> uid.UID | None:
    """Return what the file says of its encoding, if it does; the file is then at its first other element."""
    head = file.read(HEAD)
    if not is_dicom(head):
        raise UnreadableImage("not a DICOM file")
    file.seek(132 if head[128:132] == b"DICM" else 0)
    syntax = None
    for _ in range(_MAX_META):
        place = file.tell()
        start = file.read(8).ljust(8, b"\0")
        if start[:2] != b"\2\0":
            file.seek(place)
            return uid.UID(syntax) if syntax else None
        length = int.from_bytes(start[6:8] if start[4:6].isalpha() else start[4:8], "little")
        if start[4:6] in LONG:
            length = int.from_bytes(file.read(4), "little")
        if start[2:4] == b"\x10\0" and length <= 64:
            syntax = file.read(length).strip(b" \0").decode("latin-1")
        else:
            file.seek(length, os.SEEK_CUR)
    raise UnreadableImage("its file meta information is broken")


def _inflated(file: IO[bytes], longest: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    total = 0
    while not inflate.eof and (packed := file.read(1 << 16)):
        parts.append(inflate.decompress(packed, longest + 1 - total))
        total += len(parts[-1])
        if total > longest:
            raise UnreadableImage(f"it inflates to more than {longest:,} bytes")
    return b"".join(parts)
