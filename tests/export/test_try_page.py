"""The page of a model: one file that is whole, runs its own script alone, and carries the model's own graph."""

import base64
import gzip
import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from bundles import random_model
from support import ROOT

from pneumojax.export import try_page
from pneumojax.export.onnx_graph import film_model
from pneumojax.inference.predictions import seen_by

CARD = """---
license: "<b>"
---

# Model card

See [the docs](docs/using.md), [a site](https://example.org) and ![a film](pictures/1.png).

| a  | b   |
|:---|----:|
| 1  | <i> |
"""


@pytest.fixture(scope="module")
def model():
    return random_model()._replace(name='m1</script><script>alert("x")')


@pytest.fixture(scope="module")
def made(model):
    return try_page.page(model, CARD)


def blocks_of(content: bytes) -> dict[str, bytes]:
    """Read the blocks of data as a browser does."""
    found = re.findall(rb'<script type="text/plain" id="(\w+)">(.*?)</script>', content, re.DOTALL)
    return {name.decode(): gzip.decompress(unescaped(as_browsers_read(data))) for name, data in found}


def as_browsers_read(data: bytes) -> bytes:
    """Change what HTML changes in a script's text, whose characters stand for bytes here."""
    return re.sub(rb"\r\n?", b"\n", data.replace(b"\0", b"?"))


def unescaped(data: bytes) -> bytes:
    return re.sub(rb"=(.)", lambda match: bytes([match[1][0] - 64]), data, flags=re.DOTALL)


def test_any_bytes_survive_in_a_block():
    content = bytes(range(256)) * 3 + b"</script>\r\n<!--\0=="
    block = try_page.block("any", content)
    assert block.count(b"<") == 2, "of the element itself"
    [(name, data)] = re.findall(rb'id="(\w+)">(.*)</script>\n\Z', block, re.DOTALL)
    assert (name, unescaped(as_browsers_read(data))) == (b"any", content)
    assert len(data) < 1.1 * len(content) + 20


def test_it_carries_the_graph_and_what_the_model_has_seen(made, model):
    blocks = blocks_of(made.content)
    assert {"model", "seen", "runtime"} <= set(blocks)
    assert onnx.load_from_string(blocks["model"]).graph == film_model(model).graph
    assert np.array_equal(np.frombuffer(blocks["seen"], np.uint8), seen_by(model).ravel())
    assert blocks["runtime"].startswith(b"\0asm")


def test_only_its_own_script_and_style_may_act(made):
    text = made.content.decode("cp1252", errors="replace")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy.replace("&#39;", "'") == made.policy
    assert made.policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in made.policy and "unsafe-eval" not in made.policy.replace("wasm-unsafe-eval", "")
    for tag, attributes in (("script", ' type="module"'), ("style", "")):
        [inner] = re.findall(f"<{tag}{attributes}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in made.policy
    assert "alert(&#34;x&#34;)" in text and '<script>alert("x")' not in text, "the model's name is text"
    assert re.findall(r"<(?:img|link|iframe|object|embed|form)\b.*", text) == ['<link rel="icon" href="data:,">']
    [facts] = re.findall(r'id="facts">(.*?)</script>', text)
    assert json.loads(facts)["name"].startswith("m1</script>")


def test_all_but_the_data_is_ascii(made):
    outside = re.sub(rb'<script type="text/plain".*?</script>', b"", made.content, flags=re.DOTALL)
    assert outside.isascii()
    assert b'<meta charset="windows-1252">' in outside[:1024], "browsers look for it no further"
    assert b"Not a medical device" in outside


def test_the_card_is_shown_without_pictures_and_relative_links():
    html = try_page.card_html(CARD)
    assert "license" not in html and "<img" not in html and "style=" not in html
    assert "<h3>Model card</h3>" in html and "<th>a</th>" in html
    assert '<a href="https://example.org">a site</a>' in html and "docs/using.md" not in html
    assert "&lt;i&gt;" in html, "HTML in a card is text"


@pytest.mark.skipif(not (ROOT / "page").exists(), reason="the source of the page is not here")
def test_the_bundle_was_built_of_the_source_as_it_is():
    """Otherwise run `make page-bundle` and commit what it writes."""
    built = json.loads((try_page.BUNDLE / "built.json").read_text())
    for root, digests in ((ROOT / "page", built["sources"]), (try_page.BUNDLE, built["files"])):
        found = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in digests}
        assert found == digests
    assert {f"src/{path.name}" for path in (ROOT / "page/src").iterdir()} <= set(built["sources"])


def test_every_package_in_the_page_has_its_license():
    text = (try_page.BUNDLE / "licenses.txt").read_text()
    for name in ("onnxruntime-web", "dicom-parser", "fast-png"):
        assert re.search(rf"^{name} \d+\.\d+\.\d+ \(MIT\)$", text, re.MULTILINE)
