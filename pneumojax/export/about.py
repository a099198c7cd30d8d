"""What only the user can state of a model and its data: a TOML or JSON file for the model card."""

import tomllib
from collections.abc import Mapping
from typing import Any

from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.files import expanded, read_json

SHOW_PICTURES = "show_pictures"  # whether the card may show films: true or false
SITES = "sites"  # a table for each site: its name, and `OF_SITES`

OF_THE_MODEL = (
    "developer", "contact", "license", "citation", "release_stage", "release_date", "availability",
    "regulatory_approval", "background", "objectives", "study_design", "intended_use", "intended_users", "population",
    "out_of_scope", "risks", "biases", "clinical_risk_level", "maintenance", "security", "funding", "third_party",
    "stakeholders", "patient_involvement", "ethics", "consent", "protocol", "registration", "competing_interests",
    "sample_size", "publications",
)  # fmt: skip
OF_SITES = (
    "title", "url", "license", "citation", "setting", "dates", "eligibility", "acquisition", "labels",
    "label_rationale", "annotators", "annotation", "agreement", "deidentification", "missing_data",
)  # fmt: skip


def read(place: str) -> dict[str, Any]:
    """Read what the user states; nothing if `place` is empty.

    Returns:
      Texts by the names of `OF_THE_MODEL`, `SHOW_PICTURES` if it is there, and `SITES`: texts by the names of
      `OF_SITES`, by site.

    Raises:
      UserError: the file cannot be read, or a field is unknown or of another kind.
    """
    if not place:
        return {}
    path = expanded(place)
    try:
        content = tomllib.loads(path.read_bytes().decode()) if path.suffix.lower() == ".toml" else read_json(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"export.about: cannot read {place} ({reason}): name a TOML or JSON file") from None
    except ValueError as error:  # also where it is no UTF-8
        kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
        raise UserError(f"export.about: {place} is no {kind} ({error}): correct it") from None
    return _checked(content, place)


def _checked(content: Any, place: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"export.about: {place} has no fields: write them as name = value")
    sites = content.get(SITES, {})
    if not isinstance(sites, dict) or not all(isinstance(site, dict) for site in sites.values()):
        raise UserError(f"export.about: {SITES} in {place} is no table of sites: write [{SITES}.NAME] above each")
    if not isinstance(content.get(SHOW_PICTURES, False), bool):
        raise UserError(f"export.about: {SHOW_PICTURES} in {place} must be true or false")
    texts = {name: value for name, value in content.items() if name not in (SITES, SHOW_PICTURES)}
    _check_texts(texts, (*OF_THE_MODEL, SITES, SHOW_PICTURES), place)
    for site in sites.values():
        _check_texts(site, OF_SITES, place)
    return content


def _check_texts(texts: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for name, value in texts.items():
        if name not in known:
            raise unknown(f"field of {place}", name, known)
        if not isinstance(value, str):
            raise UserError(f"export.about: {name} in {place} must be a text, not {value!r}")
