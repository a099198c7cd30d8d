"""Names that follow from a film and a model, so that the same film by the same model gives the same results."""

import hmac
import re
import uuid
from enum import Enum

from pneumojax.api import Model
from pneumojax.inference.predictions import Row

_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_MAX_UID = 64  # characters, in PS3.5
_NAME_DIGITS = 32
SHOWN_DIGITS = 12  # of a name, in lines and rows


class Kind(Enum):
    """What is made of a film. The value is a part of its UID: never change one."""

    REPORT = "report"
    CAPTURE = "capture"


def is_uid(text: str) -> bool:
    """Return whether this is a UID by the rules of DICOM PS3.5."""
    return len(text) <= _MAX_UID and _UID.fullmatch(text) is not None


def key_of_model(model: Model) -> str:
    """Return what stands for a model in names: its digest, and the site that it is set up for, if any."""
    return _key(model.metadata["digest"], model.site)


def key_of(row: Row) -> str:
    """Return the `key_of_model` of the model that made the row."""
    return _key(row.digest, row.site)


def _key(digest: str, site: str) -> str:
    return f"{digest}/{site}" if site else digest


def result_uid(kind: Kind, film: str, model: str) -> str:
    """Return the SOP Instance UID of a result: a UUID (version 5) of the film's UID and the `key_of` its model.

    A PACS recognises a result that it already has by this.
    """
    return _derived("instance", kind.value, film, model)


def series_uid(kind: Kind, film: str, model: str) -> str:
    """Return the UID of the series that holds the result alone."""
    return _derived("series", kind.value, film, model)


def _derived(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(('pneumojax', *parts))).int}"


def name_of(film: str, model: str, key: bytes) -> str:
    """Return the name of a film in the queue, in lines and in rows: hex digits that say nothing without the key."""
    return hmac.digest(key, f"{film}/{model}".encode(), "sha256").hex()[:_NAME_DIGITS]
