"""What the tests of `--mode=pacs` share."""

import gc
import threading
import warnings
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


@pytest.fixture
def sockets_collected() -> Iterator[None]:
    """Collect the sockets that pynetdicom leaves open where its peer ends an association."""
    yield
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("pynetdicom."):  # it holds its socket as long as it runs
            thread.join(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
