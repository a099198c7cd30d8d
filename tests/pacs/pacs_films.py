"""Films of a patient who does not exist, for tests of `--mode=pacs`."""

from pathlib import Path

import pydicom
from dicom_files import write
from pydicom import uid
from pydicom.dataset import Dataset

from pneumojax.data.sources import phantom

STUDY = "1.2.826.0.1.3680043.8.498.1"
# What must not appear in any line, row or name.
SECRETS = ("Doe^Jane", "Doe", "ID-4711", "19700101", "ACC-99", STUDY, "Smith^John")


def film(path: Path, number: int = 0, size: int = 96, **elements) -> Path:
    """Write the `number`th film of a study: a frontal chest film, unless `elements` say otherwise."""
    given = {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": f"{STUDY}.2.{number + 1}",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.1",
        "Modality": "CR",
        "ViewPosition": "PA",
        "PatientSex": "F",
        "AccessionNumber": "ACC-99",
        "StudyID": "7",
        "StudyDate": "20260131",
        "StudyTime": "101112",
        "ReferringPhysicianName": "Smith^John",
        "InstanceNumber": number + 1,
    }
    pixels = phantom.render(seed=11, index=number, label=number % 2, size=size)[0]
    return write(path, pixels, 8, **(given | elements))


def instance_uid(number: int) -> str:
    return f"{STUDY}.2.{number + 1}"


def read(content: bytes) -> Dataset:
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))


def items(dataset: Dataset) -> list[tuple[str, object]]:
    """List a report's content items in order: the meaning of the name, and the value."""
    found = []
    for item in dataset.get("ContentSequence", ()):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        value = None
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
        elif item.ValueType == "CODE":
            value = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "TEXT":
            value = item.TextValue
        found.append((name, value))
        found += items(item)
    return found
