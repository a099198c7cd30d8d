"""How far labels are trusted, by who gave them: the weight of each image in training."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from pneumojax.data.source import Record
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

_ENTRY = r"[^=,]+=(?:1(?:\.0*)?|0(?:\.\d*)?|\.\d+)"
FORM = re.compile(rf"{_ENTRY}(?:,{_ENTRY})*")


def weights_in(text: str) -> dict[str, float]:
    """Read what `FORM` matches, such as "text=0.3,box=1": the weight of each value, in [0, 1]."""
    pairs = (entry.partition("=") for entry in text.split(",") if entry)
    return {value.strip(): float(weight) for value, _, weight in pairs}


def weighted(records: Sequence[Record], weights: Mapping[str, float], column: str) -> tuple[Record, ...]:
    """Return the records with a `weight` by their value in a column of metadata; 1 where `weights` has no such value.

    Raises:
      UserError: no record has one of the values of `weights`.
    """
    if not weights:
        return tuple(records)
    values = [dict(record.metadata).get(column, "") for record in records]
    there = Counter(value for value in values if value)
    if not there:
        raise UserError(
            f"no CSV beside the images has the column {column}: set --config.data.trust_column to one of its"
        )
    if unknown := [value for value in weights if value not in there]:
        known = ", ".join(value for value, _ in there.most_common(5))
        raise UserError(f"no image has {column} {unknown[0]!r}: --config.data.trust takes values such as {known}")
    return tuple(record._replace(weight=weights.get(value, 1.0)) for record, value in zip(records, values, strict=True))


def note(records: Sequence[Record]) -> list[str]:
    """Return a sentence on how many images have which weight; none where all have 1."""
    counts = Counter(record.weight for record in records)
    if counts.keys() <= {1.0}:
        return []
    parts = [f"{counted(count, 'image')} of weight {weight:g}" for weight, count in sorted(counts.items())]
    return [f"By the trust in labels: {', '.join(parts)}. Weight 0 is left out, and only weight 1 judges."]
