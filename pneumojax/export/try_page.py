"""A trained model as a page of one file, which computes in the browser and can send nothing anywhere.

The page is assembled of what the package carries in `export/page`: `make page-bundle` builds that from `page/` of the
source. The graph is that of `onnx_graph.film_model`. Data lie in the page gzipped, as text of the one-byte encoding
windows-1252, which takes 1.6 % more than the bytes themselves; base64 would take 33 %.
"""

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from pneumojax.export.onnx_graph import NOTICE, film_model
from pneumojax.inference.predictions import seen_by
from pneumojax.inference.trained_model import TrainedModel

NAME = "try.html"
BUNDLE = Path(__file__).with_name("page")
_TEMPLATE, _SCRIPT, _STYLE, _LICENSES = "try.html.jinja", "page.js", "page.css", "licenses.txt"
_BLOCKS = "<!-- blocks of data -->"
_ESCAPED = b"=\0\r<"  # the escape itself first; HTML would change the others, or end the block by them
_RAISED_BY = 64
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_RELATIVE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


class Page(NamedTuple):
    """A page.

    Attributes:
      content: the file, in windows-1252.
      policy: its Content-Security-Policy, which a server may send too.
    """

    content: bytes
    policy: str


def page(model: TrainedModel, card: str) -> Page:
    """Return the page of a model.

    Args:
      model: its calibration is that at which the page starts.
      card: the model card, Markdown with or without front matter.
    """
    script, style = (_text(name) for name in (_SCRIPT, _STYLE))
    policy = policy_of(script, style)
    data = {
        "model": gzip.compress(film_model(model).SerializeToString(), mtime=0),
        "seen": gzip.compress(seen_by(model).tobytes(), mtime=0),
        "licenses": gzip.compress(_text(_LICENSES).encode(), mtime=0),
    } | {path.name.removesuffix(".wasm.gz"): path.read_bytes() for path in sorted(BUNDLE.glob("*.wasm.gz"))}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(BUNDLE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    text = environment.get_template(_TEMPLATE).render(
        name=model.name,
        version=model.version,
        digest=model.digest,
        notice=NOTICE,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        facts=Markup(_json(model)),
        card=card_html(card),
        blocks=Markup(_BLOCKS),
    )
    start, end = (part.encode("ascii", "xmlcharrefreplace") for part in text.split(_BLOCKS))
    return Page(b"".join([start, *(block(name, content) for name, content in data.items()), end]), policy)


def policy_of(script: str, style: str) -> str:
    """Return the policy by which this script alone runs, this style alone applies, and nothing is loaded or sent."""
    parts = ["default-src 'none'", f"script-src 'sha256-{_sha256(script)}' 'wasm-unsafe-eval'"]
    parts += [f"style-src 'sha256-{_sha256(style)}'", "img-src blob: data:", "base-uri 'none'", "form-action 'none'"]
    return "; ".join(parts)


def block(name: str, content: bytes) -> bytes:
    """Return an element of a page that holds these bytes."""
    for byte in _ESCAPED:
        content = content.replace(bytes([byte]), bytes([_ESCAPED[0], byte + _RAISED_BY]))
    return b'<script type="text/plain" id="%b">%b</script>\n' % (name.encode(), content)


def card_html(card: str) -> Markup:
    """Return a model card as HTML below a heading of the second level: without front matter and pictures."""
    text = _RELATIVE_LINK.sub(r"\1", _PICTURE.sub(r"\1", _FRONT_MATTER.sub("", card)))
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token in tokens:
        token.attrs.pop("style", None)  # the page's policy allows none
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return Markup(reader.renderer.render(tokens, reader.options, {}))


def _json(model: TrainedModel) -> str:
    facts = {"name": model.name, "version": model.version, "digest": model.digest, "image_size": model.image_size}
    facts |= {"site": model.site.name if model.site else "", "calibration": model.calibration._asdict()}
    text = json.dumps(facts)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _text(name: str) -> str:
    return (BUNDLE / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
