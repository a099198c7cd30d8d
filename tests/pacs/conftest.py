"""What the tests of `--mode=pacs` share."""

from collections.abc import Iterator

import pytest
from bundles import random_model, written
from pacs_server import Pacs

import pneumojax


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model with random weights, which decides either way."""
    return pneumojax.load(written(random_model(), tmp_path_factory.mktemp("model")))


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """A PACS that is empty."""
    with Pacs() as server:
        yield server
