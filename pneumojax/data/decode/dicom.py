"""From a DICOM radiograph to a grey image, as a viewer would show it.

The header identifies the patient and pydicom's messages quote it, so no message of a library is passed on.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from pneumojax.data.decode import dicom_codecs
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.data.patient_hash import hashed

MAX_FILE_BYTES = 4 * MAX_PIXELS  # also of the inflated content
_WHITE = 65535
_MODALITIES = {"", "CR", "DX", "DR", "RG", "RF", "OT", "SC"}  # empty in files converted from other formats
# fmt: off
_OTHER_MODALITIES = {
    "BI", "BMD", "CT", "DOC", "ECG", "ES", "GM", "IO", "IVUS", "KO", "MG", "MR", "NM", "OP", "OPT", "PR", "PT",
    "PX", "REG", "RTDOSE", "RTIMAGE", "SEG", "SM", "SR", "US", "XA", "XC",
}
_OTHER_PARTS = {
    "ABDOMEN", "ANKLE", "ARM", "BREAST", "BUTTOCK", "CALCANEUS", "CALF", "CSPINE", "ELBOW", "EXTREMITY", "EYE",
    "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE",
    "MANDIBLE", "NECK", "NOSE", "ORBIT", "PATELLA", "PELVIS", "PENIS", "SACRUM", "SINUS", "SKULL", "SPINE",
    "SSPINE", "THIGH", "THUMB", "TIBIA", "TOE", "UTERUS", "WRIST", "ZYGOMA",
}
# fmt: on
_PHOTOMETRIC = {"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
# Where the header has no value, or none that can be read.
_DEFAULTS: dict[str, int | str] = {"Rows": 0, "Columns": 0, "BitsAllocated": 0, "BitsStored": 0}
_DEFAULTS |= {"PixelRepresentation": 0, "NumberOfFrames": 1, "SamplesPerPixel": 1, "PlanarConfiguration": 0}
_DEFAULTS |= {"RescaleSlope": 1, "RescaleIntercept": 0, "VOILUTFunction": "LINEAR"}
_DEFAULTS |= {"Modality": "", "BodyPartExamined": "", "PhotometricInterpretation": "MONOCHROME2"}
_ELEMENTS = [*_DEFAULTS, "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence"]
_ELEMENTS += ["WindowCenter", "WindowWidth", "PixelData"]


def decode(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Image.Image:
    """Render the image as its header asks, rescaled and windowed: mode "I;16", 0 black to 65535 white.

    The modality LUT or rescale comes first, then the VOI LUT or the first window. Without either, 8 bits or fewer are
    meant for display and stay unchanged; more than 8 bits are stretched from the darkest to the brightest pixel that
    is not padding. Padding is black. Colour, as in a secondary capture, becomes luma: mode "L", 0 to 255. Neither the
    file nor what it inflates to may have more than `max_bytes`.

    Raises:
      UnreadableImage: it is no DICOM file, not a single radiograph that may show a chest, too large, or broken. The
        reason never quotes a name, a number or a free text of the header.
    """
    try:
        return _decode(path, max_bytes)
    except UnreadableImage:
        raise
    except InvalidDicomError:
        raise UnreadableImage("not a DICOM file") from None
    except OSError as error:
        raise UnreadableImage(error.strerror or "it cannot be read") from None
    except Exception as error:  # on broken data, pydicom and the decoders raise errors of many kinds
        raise UnreadableImage(f"broken DICOM ({type(error).__name__})") from None


def patient_key(path: Path) -> str | None:
    """Return a key that files of one patient share, from the header alone; None if it names no patient."""
    try:
        header = _read(path, ["PatientID"], MAX_FILE_BYTES, stop_before_pixels=True)
        identifier = header.get_item("PatientID").value.strip(b" \0")
    except Exception:  # reading the image reports what is wrong
        return None
    return hashed(identifier.decode("latin-1")) if identifier else None


def _decode(path: Path, max_bytes: int) -> Image.Image:
    header = _read(path, _ELEMENTS, max_bytes)
    for keyword, default in _DEFAULTS.items():
        value = _first(header, keyword)
        fits = isinstance(value, str) == isinstance(default, str)  # pydicom leaves text that is no number as text
        setattr(header, keyword, (fits and value) or default)
    header.BitsStored = header.BitsStored or header.BitsAllocated
    _refuse_unfit(header)
    pixels, photometric = dicom_codecs.stored_values(header)
    if pixels.ndim == 2:
        return Image.fromarray(_shades(pixels, header))
    if photometric.startswith("YBR"):
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return Image.fromarray(pixels).convert("L")


def _read(path: Path, keywords: Sequence[str], max_bytes: int, stop_before_pixels: bool = False) -> Dataset:
    """Read the elements of these keywords that the file has."""
    if path.stat().st_size > max_bytes:
        raise UnreadableImage(f"a file of more than {max_bytes:,} bytes")
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        _refuse_bomb(path, meta.FileMetaInformationGroupLength, max_bytes)
    return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, specific_tags=list(keywords))


def _refuse_bomb(path: Path, meta_length: int, max_bytes: int) -> None:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    inflate.decompress(path.read_bytes()[132 + 12 + meta_length :], max_bytes)
    if inflate.unconsumed_tail:  # pydicom would inflate it all
        raise UnreadableImage(f"it inflates to more than {max_bytes:,} bytes")


def _first(header: Dataset, keyword: str) -> Any:
    """Return the first of an element's values, text in capitals; None if there is none that can be read."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom converts a value on access
        return None
    value = value[0] if isinstance(value, MultiValue) else value
    return value.strip(" \0").upper() if isinstance(value, str) else value


