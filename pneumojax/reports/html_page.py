"""One-file HTML pages from Jinja2 templates: every value is escaped, and nothing is loaded from elsewhere."""

import base64
import functools
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pneumojax.data.source import CLASSES

TEMPLATES = Path(__file__).with_name("templates")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a page printed on a terminal would command it


def render(template: str, **values: Any) -> str:
    """Render a template of `TEMPLATES`; its Content-Security-Policy allows only the page's own script."""
    return _environment().get_template(template).render(values)


def jpeg(image: np.ndarray, side: int) -> str:
    """Encode an image, (height, width) or (height, width, 3) uint8, as a `data:` URI of at most (side, side) pixels."""
    small = Image.fromarray(np.asarray(image, np.uint8))
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(classes=CLASSES, asset=_asset)
    environment.filters.update(jpeg=jpeg, sha256=_sha256, grouped="{:,}".format, fixed="{:.3f}".format)
    return environment


def _without_controls(value: Any) -> Any:
    """Return a value of a page; in text, control characters are escaped."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], value) if type(value) is str else value


def _asset(name: str) -> Markup:
    """Read a style sheet or script that goes into the page unchanged."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
