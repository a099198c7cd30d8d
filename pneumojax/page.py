"""HTML pages that are one file each: without scripts, without outside resources, every text escaped."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("normal", "pneumonia")


def document(title: str, parts: Iterable[str], styles: tuple[str, ...] = ("report.css",)) -> str:
    """The page.

    Args:
      title: plain text.
      parts: HTML; empty ones are left out.
      styles: names of the style sheets, which lie beside this file.
    """
    css = "".join(Path(__file__).with_name(name).read_text() for name in styles)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{text(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
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


def picture(image: np.ndarray, side: int, alt: str) -> str:
    """An image, (height, width) uint8, as JPEG of at most (side, side) within the page."""
    small = Image.fromarray(np.asarray(image, np.uint8))
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="{text(alt)}" src="data:image/jpeg;base64,{data}">'


def panels(parts: Iterable[str]) -> str:
    """Figures side by side where there is room; empty ones are left out."""
    return '<div class="panels">\n' + "\n".join(part for part in parts if part) + "\n</div>"


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
