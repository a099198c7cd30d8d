"""The page that an audit ends in: its verdict, the composition of the splits, and each finding with pictures."""

import json
from collections.abc import Callable

import numpy as np
from etils import epath

from pneumojax import page
from pneumojax.data.audit import headline
from pneumojax.errors import UserError
from pneumojax.files import write_whole

FOLDER = "audit"
FILE = f"{FOLDER}/audit.json"
PAGE = f"{FOLDER}/index.html"
SIDE = 96  # px; of a picture
MAX_GROUPS = 24  # shown of a finding, or as many single images
MAX_PER_GROUP = 6  # images
MAX_PICTURES = 48  # of a finding: with all kinds of findings, the page stays below 5 MB

Thumbnails = Callable[[str], np.ndarray | None]

LIMITS = (
    "What an audit finds, it finds by rules: look at the pictures before you remove any. What it does not look for,"
    " such as wrong labels and other parts of the body, it does not find. Not a medical device."
)


def write(workdir: epath.Path, audit: dict, thumbnails: Thumbnails) -> epath.Path:
    """Writes `audit/audit.json` and `audit/index.html` into `workdir`, and returns the path of the page.

    Args:
      workdir: local or `gs://`.
      audit: of `audit.audit`.
      thumbnails: id -> the image, (s, s) uint8; None where it cannot be read.
    """
    workdir = epath.Path(workdir)
    write_whole(workdir / FILE, json.dumps(audit, indent=2) + "\n")
    write_whole(workdir / PAGE, render(audit, thumbnails))
    return workdir / PAGE


def refuse_other_source(workdir: epath.Path, location: str) -> None:
    """Raises UserError if the workdir holds the audit of a source elsewhere, whose folder has the same name."""
    path = epath.Path(workdir) / FILE
    found = json.loads(path.read_text())["location"] if path.exists() else location
    if found != location:
        raise UserError(f"{path} is of {found}: choose another --workdir")


def render(audit: dict, thumbnails: Thumbnails) -> str:
    """The whole page; see `write`."""
    title = f"Audit of {audit['source']}"
    return page.document(
        title,
        [
            f"<header>\n<h1>{page.text(title)}</h1>\n<p>{page.text(audit['location'])}</p>\n</header>",
            page.notice(audit["notice"]),
            _verdict(audit),
            page.section("Composition", page.composition(audit["splits"])),
            *(_finding(finding, thumbnails) for finding in audit["findings"]),
            page.section("Limits of use", f"<p>{LIMITS}</p>"),
        ],
        ("report.css", "audit.css"),
    )


def _verdict(audit) -> str:
    severities = [finding["severity"] for finding in audit["findings"]]
    counted = ((severities.count(kind), kind) for kind in ("error", "warning"))
    claim = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counted if count) or "Clean"
    return (
        f'<section class="verdict{"" if severities else " better"}">\n<h2>Verdict</h2>\n'
        f"<p><strong>{claim}.</strong> {page.text(headline(audit))}</p>\n</section>"
    )


def _finding(finding, thumbnails) -> str:
    ids = finding["ids"]
    groups = [group if isinstance(group, list) else [group] for group in ids]
    single = ids and not isinstance(ids[0], list)
    shown, pictures = [], 0
    for group in groups[:MAX_GROUPS]:
        members = group[:MAX_PER_GROUP]
        pictures += len(members)
        if pictures > MAX_PICTURES:
            break
        figures = "".join(_figure(id, finding["notes"].get(id, ""), thumbnails) for id in members)
        shown.append(figures if single else _group(figures, len(group) - len(members)))
    body = f'<div class="{"thumbs" if single else "groups"}">{"".join(shown)}</div>' if shown else ""
    left = len(groups) - len(shown)
    more = f'<p class="note more">And {left:,} more: audit.json lists all.</p>' if left else ""
    return (
        f'<section class="finding {finding["severity"]}">\n'
        f"<h2>{page.text(finding['short'])}<small>{finding['severity']}</small></h2>\n"
        f"<p>{page.text(finding['what'])}</p>\n{body}\n{more}</section>"
    )


def _group(figures, left) -> str:
    more = f'<p class="note">And {left:,} more in this group.</p>' if left else ""
    return f'<div class="group"><div class="thumbs">{figures}</div>{more}</div>'


def _figure(id, note, thumbnails) -> str:
    image = thumbnails(id)
    shown = '<span class="none">no picture</span>' if image is None else page.picture(image, SIDE, id)
    name = page.text(id).replace("/", "/<wbr>")
    return f"<figure>{shown}<figcaption><b>{name}</b>{page.text(note)}</figcaption></figure>"
