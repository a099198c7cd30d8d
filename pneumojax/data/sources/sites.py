"""Several sources as one, each a site: NAME=PLACE,NAME=PLACE."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from pneumojax.data import source as sources
from pneumojax.data.source import CLASSES, WHOLE, Record, Source
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded
from pneumojax.runtime.wording import counted

_NAME = r"[^\W_][\w.-]{0,49}"
_SITE = re.compile(rf"{_NAME}=")
_BETWEEN = re.compile(rf",(?={_NAME}=)")


def places(location: str) -> dict[str, str]:
    """Return the place of each site that a location names, by the site's name; empty where it names one plain place.

    A path that exists is a plain place, whatever its name. A comma separates two sites where NAME= follows, unless the
    path with the comma exists. A place may contain further `=`.

    Raises:
      UserError: two sites have one name.
    """
    if not _SITE.match(location) or _exists(location):
        return {}
    found: dict[str, str] = {}
    pieces = _BETWEEN.split(location)
    while pieces:
        name, _, place = pieces.pop(0).partition("=")
        longer = list(accumulate([place, *pieces], "{},{}".format))
        further = max((count for count, path in enumerate(longer) if count and _exists(path)), default=0)
        del pieces[:further]
        if name in found:
            raise UserError(f"two sites are named {name}: give each site a name of its own")
        found[name] = longer[further]
    return found


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name, no such home, or a NUL in it
        return False


def written(places: Mapping[str, str]) -> str:
    """Return the location of several sites, which `places` reads."""
    return ",".join(f"{name}={place}" for name, place in places.items())


def absolute(location: str) -> str:
    """Return a location with absolute paths, as `Source.location` has them; nothing is opened."""
    found = places(location)
    return written({name: _absolute(place) for name, place in found.items()}) if found else _absolute(location)


def _absolute(place: str) -> str:
    return place if place == "phantom" or place.startswith("tfds:") else str(expanded(place).resolve())


def is_there(location: str) -> bool:
    """Return whether every path of a location exists; what is not a path always does."""
    every = places(location).values() or [location]
    return all(place == "phantom" or place.startswith("tfds:") or _exists(place) for place in every)


def name_of(location: str) -> str:
    """Return a location's short name, fit for a file name; it need not exist."""
    return sources.name_of("_".join(places(location)) or location)


def title_of(location: str) -> str:
    """Return what to call a location in a headline: the names of its sites, or else the last part of its path."""
    return ", ".join(places(location)) or location.rstrip("/").rpartition("/")[2]


def joined(sites: Mapping[str, Source]) -> Source:
    """Return one source of all sites' images.

    A record's id and patient start with the name of its site. If any site has splits, the images of a site without
    splits count as train.

    Raises:
      UserError: every site has images of one class only, so that its site would tell an image's class.
    """
    _refuse_sites_as_classes(sites)
    divided = any(record.split != WHOLE for source in sites.values() for record in source.records)
    records = [
        _of_site(name, record, "train" if divided and record.split == WHOLE else record.split)
        for name, source in sites.items()
        for record in source.records
    ]
    fingerprints = [f"{name}\0{source.fingerprint}\n" for name, source in sites.items()]
    notices = [f"{name}: {source.notice}" for name, source in sites.items() if source.notice]
    parts = {name: source._replace(records=()) for name, source in sites.items()}
    return Source(
        name=sources.name_of("_".join(sites)),
        location=written({name: source.location for name, source in sites.items()}),
        records=tuple(sorted(records, key=lambda record: record.id)),
        fingerprint=hashlib.sha256("".join(fingerprints).encode()).hexdigest(),
        read=partial(_read, parts),
        notice=" ".join(notices) or None,
        remarks=tuple(_remarks(sites, divided)),
        parts=tuple(parts.items()),
    )


def _of_site(name: str, record: Record, split: str) -> Record:
    id, patient = f"{name}/{record.id}", f"{name}/{record.patient}"
    return record._replace(id=id, patient=patient, split=split, site=name)


def _read(parts: Mapping[str, Source], record: Record, size: int) -> np.ndarray:
    """`Source.read`."""
    return parts[record.site].read(sources.within_site(record), size)


def _classes(records: Iterable[Record]) -> list[int]:
    return sorted({record.label for record in records if record.label is not None})


def _refuse_sites_as_classes(sites: Mapping[str, Source]) -> None:
    classes = {name: _classes(source.records) for name, source in sites.items()}
    if max(map(len, classes.values())) == 1 and len({label for labels in classes.values() for label in labels}) > 1:
        named = ", ".join(f"{name} only {CLASSES[labels[0]]}" for name, labels in classes.items() if labels)
        raise UserError(
            f"every site has images of one class only ({named}), so a model would learn the site, not the disease: give"
            " a site with both classes"
        )


def _remarks(sites: Mapping[str, Source], divided: bool) -> list[str]:
    """Return the remarks on each site, with its name."""
    remarks: list[str] = []
    for name, source in sites.items():
        own = [_composition(source.records), *source.remarks]
        if len(labels := _classes(source.records)) == 1 and len(sites) > 1:
            own.append(f"All labels are {CLASSES[labels[0]]}: a model may learn the site instead of the disease.")
        if divided and any(record.split == WHOLE for record in source.records):
            own.append("It has no splits: its images count as train.")
        remarks += [f"{name}: {sentence}" for sentence in own]
    return remarks


def _composition(records: Sequence[Record]) -> str:
    counts = [sum(record.label == label for record in records) for label in (0, 1)]
    named = " and ".join(f"{count:,} {name}" for count, name in zip(counts, CLASSES, strict=True))
    return counted(len(records), "image") + (f", {named}." if any(counts) else ".")
