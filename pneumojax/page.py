"""HTML pages that are one file each: without outside resources, every text escaped."""

import base64
import hashlib
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pneumojax.data.records import CLASSES

STOPS = 500  # of a slider from 0 to 1


def document(
    title: str, parts: Iterable[str], styles: tuple[str, ...] = ("report.css",), script: str | None = None
) -> str:
    """The page. No script runs in it but the one that is given here: names and texts cannot bring another.

    Args:
      title: plain text.
      parts: HTML; empty ones are left out.
      styles: names of the style sheets, which lie beside this file.
      script: name of the script, which lies there too.
    """
    code = "" if script is None else Path(__file__).with_name(script).read_text()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; " if code else ""
    css = "".join(Path(__file__).with_name(name).read_text() for name in styles)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"{allowed}style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{text(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n"
        + (f"<script>{code}</script>\n" if code else "")
        + "</body>\n</html>\n"
    )


def text(value) -> str:
    """The value as text in HTML."""
    return html.escape(str(value))


def section(title: str, *parts: str) -> str:
    """HTML under a heading of plain text."""
    return f"<section>\n<h2>{text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def scroll(content: str, label: str) -> str:
    """HTML that scrolls sideways where it is too wide; focusable, so that a keyboard can scroll it too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{content}</div>'


def notice(sentence: str | None) -> str:
    """What every reader must see, if anything."""
    return f'<p class="notice" role="note">{text(sentence)}</p>' if sentence else ""


def table(header: Iterable[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table of plain text, the first cell of each row its name, that scrolls where it is too wide."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = []
    for name, *cells in rows:
        shown = "".join(f"<td>{text(cell)}</td>" for cell in cells)
        body.append(f'<tr><th scope="row">{text(name)}</th>{shown}</tr>')
    whole = f'<table class="metrics wide"><thead><tr>{head}</tr></thead>\n<tbody>{"".join(body)}</tbody></table>'
    return scroll(whole, label)


def composition(splits: Mapping[str, Mapping]) -> str:
    """A table of the splits: name -> what `splits.composition` gives of it."""
    rows = []
    for name, found in splits.items():
        numbers = (found["n"], found["normal"], found["pneumonia"])
        cells = "".join(f"<td>{number:,}</td>" for number in numbers)
        rows.append(f'<tr><th scope="row">{text(name)}</th>{cells}<td>{_majority(found)}</td></tr>')
    names = ("Split", "Images", "Normal", "Pneumonia", "Majority baseline")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = f'<table class="metrics"><thead><tr>{head}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table>'
    return scroll(table, "Composition of the splits")


def _majority(found) -> str:
    if found["majority_accuracy"] is None:
        return "no labels"
    larger = CLASSES[found["pneumonia"] >= found["normal"]]
    return f"{found['majority_accuracy']:.3f}<small>always answering {larger}</small>"


def picture(image: np.ndarray, side: int, alt: str) -> str:
    """An image, (height, width) or (height, width, 3) uint8, as JPEG of at most (side, side) within the page."""
    small = Image.fromarray(np.asarray(image, np.uint8))
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="{text(alt)}" src="data:image/jpeg;base64,{data}">'


def panels(parts: Iterable[str]) -> str:
    """Figures side by side where there is room; empty ones are left out."""
    return '<div class="panels">\n' + "\n".join(part for part in parts if part) + "\n</div>"


def confusion_at_any(split: str, labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> str:
    """A confusion matrix that follows a slider; report.js moves it.

    Args:
      split: its name.
      labels, probabilities: (n,) of its images.
      threshold: where the slider begins.
    """
    grid = np.arange(STOPS + 1) / STOPS
    called = {label: np.sort(probabilities[labels == label]) for label in (0, 1)}
    counts = {
        name: (len(called[label]) - np.searchsorted(called[label], grid - 1e-12)).tolist()
        for name, label in (("fp", 0), ("tp", 1))
    }
    at = round(threshold * STOPS)
    start = {"tp": counts["tp"][at], "fp": counts["fp"][at]}
    start |= {"fn": len(called[1]) - start["tp"], "tn": len(called[0]) - start["fp"]}
    data = text(json.dumps(counts | {"n0": len(called[0]), "n1": len(called[1])}))
    return (
        f'<div class="any" data-counts="{data}"><p><label>Threshold <input type="range" min="0" max="{STOPS}"'
        f' value="{at}"> <output>{at / STOPS:.3f}</output></label> <span class="rates"></span></p>\n'
        f"{confusion(start, f'<b>{text(split)}</b>, at the threshold chosen above')}</div>"
    )


def confusion(counts: Mapping[str, int], caption: str) -> str:
    """A confusion matrix of `counts`, the keys `tp`, `fp`, `fn`, `tn`, under a caption of HTML."""
    rows = []
    for truth, keys in zip(CLASSES, (("tn", "fp"), ("fn", "tp")), strict=True):
        total = max(1, sum(counts[key] for key in keys))
        cells = "".join(
            f'<td style="--share:{counts[key] / total:.3f}">{counts[key]:,}'
            f"<small>{counts[key] / total:.1%}</small></td>"
            for key in keys
        )
        rows.append(f'<tr><th scope="row">is {truth}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">called {answer}</th>' for answer in CLASSES)
    return (
        f'<table class="confusion"><caption>{caption}</caption>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    )
