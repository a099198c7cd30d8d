"""The weights that come with the package: they load by name, and their card says what their files say."""

import json
import re
from pathlib import Path

import pytest
from support import ROOT, read_json

import pneumojax
from pneumojax.data.sources import phantom
from pneumojax.export import card, card_facts
from pneumojax.inference import bundle

FOLDER = ROOT / "pneumojax/weights/m1"
FILMS = ROOT.parent / "shared/data"


@pytest.fixture(scope="module")
def model():
    return pneumojax.load("m1", keep_compiled=False, keep_freed_memory=False)


def facts():
    return card_facts.from_json(
        read_json(FOLDER / card_facts.FILE), read_json(FOLDER / "config.json"), read_json(FOLDER / "parity.json")
    )


def test_the_card_is_the_one_that_its_facts_make():
    """A figure that is changed by hand, in the card or in the facts, fails."""
    assert (FOLDER / card.NAME).read_text() == card.card(facts())


def test_the_card_names_the_model_the_sources_and_the_commands(model):
    text = (FOLDER / card.NAME).read_text()
    assert f"`{model.metadata['digest']}`" in text
    assert "CC BY 4.0" in text and "NIH Clinical Center" in text
    assert "--data=children=" in text and "not a medical device" in text.lower()
    assert "No other source of images was evaluated" in text
    assert not re.search(r"/(home|work|tmp|root)/", text + json.dumps(facts()._asdict(), default=str))


def test_the_folder_is_slim_and_holds_no_name_of_a_film():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 9_000_000
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".md", ".safetensors"}
    for path in FOLDER.iterdir():
        content = path.read_bytes()
        assert b"person1" not in content and b".jpeg" not in content


def test_every_shipped_model_loads_by_its_name():
    for name in bundle.shipped():
        assert pneumojax.load(name, keep_compiled=False, keep_freed_memory=False).metadata["name"] == name


def test_it_tells_the_films_of_both_sources_apart(model):
    """It was trained on most of these: far more than a few errors would be a fault of reading or of the weights."""
    if not FILMS.exists():
        pytest.skip("the real radiographs are not beside the project")
    for source in ("kermany_224/train", "adults_224"):
        paths: list[Path] = []
        for name in ("NORMAL", "PNEUMONIA"):
            every = sorted((FILMS / source / name).iterdir())
            paths += every[:: len(every) // 24][:24]
        if source == "adults_224":  # others are labelled by a program, and were left out
            table = (FILMS / source / "films.csv").read_text().splitlines()
            read = {line.split(",")[0] for line in table if ",radiologist," in line}
            names = sorted(read)
            paths = [FILMS / source / name for name in names[:: len(names) // 40]]
        rows = model.predict(paths)
        right = [(row.decision == "pneumonia") == ("/PNEUMONIA/" in row.id) for row in rows]
        assert sum(right) >= 0.8 * len(rows), source


def test_a_prevalence_moves_probabilities_and_no_decision(model):
    rare = pneumojax.load("m1", prevalence=0.05, keep_compiled=False, keep_freed_memory=False)
    film, _ = phantom.render(3, 0, 1, 200)
    before, after = model.predict(film), rare.predict(film)
    assert after.probability < before.probability
    assert (after.decision, after.digest) == (before.decision, before.digest)