def _refuse_unfit(header: Dataset) -> None:
    if header.Modality not in _MODALITIES:
        modality = header.Modality if header.Modality in _OTHER_MODALITIES else "unknown"
        raise UnreadableImage(f"not a radiograph: its modality is {modality}")
    if header.BodyPartExamined in _OTHER_PARTS:
        raise UnreadableImage(f"not a chest: its body part is {header.BodyPartExamined}")
    if header.NumberOfFrames > 1:
        raise UnreadableImage("more than one frame")
    rows, columns, samples = header.Rows, header.Columns, header.SamplesPerPixel
    if not rows * columns:
        raise UnreadableImage("no pixel data, or it is cut short")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"{columns:d}x{rows:d} pixels, more than {MAX_PIXELS:,}")
    if header.PhotometricInterpretation not in _PHOTOMETRIC:
        raise UnreadableImage("its photometric interpretation is neither monochrome, RGB nor YBR")
    if samples != (1 if header.PhotometricInterpretation.startswith("MONO") else 3):
        raise UnreadableImage(f"samples per pixel ({samples:d}) do not fit its photometric interpretation")
    bits, allocated = header.BitsStored, header.BitsAllocated
    if allocated not in (8, 16) or not 0 < bits <= allocated or (samples == 3 and allocated != 8):
        raise UnreadableImage(f"{bits:d} of {allocated:d} bits, samples per pixel {samples:d}: not supported")


def _shades(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Compute shades, (rows, columns) uint16: a table of all possible stored values is looked up for each pixel."""
    pixels = pixels.astype(np.int16 if header.PixelRepresentation else np.uint16)
    stored = np.arange(1 << 16, dtype=np.uint16).view(pixels.dtype)
    shades = pixels.view(np.uint16)
    seen = np.zeros(stored.shape, bool)
    for row in shades:
        seen[row] = True
    padding = _padding(stored, header)
    if (seen & ~padding).any():
        seen &= ~padding
    with np.errstate(all="ignore"):
        table = _table(stored.astype(np.int32), seen, header)
    if not np.isfinite(table[seen]).all():
        raise UnreadableImage("its rescaling or its window is out of range")
    if header.PhotometricInterpretation == "MONOCHROME1":
        table = 1 - table
    table = np.where(padding, 0, np.rint(np.nan_to_num(table) * _WHITE)).astype(np.uint16)
    for row in shades:
        row[:] = table[row]
    return shades


def _padding(stored: np.ndarray, header: Dataset) -> np.ndarray:
    """Return for each stored value whether it marks padding."""
    value, limit = (_first(header, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return np.zeros(stored.shape, bool)
    # Some writers give signed values as if they were unsigned.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _table(stored: np.ndarray, seen: np.ndarray, header: Dataset) -> np.ndarray:
    """Compute the brightness, 0 to 1, of every stored value; `seen` marks the values in the image."""
    for item in (*(header.get("ModalityLUTSequence") or ()), *(header.get("VOILUTSequence") or ())):
        # With other widths pydicom fails (its issue 2317), or reads no more than 256 entries.
        item.LUTDescriptor[2] = 16
    values = apply_modality_lut(stored, header).astype(float)
    table = _viewed(values, header)
    if table is None or not np.ptp(table[seen]) > 0:  # a window that shows a single shade was set by mistake
        low, high = values[seen].min(), values[seen].max()
        if header.BitsStored <= 8 and not header.PixelRepresentation and (values == stored).all():
            low, high = 0, (1 << header.BitsStored) - 1
        table = (values - low) / ((high - low) or 1)
    return np.clip(table, 0, 1)


def _viewed(values: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Compute the brightness, 0 to 1, by the VOI LUT or else the first window; None without either."""
    if header.get("VOILUTSequence"):
        count, first, _ = header.VOILUTSequence[0].LUTDescriptor
        entries = np.arange(first, first + (count or 1 << 16))
        lut = apply_voi(entries, header).astype(float)
        lut /= lut.max() or 1  # some devices give the width of the storage, not of the entries
        return lut[np.rint(np.clip(values, first, entries[-1])).astype(int) - first]
    if None in (_first(header, "WindowCenter"), _first(header, "WindowWidth")):
        return None
    window = Dataset()  # for one bit, so that results range from 0 to 1
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        window.add(header[keyword])
    try:
        return apply_windowing(values, window)
    except (TypeError, ValueError):  # no number, no width, or an unknown function
        return None
