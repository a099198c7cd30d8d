"""The documented 30 lines of NumPy and of PyTorch read an exported model, and answer as it does."""

import re

import numpy as np
import pytest
from bundles import phantoms, random_model, written
from support import ROOT

import pneumojax
from pneumojax.models.architectures import FAMILY, Block

MODELS = {
    "m1": {"size": 150},
    "m2": {"size": 45, "blocks": FAMILY["m2"]},
    "m3": {"size": 30, "blocks": FAMILY["m3"]},
    "ensemble": {"size": 33, "members": 3},
    "own blocks": {"size": 21, "blocks": (Block(5, 0.1), Block(7, 0.0))},
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return written(random_model(**MODELS[request.param]), tmp_path_factory.mktemp("model") / "exported")


@pytest.fixture(scope="module")
def squares(folder):
    size = pneumojax.load(folder).metadata["preprocessing"]["image_size"]
    return phantoms(4, size)


def documented(function):
    """Return the function of this name in the documentation."""
    text = (ROOT / "docs/using.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [code] = [block for block in blocks if f"def {function}(" in block]
    assert len(code.splitlines()) <= 30
    names = {}
    exec(code, names)
    return names[function]


def expected(folder, squares):
    return np.asarray(pneumojax.load(folder).logits(squares[..., None].astype(np.float32) / 255))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the example leaves that to Python
def test_numpy_computes_the_logits(folder, squares):
    logit_of = documented("logit_of")
    found = [logit_of(folder, square) for square in squares]
    np.testing.assert_allclose(found, expected(folder, squares), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_pytorch_computes_the_logits(folder, squares):
    torch = pytest.importorskip("torch")
    found = documented("logits_of")(folder, torch.from_numpy(squares.copy()))
    np.testing.assert_allclose(found.numpy(), expected(folder, squares), rtol=1e-5, atol=1e-5)
