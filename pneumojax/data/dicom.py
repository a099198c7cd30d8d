"""One DICOM radiograph becomes one grey image, as a viewer would show it; nothing of its header leaves this file.

pydicom's messages quote values of the header. So every message here is one of ours, and never a library's.
"""

import logging
import warnings
import zlib
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
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

from pneumojax.data import dicom_codecs
from pneumojax.data.keys import hashed
from pneumojax.data.unreadable import MAX_PIXELS, UnreadableImage

# Of files that bend the standard pydicom warns, and names them; what cannot be read is told in our own words.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_MAX_BYTES = 4 * MAX_PIXELS  # of a file, and of what it inflates to
_WHITE = 65535
_MODALITIES = {"", "CR", "DX", "DR", "RG", "RF", "OT", "SC"}  # none at all: converted from another format
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
# What counts where the header has no value, or none that can be read.
_DEFAULTS = dict.fromkeys(["Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"], 0)
_DEFAULTS |= {"NumberOfFrames": 1, "SamplesPerPixel": 1, "PlanarConfiguration": 0}
_DEFAULTS |= {"RescaleSlope": 1, "RescaleIntercept": 0, "VOILUTFunction": "LINEAR"}
_DEFAULTS |= {"Modality": "", "BodyPartExamined": "", "PhotometricInterpretation": "MONOCHROME2"}
_ELEMENTS = [*_DEFAULTS, "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence"]
_ELEMENTS += ["WindowCenter", "WindowWidth", "PixelData"]


def decode(path: Path) -> Image.Image:
    """The image as its header asks to see it: rescaled, windowed, white on black.

    The modality LUT or rescale comes first, then the VOI LUT or the first window. Where there is neither, 8 bits or
    fewer were meant for a display and are shown as they are; more than 8 are stretched from the darkest to the
    brightest pixel that is no padding. Padding is black. Colour, as of a secondary capture, becomes luma.

    Returns:
      Mode "I;16", 0 black to 65535 white; or "L", 0 to 255, where the file has colour.

    Raises:
      UnreadableImage: it is no DICOM file, no single radiograph that may show a chest, too large, or broken. The
        reason never quotes a name, a number or a free text of the header.
    """
    try:
        return _decode(path)
    except UnreadableImage:
        raise
    except InvalidDicomError:
        raise UnreadableImage("not a DICOM file") from None
    except OSError as error:
        raise UnreadableImage(error.strerror or "it cannot be read") from None
    except Exception as error:  # on broken data pydicom and the decoders raise whatever they stumble over
        raise UnreadableImage(f"broken DICOM ({type(error).__name__})") from None


def patient_key(path: Path) -> str | None:
    """A key that files of one patient share, from the header alone; None where it tells of no patient."""
    try:
        header = _read(path, ["PatientID"], stop_before_pixels=True)
        identifier = header.get_item("PatientID").value.strip(b" \0")
    except Exception:  # it has none; or else it is told when the image is read
        return None
    return hashed(identifier.decode("latin-1")) if identifier else None


def _decode(path):
    header = _read(path, _ELEMENTS)
    for keyword, default in _DEFAULTS.items():
        value = _first(header, keyword)
        fits = isinstance(value, str) == isinstance(default, str)  # pydicom leaves what is no number a text
        setattr(header, keyword, (fits and value) or default)
    header.BitsStored = header.BitsStored or header.BitsAllocated
    _refuse_unfit(header)
    pixels, photometric = dicom_codecs.stored_values(header)
    if pixels.ndim == 2:
        return Image.fromarray(_shades(pixels, header))
    if photometric.startswith("YBR"):
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return Image.fromarray(pixels).convert("L")


def _read(path, keywords, stop_before_pixels=False) -> Dataset:
    """The elements of these keywords, as far as the file has them."""
    if path.stat().st_size > _MAX_BYTES:
        raise UnreadableImage(f"a file of more than {_MAX_BYTES:,} bytes")
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        _refuse_bomb(path, meta.FileMetaInformationGroupLength)
    return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, specific_tags=keywords)


def _refuse_bomb(path, length):
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    inflate.decompress(path.read_bytes()[132 + 12 + length :], _MAX_BYTES)
    if inflate.unconsumed_tail:  # pydicom would inflate it to whatever size it becomes
        raise UnreadableImage(f"it inflates to more than {_MAX_BYTES:,} bytes")


def _first(header, keyword) -> Any:
    """The first of an element's values, texts in capitals; None where there is none that can be read."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom converts a value when it is asked for
        return None
    value = value[0] if isinstance(value, MultiValue) else value
    return value.strip(" \0").upper() if isinstance(value, str) else value


def _refuse_unfit(header):
    if header.Modality not in _MODALITIES:
        told = header.Modality if header.Modality in _OTHER_MODALITIES else "unknown"
        raise UnreadableImage(f"not a radiograph: its modality is {told}")
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
        raise UnreadableImage(f"{samples:d} samples a pixel do not fit its photometric interpretation")
    bits, allocated = header.BitsStored, header.BitsAllocated
    if allocated not in (8, 16) or not 0 < bits <= allocated or (samples == 3 and allocated != 8):
        raise UnreadableImage(f"{bits:d} of {allocated:d} bits in {samples:d} samples a pixel are not supported")


def _shades(pixels, header) -> np.ndarray:
    """Shades, (rows, columns) uint16: every stored value is looked up in a table of all that there can be."""
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
        raise UnreadableImage("its rescaling or its window is out of all bounds")
    if header.PhotometricInterpretation == "MONOCHROME1":
        table = 1 - table
    table = np.where(padding, 0, np.rint(np.nan_to_num(table) * _WHITE)).astype(np.uint16)
    for row in shades:
        row[:] = table[row]
    return shades


def _padding(stored, header) -> np.ndarray:
    value, limit = (_first(header, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return np.zeros(stored.shape, bool)
    # Some writers tell signed values as if they were unsigned.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _table(stored, seen, header) -> np.ndarray:
    """The brightness, 0 to 1, of every stored value; `seen` are the values that the image has."""
    for item in (*(header.get("ModalityLUTSequence") or ()), *(header.get("VOILUTSequence") or ())):
        # With other widths pydicom fails (its issue 2317), or cannot count further than to 256 entries.
        item.LUTDescriptor[2] = 16
    values = apply_modality_lut(stored, header).astype(float)
    table = _viewed(values, header)
    if table is None or not np.ptp(table[seen]) > 0:  # what shows a single shade was set by mistake
        low, high = values[seen].min(), values[seen].max()
        if header.BitsStored <= 8 and not header.PixelRepresentation and (values == stored).all():
            low, high = 0, (1 << header.BitsStored) - 1
        table = (values - low) / ((high - low) or 1)
    return np.clip(table, 0, 1)


def _viewed(values, header) -> np.ndarray | None:
    """The brightness, 0 to 1, that the VOI LUT or else the first window gives; None where there is neither."""
    if header.get("VOILUTSequence"):
        count, first, _ = header.VOILUTSequence[0].LUTDescriptor
        entries = np.arange(first, first + (count or 1 << 16))
        lut = apply_voi(entries, header).astype(float)
        lut /= lut.max() or 1  # the width that some devices tell of is not that of the entries, but of their storage
        return lut[np.rint(np.clip(values, first, entries[-1])).astype(int) - first]
    if None in (_first(header, "WindowCenter"), _first(header, "WindowWidth")):
        return None
    window = Dataset()  # of one bit, for a range of 0 to 1
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        window.add(header[keyword])
    try:
        return apply_windowing(values, window)
    except (TypeError, ValueError):  # it is no number, has no width, or an unknown function
        return None
