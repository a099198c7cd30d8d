"""Patients and pictures in more than one split, which make scores too good."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pneumojax.data.audit.duplicates import components
from pneumojax.data.source import Record
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted


def tied(records: Sequence[Record], copies: Iterable[Sequence[str]]) -> tuple[Record, ...]:
    """Return the records in their order, with the patients merged who share a picture, directly or through others.

    All images of merged patients have the smallest of their names as `patient`. Each of `copies` is a group of ids that
    show the same picture; ids of other images are ignored.
    """
    names = sorted({record.patient for record in records})
    number = {name: index for index, name in enumerate(names)}
    patient = {record.id: number[record.patient] for record in records}
    groups = [[patient[id] for id in group if id in patient] for group in copies]
    pairs = [(group[0], other) for group in groups for other in group[1:]]
    smallest: dict[int, str] = {}
    merged = components(len(names), np.array(pairs, np.intp).reshape(-1, 2))
    for name, component in zip(names, merged, strict=True):
        smallest.setdefault(component, name)
    return tuple(record._replace(patient=smallest[merged[number[record.patient]]]) for record in records)


def crossing(records: Sequence[Record]) -> list[list[Record]]:
    """Return the images of each patient who has images in more than one split."""
    patients = defaultdict(list)
    for record in records:
        patients[record.patient].append(record)
    return [members for members in patients.values() if len({record.split for record in members}) > 1]


def refuse(crossing: Sequence[Sequence[Record]]) -> None:
    """Raise UserError if there is any group of images that crosses splits."""
    if crossing:
        example = " and ".join({record.split: record.id for record in crossing[0]}.values())
        raise UserError(
            f"images of one patient or picture lie in more than one split ({counted(len(crossing), 'group')}, such as"
            f" {example}): scores would be too good. Bring each group together (--mode=audit lists them), or set"
            " --config.data.allow_leakage=true"
        )
