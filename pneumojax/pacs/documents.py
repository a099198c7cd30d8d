"""What is made of a film that was read: a report and a secondary capture, as files."""

import io

from pydicom.dataset import Dataset

from pneumojax.api import Model
from pneumojax.inference.predictions import Row
from pneumojax.pacs.capture import capture
from pneumojax.pacs.reading import Film
from pneumojax.pacs.report import report

METHOD = "grad-cam"


def documents(film: Film, row: Row, model: Model) -> list[bytes]:
    """Return the secondary capture and the report of a film, the report last."""
    assert film.seen.image is not None, "an unreadable film has no report"
    values = model.explain(film.seen.image, METHOD).values
    return [encoded(capture(row, film.source, film.picture, values, METHOD)), encoded(report(row, film.source))]


def encoded(document: Dataset) -> bytes:
    """Return a document as the content of a DICOM file."""
    file = io.BytesIO()
    document.save_as(file, enforce_file_format=True)
    return file.getvalue()
