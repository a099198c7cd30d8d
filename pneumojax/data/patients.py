"""The patient of each image, by the names of files or the headers of DICOM files."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pneumojax.data.decode import images

# Kermany et al. in both of their releases, and CheXpert: the prefix names the patient, the rest the image.
_PATIENT = re.compile(
    r"(person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+|patient\d+)(?=[-_.]|$)"
)


def patient_of(id: str) -> str:
    """Return the patient in the name of an image or of a folder above it; the id itself if no name has one."""
    matches = filter(None, map(_PATIENT.match, PurePosixPath(id).parts))
    return next((match[1] for match in matches), id)


def patients_of(root: Path, ids: Iterable[str]) -> dict[str, str]:
    """Return the patient of each image file `root / id`: by its header if it is DICOM, otherwise by its name."""
    ids = list(ids)
    with ThreadPoolExecutor() as pool:
        keys = list(pool.map(lambda id: _from_header(root / id), ids))
    if len(set(keys)) == 1:  # the same for all images, such as "ANONYMOUS", identifies nobody
        keys = [None] * len(ids)
    return {id: key or patient_of(id) for id, key in zip(ids, keys, strict=True)}


def is_dicom(file: Path) -> bool:
    """Return whether the content of a file is DICOM, whatever its name."""
    try:
        with file.open("rb") as opened:
            return images.format_of(opened.read(images.HEAD))[0] == "DICOM"
    except OSError:
        return False


def _from_header(file: Path) -> str | None:
    if not file.is_file() or not is_dicom(file):  # opening a pipe might wait forever
        return None
    from pneumojax.data.decode import dicom  # importing pydicom takes a second

    return dicom.patient_key(file)
