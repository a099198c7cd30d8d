"""The patient of each image, by the names of files, by the headers of DICOM files, or by the user's own pattern."""

import re
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pneumojax.data.decode import images
from pneumojax.data.source import Record, Source
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

UNKNOWN = "patients are unknown: each image counts as its own"

# At the start of the name of a file or folder: the first group names the patient, the rest the image. In any case of
# letters: Kermany et al. in both of their releases; and folders of patients, as in CheXpert and BIDS.
_KERMANY = re.compile(r"(person\d+_(?:bacteria|virus))(?=[-_.]|$)", re.IGNORECASE)
_KERMANY_NUMBERED = re.compile(r"((?:NORMAL2-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+)(?=[-_]\d)", re.IGNORECASE)
_PATIENT = re.compile(r"((?:patient|subject)[-_ ]?\d+|sub-[a-z]*\d+)(?=[-_. ]|$)", re.IGNORECASE)
# MIMIC-CXR: the folder of a patient, and that of a study within it.
_MIMIC = re.compile(r"(?:^|/)(p\d{8})[/_]s\d{8}(?=[/_.]|$)")
# Names of numbers alone, which mean a patient only where most names of a source are such: NIH's PATIENT_FOLLOWUP, of
# patients below 100,000 (a date is no patient), and PadChest's PATIENT_STUDY_..., of far longer numbers.
_NUMBERS = (re.compile(r"(000\d{5})_\d{3}"), re.compile(r"(\d{15,})_\d{10,}_.*"))


def patient_of(id: str) -> str:
    """Return the patient in the name of an image or of a folder above it; the id itself if no name has one."""
    if match := _MIMIC.search(id):
        return match[1]
    for part in PurePosixPath(id).parts:
        if match := _KERMANY.match(part) or _PATIENT.match(part):
            return match[1].lower()
        if match := _KERMANY_NUMBERED.match(part):
            return match[1].upper()
    return id


def patients_of(root: Path, ids: Iterable[str]) -> dict[str, str]:
    """Return the patient of each image file `root / id` of a source: by its header if it is DICOM, or by its name.

    An image whose patient is unknown has its id as patient.
    """
    ids = list(ids)
    with ThreadPoolExecutor() as pool:
        keys = list(pool.map(lambda id: _from_header(root / id), ids))
    if len(set(keys)) == 1:  # the same for all images identifies nobody
        keys = [None] * len(ids)
    numbers = _by_numbers(ids)
    return {id: key or numbers.get(id) or patient_of(id) for id, key in zip(ids, keys, strict=True)}


def _by_numbers(ids: Collection[str]) -> dict[str, str]:
    """Return the patients that the numbers in names mean, where most names have the same form."""
    for form in _NUMBERS:
        matches = {id: match[1] for id in ids if (match := form.fullmatch(PurePosixPath(id).stem))}
        if 2 * len(matches) > len(ids):
            return matches
    return {}


def unknown_among(records: Sequence[Record]) -> int:
    """Count the images whose patient is unknown: it is an image's id."""
    ids = {record.id for record in records}
    return sum(record.patient in ids for record in records)


def named_by(source: Source, pattern: str) -> Source:
    """Return the source with the patients that a regular expression finds in the ids, and what is known of patients.

    The patient is the pattern's first group, or the whole match; an image that it does not match keeps its patient. An
    empty pattern names nobody.

    Raises:
      UserError: it matches no id.
    """
    records, remarks = source.records, list(source.remarks)
    if pattern:
        patients = {record.id: name for record in records if (name := _named(pattern, record.id))}
        option = f"--config.data.patient_pattern={pattern!r}"
        if not patients:
            raise UserError(f"no image's id matches {option}: choose a pattern that fits ids such as {records[0].id}")
        if len(patients) < len(records):
            first = next(record.id for record in records if record.id not in patients)
            remarks.append(f"{option} matches {len(patients):,} of {counted(len(records), 'image')}, not {first}.")
        records = tuple(record._replace(patient=patients.get(record.id, record.patient)) for record in records)
    unknown = unknown_among(records)
    if unknown == len(records):
        remarks.append(f"{UNKNOWN.capitalize()}.")
    elif unknown:
        remarks.append(f"The patient of {counted(unknown, 'image')} is unknown: each counts as its own.")
    return source._replace(records=records, remarks=tuple(remarks))


def _named(pattern: str, id: str) -> str:
    match = re.search(pattern, id)
    return match[min(match.re.groups, 1)] or "" if match else ""


def is_dicom(file: Path) -> bool:
    """Return whether the content of a file is DICOM, whatever its name."""
    try:
        if not file.stat().st_size:  # such as files of the system that are endless
            return False
        with file.open("rb") as opened:
            return images.format_of(opened.read(images.HEAD))[0] == "DICOM"
    except OSError:
        return False


def _from_header(file: Path) -> str | None:
    if not file.is_file() or not is_dicom(file):  # opening a pipe might wait forever
        return None
    from pneumojax.data.decode import dicom  # importing pydicom takes a second

    return dicom.patient_key(file)
