"""Whose image is it: as far as names of files, or headers of DICOM files, tell."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pneumojax.data import images

# Kermany et al. in both of their releases, and CheXpert: the prefix is the patient, what follows the image.
_PATIENT = re.compile(
    r"(person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+|patient\d+)(?=[-_.]|$)"
)


def patient_of(id: str) -> str:
    """The patient that the name of an image or of a folder above it tells; otherwise the image is its own."""
    matches = filter(None, map(_PATIENT.match, PurePosixPath(id).parts))
    return next((match[1] for match in matches), id)


def patients_of(root: Path, ids: Iterable[str]) -> dict[str, str]:
    """The patient of each image file `root / id`: by its header if it is DICOM, otherwise by its name."""
    ids = list(ids)
    with ThreadPoolExecutor() as pool:
        keys = list(pool.map(lambda id: _from_header(root / id), ids))
    if len(set(keys)) == 1:  # one for all, as "ANONYMOUS" is, tells of nobody
        keys = [None] * len(ids)
    return {id: key or patient_of(id) for id, key in zip(ids, keys, strict=True)}


def is_dicom(file: Path) -> bool:
    """Whether the file begins as DICOM does, whatever it is called."""
    try:
        with file.open("rb") as opened:
            return images.format_of(opened.read(images.HEAD))[0] == "DICOM"
    except OSError:
        return False


def _from_header(file: Path) -> str | None:
    if not file.is_file() or not is_dicom(file):  # a pipe might be waited for
        return None
    from pneumojax.data import dicom  # a second's import, for those who have such files

    return dicom.patient_key(file)
