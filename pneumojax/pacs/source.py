"""What a result takes over from its film: the patient, the study, and which image it is.

Nothing that identifies is changed on the way. Where it cannot be read with certainty, the film is refused: a result
must not reach another patient. No reason quotes a value.
"""

import re
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pneumojax.data.decode.dicom_file import DicomFile
from pneumojax.data.decode.unreadable import UnreadableImage, open_file
from pneumojax.pacs.identity import is_uid

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# Keyword -> longest text, in characters. These identify; an empty one is allowed.
_IDENTIFYING = {"PatientID": 64, "IssuerOfPatientID": 64, "AccessionNumber": 16, "StudyID": 16}
_NAMES = ("PatientName", "ReferringPhysicianName")
# Keyword -> what it must look like; otherwise it is left empty.
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "PatientAge": r"\d{3}[DWMY]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?",
    "StudyDescription": r"[^\x00-\x1f\\]{1,64}",
    "TimezoneOffsetFromUTC": r"[+-](?:0\d|1[0-4])[0-5]\d",
    "LossyImageCompression": r"00|01",
    "LossyImageCompressionMethod": r"[A-Z0-9_ ]{1,16}",
    "LossyImageCompressionRatio": r"[\d.+\-eE]{1,16}",
}
_OPTIONAL = ("PatientAge", "IssuerOfPatientID", "StudyDescription", "TimezoneOffsetFromUTC")
_OPTIONAL += ("LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio")
_UTF8 = "ISO_IR 192"
_CHARACTER_SETS = re.compile(r"ISO_IR (100|101|109|110|126|127|138|144|148|166|192|13|203)|GB18030|GBK")
_FILMS = {"CR", "DX", "DR", "RG"}  # modalities
# Views from the side: SNOMED CT and its older codes, as in the ViewCodeSequence of digital X-rays.
_LATERAL = re.compile(rb"399067008|399173006|399198007|R-1020[59]|R-1023[26]|lateral", re.IGNORECASE)
_KEYWORDS = [*_UIDS, *_IDENTIFYING, *_NAMES, *_FORMS, "SpecificCharacterSet", "Modality", "ViewCodeSequence"]


def read(path: Path) -> Dataset:
    """Read from a film's header what its results take over; what is not sound and identifies nobody is empty.

    Raises:
      UnreadableImage: it is no film of a kind that is predicted, or what identifies it is missing or damaged.
    """
    with open_file(path) as file:
        header = DicomFile(file, _KEYWORDS).header
    found = Dataset()
    for keyword in _UIDS:
        value = _text(header, keyword)
        if not is_uid(value):
            raise UnreadableImage(f"its {keyword} is missing or damaged")
        setattr(found, keyword, value)
    modality = _text(header, "Modality")
    if modality not in _FILMS:
        raise UnreadableImage("no film: its modality is not CR, DX, DR or RG")
    if _LATERAL.search(_bytes(header, "ViewCodeSequence")):
        raise UnreadableImage(LATERAL)
    for keyword, longest in _IDENTIFYING.items():
        setattr(found, keyword, _identifying(header, keyword, longest))
    for keyword in _NAMES:
        setattr(found, keyword, _name(header, keyword))
    for keyword, form in _FORMS.items():
        value = _text(header, keyword, strict=False)
        setattr(found, keyword, value if re.fullmatch(form, value) else "")
    for keyword in _OPTIONAL:
        if not found[keyword].value:
            delattr(found, keyword)
    _set_character_set(found, _text(header, "SpecificCharacterSet", strict=False))
    return found


LATERAL = "a lateral film"


def _set_character_set(found: Dataset, declared: str) -> None:
    """Keep the film's character set where it is a simple one; otherwise write UTF-8."""
    if all(str(element.value).isascii() for element in found):
        declared = declared if _CHARACTER_SETS.fullmatch(declared) else "ISO_IR 100"
    elif not _CHARACTER_SETS.fullmatch(declared):
        declared = _UTF8
    found.SpecificCharacterSet = declared


def _value(header: Dataset, keyword: str) -> Any:
    try:
        return header.get(keyword)
    except Exception:  # pydicom converts a value on access, and its errors quote it
        raise UnreadableImage(f"its {keyword} cannot be read") from None


def _bytes(header: Dataset, keyword: str) -> bytes:
    """Return an element's value as it lies in the file; empty if there is none."""
    return header.get_item(keyword).value or b"" if keyword in header else b""


def _text(header: Dataset, keyword: str, strict: bool = True) -> str:
    """Return an element's text; if not `strict`, an empty one where it cannot be read."""
    try:
        value = _value(header, keyword)
    except UnreadableImage:
        if strict:
            raise
        return ""
    if isinstance(value, MultiValue):
        return "" if not strict else "\\".join(map(str, value))
    return "" if value is None else str(value).strip(" \0")


def _identifying(header: Dataset, keyword: str, longest: int) -> str:
    value = _text(header, keyword)
    if len(value) > longest or not value.isprintable() or "\\" in value or "\ufffd" in value:
        raise UnreadableImage(f"its {keyword} is damaged")
    return value


def _name(header: Dataset, keyword: str) -> str:
    value = _text(header, keyword)
    groups = value.split("=")
    sound = len(groups) <= 3 and all(len(group) <= 64 and group.count("^") <= 4 for group in groups)
    if not sound or not value.replace("\u3000", " ").isprintable() or "\\" in value or "\ufffd" in value:
        raise UnreadableImage(f"its {keyword} is damaged")
    return value
