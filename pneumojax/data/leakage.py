"""Patients and pictures that lie in more than one split: scores on them are too good."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pneumojax.data.records import Record
from pneumojax.errors import UserError


def tied(records: Sequence[Record], alike: Iterable[Sequence[str]]) -> tuple[Record, ...]:
    """The same records, but images of one picture count as one patient's, and so do all images of their patients.

    Args:
      records: of the source.
      alike: groups of ids.
    """
    patient = {record.id: record.patient for record in records}
    parent = {name: name for name in patient.values()}

    def root(name):
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for group in alike:
        names = sorted({root(patient[id]) for id in group if id in patient})
        parent.update(dict.fromkeys(names, names[0]) if names else {})
    return tuple(record._replace(patient=root(record.patient)) for record in records)


def crossing(records: Sequence[Record]) -> list[list[Record]]:
    """The images of each patient who has images in more than one split."""
    patients = defaultdict(list)
    for record in records:
        patients[record.patient].append(record)
    return [own for own in patients.values() if len({record.split for record in own}) > 1]


def refuse(crossing: Sequence[Sequence[Record]]) -> None:
    """Raises UserError if there are any."""
    if crossing:
        example = " and ".join({record.split: record.id for record in crossing[0]}.values())
        raise UserError(
            f"{len(crossing)} patients or pictures lie in more than one split, such as {example}: scores"
            " on them would be too good; --mode=audit lists them; bring them together, or"
            " --config.data.allow_leakage=true"
        )
