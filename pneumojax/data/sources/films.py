"""Films without labels: a folder of them, or a single one."""

from pathlib import Path

from pneumojax.data.patients import patients_of
from pneumojax.data.source import WHOLE, Record, Source, file_fingerprint, of_files
from pneumojax.data.sources.listing import Kind, below, left_out, refuse_other_encodings


def open_single(path: Path) -> Source:
    """Return one image file as a source of one record without a label."""
    return of_files(path, [Record(path.name, None, path.name, WHOLE)], file_fingerprint([path]))


def open_unlabelled(root: Path) -> Source | None:
    """Return all images below `root` as a source without labels; None if there are none.

    Raises:
      UserError: a file's name is not UTF-8.
    """
    found = list(below(root))
    ids = sorted(file.name for file in found if file.kind is Kind.IMAGE)
    if not ids:
        return None
    refuse_other_encodings(root, ids)
    patients = patients_of(root, ids)
    records = [Record(id, None, patients[id], WHOLE) for id in ids]
    remarks = ["No image has a label."]
    for kind in (Kind.MASK, Kind.OTHER):
        remarks += left_out((file.name for file in found if file.kind is kind), kind.value)
    return of_files(root, records, file_fingerprint(root / id for id in ids), remarks)
