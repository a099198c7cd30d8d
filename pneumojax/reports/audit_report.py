"""The report of an audit: one HTML page, and the findings as JSON."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pneumojax.data.audit.findings import headline
from pneumojax.reports import html_page
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json, write_whole
from pneumojax.runtime.wording import counted
from pneumojax.runtime.workdir import AUDIT_JSON, AUDIT_REPORT

SIDE = 96  # px; of an image on the page
MAX_GROUPS = 24  # per finding; or as many single images
MAX_PER_GROUP = 6  # images
MAX_PICTURES = 48  # per finding: with findings of every kind, the page stays below 5 MB

Thumbnails = Callable[[str], np.ndarray | None]  # id -> the image, (s, s) uint8; None if it cannot be read


class Member(NamedTuple):
    """An image of a finding: what is noted about it, and its pixels, (s, s) uint8, or None if it cannot be read."""

    id: str
    note: str
    image: np.ndarray | None


class Group(NamedTuple):
    """Images that belong together, such as copies; `omitted` counts those that the page does not show."""

    members: list[Member]
    omitted: int


def write(workdir: epath.Path, audit: dict[str, Any], thumbnails: Thumbnails) -> epath.Path:
    """Write what `findings.audit` returned as audit/audit.json and audit/index.html; return the path of the page."""
    write_whole(workdir / AUDIT_JSON, json.dumps(audit, indent=2) + "\n")
    write_whole(workdir / AUDIT_REPORT, render(audit, thumbnails))
    return workdir / AUDIT_REPORT


def refuse_other_source(workdir: epath.Path, location: str) -> None:
    """Refuse a workdir that holds the audit of another source.

    Raises:
      UserError: its audit is of a source in another place.
    """
    audit = read(workdir)
    if (other := audit.get("location", location)) != location:
        raise UserError(f"{workdir / AUDIT_JSON} is the audit of {other}: choose another --workdir")


def read(workdir: epath.Path) -> dict[str, Any]:
    """Read the audit that `write` wrote; empty if there is none, or it is damaged."""
    with suppress(KeyError, OSError, TypeError, ValueError, AttributeError):
        audit = read_json(workdir / AUDIT_JSON)
        if headline(audit):
            return audit
    return {}


def render(audit: dict[str, Any], thumbnails: Thumbnails) -> str:
    """Render the page; see `write`."""
    severities = [finding["severity"] for finding in audit["findings"]]
    counts = [counted(severities.count(kind), kind) for kind in ("error", "warning") if kind in severities]
    return html_page.render(
        "audit_report.html.jinja",
        title=f"Audit of {audit['source']}",
        facts=audit["location"],
        notice=audit["notice"],
        claim=", ".join(counts) or "No findings",
        headline=headline(audit),
        splits=audit["splits"],
        findings=[_finding(finding, thumbnails) for finding in audit["findings"]],
        side=SIDE,
    )


def _finding(finding: dict[str, Any], thumbnails: Thumbnails) -> dict[str, Any]:
    """Add the `groups` that the page shows, how many are `omitted`, and whether each is a `single` image."""
    groups = [ids if isinstance(ids, list) else [ids] for ids in finding["ids"]]
    shown: list[Group] = []
    pictures = 0
    for ids in groups[:MAX_GROUPS]:
        pictures += len(ids[:MAX_PER_GROUP])
        if pictures > MAX_PICTURES:
            break
        members = [Member(id, finding["notes"].get(id, ""), thumbnails(id)) for id in ids[:MAX_PER_GROUP]]
        shown.append(Group(members, len(ids) - len(members)))
    single = bool(groups) and not isinstance(finding["ids"][0], list)
    return finding | {"groups": shown, "omitted": len(groups) - len(shown), "single": single}
