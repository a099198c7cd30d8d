"""From a DICOM radiograph to a grey image, as a viewer would show it.

The header identifies the patient and pydicom's messages quote it, so no message of a library is passed on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from pneumojax.data.decode import dicom_codecs
from pneumojax.data.decode.dicom_file import MAX_INFLATED, DicomFile
from pneumojax.data.decode.images import CLIPPED
from pneumojax.data.decode.unreadable import MAX_FILE_BYTES, UnreadableImage, open_file
from pneumojax.data.patient_hash import hashed

_WHITE = 65535
_BLOCK = 1 << 20  # pixels that are counted at a time, since NumPy takes 8 bytes for each
_TAIL = 0.02  # of the pixels; a side marker has about 0.005, and a dead pixel one
_FEW = 0.0005  # of the pixels; dead ones are fewer
_REACH = 0.5  # how far values may lie outside the others, in the width of their range
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
_LATERAL = {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "L", "R"}
_PHOTOMETRIC = {"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
# Where the header has no value, or none that can be read.
_DEFAULTS: dict[str, int | str] = {"Rows": 0, "Columns": 0, "BitsAllocated": 0, "BitsStored": 0, "HighBit": 0}
_DEFAULTS |= {"PixelRepresentation": 0, "NumberOfFrames": 1, "SamplesPerPixel": 1, "PlanarConfiguration": 0}
_DEFAULTS |= {"RescaleSlope": 1, "RescaleIntercept": 0, "VOILUTFunction": "LINEAR"}
_DEFAULTS |= {"Modality": "", "BodyPartExamined": "", "PhotometricInterpretation": "MONOCHROME2"}
_ELEMENTS = [*_DEFAULTS, "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence"]
_ELEMENTS += ["WindowCenter", "WindowWidth"]


def decode(path: Path, max_bytes: int = MAX_FILE_BYTES, max_inflated: int = MAX_INFLATED) -> Image.Image:
    """Render the image as its header asks, rescaled and windowed: mode "I;16", 0 black to 65535 white.

    Its `info[images.CLIPPED]` says whether some pixels lie far outside the range of all others.

    The modality LUT or rescale comes first, then the VOI LUT or the first window. Without either, 8 bits or fewer are
    meant for display and stay unchanged; more than 8 bits are stretched from the darkest to the brightest pixel, except
    for padding and for a few pixels far away from all others, such as side markers. Padding is black. Colour, as in a
    secondary capture, becomes luma: mode "L", 0 to 255. The file may have `max_bytes`, and inflate to `max_inflated`.

    Raises:
      UnreadableImage: it is no DICOM file, not a single radiograph that may show a chest, too large, or broken. The
        reason never quotes a name, a number or a free text of the header.
    """
    with _reasons("its header"), open_file(path) as file:
        if file.seek(0, os.SEEK_END) > max_bytes:
            raise UnreadableImage(f"a file of more than {max_bytes:,} bytes")
        file.seek(0)
        source = DicomFile(file, _ELEMENTS, max_inflated)
        header = _checked(source.header)
        with _reasons("its PixelData"):
            pixels, photometric = dicom_codecs.stored_values(source)
    if pixels.ndim == 2:
        shades, clipped = _shades(pixels, header)
        image = Image.fromarray(shades)
        image.info[CLIPPED] = clipped
        return image
    if photometric.startswith("YBR"):
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return Image.fromarray(pixels).convert("L")


def patient_key(path: Path) -> str | None:
    """Return a key that files of one patient share, from the header alone; None if it names no patient."""
    identifier = _text(path, "PatientID")
    return hashed(identifier) if identifier else None


def is_lateral(path: Path) -> bool:
    """Return whether the header says that the patient was seen from the side, or lay on it."""
    view = _text(path, "ViewPosition").upper()
    return view in _LATERAL or "LATERAL" in view or view == "LAT"


def _text(path: Path, keyword: str) -> str:
    """Return the text of an element; empty if there is none."""
    try:
        with open_file(path) as file:
            return DicomFile(file, [keyword]).header.get_item(keyword).value.strip(b" \0").decode("latin-1")
    except Exception:  # reading the image reports what is wrong
        return ""


@contextmanager
def _reasons(what: str) -> Iterator[None]:
    """Turn errors of any kind into UnreadableImage, with words that quote nothing; `what` is being read."""
    try:
        yield
    except UnreadableImage:
        raise
    except OSError as error:
        raise UnreadableImage(error.strerror or "it cannot be read") from None
    except Exception:  # on broken data, pydicom and the decoders raise errors of many kinds
        raise UnreadableImage(f"broken DICOM: {what} cannot be read") from None


def _checked(header: Dataset) -> Dataset:
    """Return the header of a radiograph that can be decoded, with a value for each of `_DEFAULTS`."""
    for keyword, default in _DEFAULTS.items():
        value = _first(header, keyword)
        fits = isinstance(value, str) == isinstance(default, str)  # pydicom leaves text that is no number as text
        setattr(header, keyword, (fits and value) or default)
    if missing := [keyword for keyword in ("Rows", "Columns", "BitsAllocated") if header[keyword].value == 0]:
        raise UnreadableImage(f"it has no {missing[0]}, or one that is 0 or no number")
    header.BitsStored = header.BitsStored or header.BitsAllocated
    _refuse_unfit(header)
    return header


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
    samples = header.SamplesPerPixel
    if header.PhotometricInterpretation not in _PHOTOMETRIC:
        raise UnreadableImage("its photometric interpretation is neither monochrome, RGB nor YBR")
    if samples != (1 if header.PhotometricInterpretation.startswith("MONO") else 3):
        raise UnreadableImage(f"samples per pixel ({samples:d}) do not fit its photometric interpretation")
    bits, allocated = header.BitsStored, header.BitsAllocated
    if allocated not in (8, 16) or not 0 < bits <= allocated or (samples == 3 and allocated != 8):
        raise UnreadableImage(f"{bits:d} of {allocated:d} bits, samples per pixel {samples:d}: not supported")


def _shades(pixels: np.ndarray, header: Dataset) -> tuple[np.ndarray, bool]:
    """Compute shades, (rows, columns) uint16: a table of all possible stored values is looked up for each pixel.

    Return too whether more than `_FEW` of the pixels are shown black or white because all others are far away.

    The result may share the memory of `pixels`.
    """
    pixels = pixels.astype(np.int16 if header.PixelRepresentation else np.uint16, copy=False)
    stored = np.arange(1 << 16, dtype=np.uint16).view(pixels.dtype)
    shades = pixels.view(np.uint16)
    counts = np.zeros(stored.shape, np.int64)
    for block in np.array_split(shades.ravel(), -(-shades.size // _BLOCK)):
        counts += np.bincount(block, minlength=len(counts))
    padding = _padding(stored, header)
    if counts[~padding].any():
        counts[padding] = 0
    with np.errstate(all="ignore"):
        table, clipped = _table(stored.astype(np.int32), counts, header)
    if not np.isfinite(table[counts > 0]).all():
        raise UnreadableImage("its rescaling or its window is out of range")
    if header.PhotometricInterpretation == "MONOCHROME1":
        table = 1 - table
    table = np.where(padding, 0, np.rint(np.nan_to_num(table) * _WHITE)).astype(np.uint16)
    for row in shades:
        row[:] = table[row]
    return shades, clipped


def _padding(stored: np.ndarray, header: Dataset) -> np.ndarray:
    """Return for each stored value whether it marks padding."""
    value, limit = (_first(header, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return np.zeros(stored.shape, bool)
    # Some writers give signed values as if they were unsigned.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _table(stored: np.ndarray, counts: np.ndarray, header: Dataset) -> tuple[np.ndarray, bool]:
    """Compute the brightness, 0 to 1, of every stored value, and whether pixels are clipped as `_shades` says.

    `counts` says how many pixels have a value.
    """
    seen, clipped = counts > 0, False
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        with _reasons(f"its {name}"):
            for item in (header.get(name) or ())[:1]:
                _widen(item)
    with _reasons("its ModalityLUTSequence, RescaleSlope or RescaleIntercept"):
        values = apply_modality_lut(stored, header).astype(float)
    with _reasons("its VOILUTSequence or its window"):
        table = _viewed(values, header)
    if table is None or not np.ptp(table[seen]) > 0:  # a window that shows a single shade was set by mistake
        if header.BitsStored <= 8 and not header.PixelRepresentation and (values == stored).all():
            low, high = 0, (1 << header.BitsStored) - 1
        else:
            low, high = _range(values[seen], counts[seen])
            clipped = counts[(values < low) | (values > high)].sum() > _FEW * counts.sum()
        table = (values - low) / ((high - low) or 1)
    return np.clip(table, 0, 1), bool(clipped)


def _widen(item: Dataset) -> None:
    """Give a lookup table entries of two bytes; with other widths pydicom fails (its issue 2317), or reads too few."""
    count, entries = item.LUTDescriptor[0] or 1 << 16, item.LUTData
    if not isinstance(entries, bytes):
        entries = np.atleast_1d(np.array(entries, np.uint16)).tobytes()
    if count <= len(entries) <= count + 1:
        item.add_new("LUTData", "US", np.frombuffer(entries, np.uint8)[:count].astype(int).tolist())
    item.LUTDescriptor[2] = 16


def _range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the darkest and the brightest value, (k,) in any order, without a thin tail far from the others."""
    order = np.argsort(values)
    values, shares = values[order], counts[order].cumsum() / counts.sum()
    low, high = values[np.searchsorted(shares, (_TAIL, 1 - _TAIL))]
    if high > low:
        reach = _REACH * (high - low)
        values = values[(values >= low - reach) & (values <= high + reach)]
    return values[0], values[-1]


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
